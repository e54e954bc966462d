"""Actions read out of one observation or of two in a row, and whether the task is done."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.control.episodes import Frames
from rl_encoders import VisualEncoder
from rl_encoders.encoder import HEADS
from rl_encoders.shift import draw_shifts, shift
from vie import VieError

TASKS = {"clone": 1, "inverse": 2, "success": 1}
"""How many observations in a row each task reads: behaviour cloning, inverse dynamics, whether the task is done."""

Read = Callable[[Tensor], Tensor]
"""From the numbers of frames (B, K) to what an encoder makes of them, (B, K * D)."""


@dataclass(frozen=True)
class ProbeConfig:
    """How actions are read out.

    Attributes:
        task: One of ``TASKS``.
        steps: Of Adam.
        batch: Samples in each.
        lr: Of the read-out.
        trunk_lr: Of a trunk that is trained, its last stage; earlier ones less, by the encoder's layer decay.
        hidden: Units of its two hidden layers.
        shift: Pixels that training pictures of a trained trunk are shifted by at most, along each axis (DrQ).
        tests: Times that the held-out episodes are tested on, evenly over training.
        seed: Of initialisation and batches.
    """

    task: str = "clone"
    steps: int = 3000
    batch: int = 256
    lr: float = 1e-3
    trunk_lr: float = 1e-4
    hidden: int = 256
    shift: int = 4
    tests: int = 10
    seed: int = 0


@dataclass(frozen=True)
class ProbeResult:
    """Share of the held-out targets' variance that is explained, the mean over their dimensions.

    Of success, which is 0 or 1, it is the Brier skill score.

    Attributes:
        final: After the last step.
        best: Of all tests; it has seen the held-out episodes.
        steps: At which it was tested.
        curve: At each.
    """

    final: float
    best: float
    steps: list[int]
    curve: list[float]


def probe(frames: Frames, encoder: VisualEncoder, config: ProbeConfig, kept: Tensor | None = None) -> ProbeResult:
    """Trains a read-out on some episodes and tests it on the others.

    Args:
        frames: Of all episodes.
        encoder: Frozen, or trained along with the read-out: a copy of it.
        config: The task and how it is trained.
        kept: (N, ...) of a frozen encoder: ``keep_features``, which several probes may share.

    Raises:
        VieError: There is no such task, no held-out episode, or nobody says which frames are a success.
    """
    if config.task not in TASKS:
        raise VieError(f"there is no task {config.task!r}: give one of {', '.join(TASKS)}")
    train, test = samples(frames, config.task)
    if len(train) == 0 or len(test) == 0:
        raise VieError("no episode is held out, or all are: read more episodes")
    wanted = _wanted(frames, config.task)
    mean, scale = wanted[train[:, 0]].mean(dim=0), wanted[train[:, 0]].std(dim=0)
    moving = scale > 1e-6  # the others tell nothing
    torch.manual_seed(config.seed)
    encoder = copy.deepcopy(encoder).train()
    width = TASKS[config.task] * encoder.output_dim
    device = encoder.device
    targets = ((wanted - mean)[:, moving] / scale[moving]).to(device)
    readout = nn.Sequential(
        nn.BatchNorm1d(width),
        nn.Linear(width, config.hidden),
        nn.ReLU(),
        nn.Linear(config.hidden, config.hidden),
        nn.ReLU(),
        nn.Linear(config.hidden, targets.shape[1]),
    ).to(device)
    groups = encoder.param_groups(config.trunk_lr)
    optimizer = torch.optim.Adam(
        [
            {"name": "readout", "params": readout.parameters(), "lr": config.lr},
            *(group | {"lr": config.lr} if group["name"] == HEADS else group for group in groups),
        ]
    )
    if encoder.trunk.is_trained:
        seen = _looking(frames, encoder, config.shift)
    else:
        seen = _reading(keep_features(frames, encoder) if kept is None else kept, encoder)
    chance = torch.Generator().manual_seed(config.seed)
    tested_at = {round(config.steps * part / config.tests) for part in range(1, config.tests + 1)}
    curve: list[float] = []
    for step in range(1, config.steps + 1):
        batch = train[torch.randint(len(train), (config.batch,), generator=chance)]
        loss = F.mse_loss(readout(seen(batch)), targets[batch[:, 0].to(device)])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in tested_at:
            curve.append(_explained(test, readout, seen, targets, encoder, config.batch))
            readout.train()
            encoder.train()
    encoder.verify()
    return ProbeResult(curve[-1], max(curve), sorted(tested_at), curve)


def samples(frames: Frames, task: str) -> tuple[Tensor, Tensor]:
    """Numbers of the frames that each sample sees, (M, K), the first being the one whose action it is.

    Returns:
        Those of training episodes, and those of held-out ones.
    """
    count = TASKS[task]
    numbers = torch.arange(len(frames.actions))
    if count > 1:
        numbers = numbers[~frames.last]
    rows = numbers[:, None] + torch.arange(count)
    held_out = frames.held_out[numbers]
    return rows[~held_out], rows[held_out]


def _wanted(frames: Frames, task: str) -> Tensor:
    """(N, A) what is to be told of each frame."""
    if task != "success":
        return frames.actions
    if frames.success is None:
        raise VieError("this dataset does not say at which frames the task is done: leave the task success out")
    return frames.success


def keep_features(frames: Frames, encoder: VisualEncoder, batch: int = 64) -> Tensor:
    """What is kept of a frozen trunk's taps at every frame: (N, ...) on the CPU."""
    with torch.no_grad():
        parts = [
            encoder.features(frames.clips(part, encoder.sampling)).cpu()
            for part in tqdm(torch.arange(len(frames.pixels)).split(batch), unit="batch", desc="encode", leave=False)
        ]
    return torch.cat(parts)


def _reading(kept: Tensor, encoder: VisualEncoder) -> Read:
    def read(rows: Tensor) -> Tensor:
        return encoder.read([kept[rows.flatten()].to(encoder.device)]).unflatten(0, (-1, rows.shape[1])).flatten(1)

    return read


def _looking(frames: Frames, encoder: VisualEncoder, most_shift: int) -> Read:
    def look(rows: Tensor) -> Tensor:
        clips = frames.clips(rows.flatten(), encoder.sampling)
        if encoder.training and most_shift:
            together = clips.unflatten(0, (-1, rows.shape[1]))
            clips = shift(together, draw_shifts(len(together), most_shift)).flatten(0, 1)
        vectors: Tensor = encoder(clips)
        return vectors.unflatten(0, (-1, rows.shape[1])).flatten(1)

    return look


@torch.no_grad()
def _explained(test: Tensor, readout: nn.Module, seen: Read, targets: Tensor, encoder: nn.Module, batch: int) -> float:
    readout.eval()
    encoder.eval()
    predicted = torch.cat([readout(seen(part)) for part in _parts(test, batch)])
    wanted = targets[test[:, 0].to(targets.device)]
    left = (wanted - predicted).square().mean(dim=0)
    # Against the mean of the training actions, which is 0: what a read-out without eyes would say.
    return (1 - left / wanted.square().mean(dim=0).clamp(min=1e-6)).mean().item()


def _parts(rows: Tensor, size: int) -> Iterator[Tensor]:
    yield from rows.split(size)
