"""The loop of transfer training, and the test on held-out videos."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.transfer.config import Schedule, TransferConfig
from benchmarks.transfer.networks import Classifier, Probe
from benchmarks.transfer.readouts import Place, summed_loss
from benchmarks.transfer.task import Task
from pretrain.config import OptimConfig
from pretrain.data.clips import EvalClips, TrainClips, workers_for
from pretrain.data.instances import whole_videos
from pretrain.data.prefetch import stream
from pretrain.data.readers import ClipReader
from pretrain.optim import learning_rate, norm_parameters
from pretrain.timing import progress_interval
from vie import Sampling, VieError
from vie.video import augment
from vie.video.apply import Apply, apply_draw, compiled_apply_draw
from vie.video.pixels import crop_resize, normalise

TOP = 5
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Score:
    """Accuracy of one read-out, in per cent of the labelled test videos.

    Attributes:
        column: Label column.
        place: What was read.
        shuffled: Whether the frames were shown out of order.
        top1, top5: Per cent.
        videos: Test videos.
    """

    column: str
    place: Place
    shuffled: bool
    top1: float
    top5: float
    videos: int


@dataclass(frozen=True)
class Bench:
    """Where the clips of an evaluation come from and where they go.

    Attributes:
        config: The task and its protocol.
        seed: Of new weights, the data order and the augmentation.
        task, reader, sampling: The videos, their pixels, and the clip that the encoder wants.
        device: Where the network is.
        embeds: Whether the encoder's embedding was trained.
    """

    config: TransferConfig
    seed: int
    task: Task
    reader: ClipReader
    sampling: Sampling
    device: torch.device
    embeds: bool = True

    @property
    def batch_size(self) -> int:
        """Clips in a training step: what is wanted, or as many videos as there are."""
        return min(self.config.data.batch_size, len(self.task.train))

    @property
    def apply(self) -> Apply:
        """How training clips are augmented."""
        compiles = self.config.runtime.compile and self.device.type == "cuda"
        return compiled_apply_draw() if compiles else apply_draw

    def test_clips(self, train: bool = False) -> EvalClips:
        """The centre-cropped clips of the test videos, or of the training videos."""
        return EvalClips(
            self.task.shards,
            self.task.train if train else self.task.test,
            self.reader,
            self.sampling,
            clips=self.config.data.clips,
            batch_size=self.config.data.batch_size,
        )

    def train_clips(self, steps: int) -> TrainClips:
        """Augmented clips: a function of (seed, step), as in pretraining."""
        return TrainClips(
            self.task.shards,
            whole_videos(self.task.shards, self.task.train),
            self.reader,
            self.sampling,
            self.config.augmentation,
            batch_size=self.batch_size,
            seed=self.seed,
            steps=steps,
        )


def train(
    bench: Bench, network: Probe | Classifier, schedule: Schedule, report: Callable[[int, list[Score]], None]
) -> None:
    """Trains a network's parameters that take a gradient, and reports its scores on the way and at the end."""
    optimizer = _optimizer(network, schedule)
    rate = OptimConfig(lr=schedule.lr, drops=schedule.drops)
    clips = bench.train_clips(schedule.steps)
    labels = {column: bench.task.labels(column, bench.task.train, bench.device) for column in bench.task.classes}
    network.train()
    loss = torch.zeros(())
    batches = stream(
        clips, range(schedule.steps), workers_for(bench.reader, bench.config.data.workers), _pins(bench.device)
    )
    bar = tqdm(batches, "train", schedule.steps, unit="step", leave=False, mininterval=progress_interval())
    for step, batch in enumerate(bar):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(rate, step)
        # Where no video of a batch can be read, its clips are black and nobody's.
        if not batch.is_empty:
            frames = batch.frames.to(bench.device, non_blocking=True)
            size, mean, std = bench.sampling.size, network.model.mean, network.model.std
            clip = augment(frames, batch.drawn, size, batch.boxes, mean, std, bench.apply)
            instances = torch.from_numpy(batch.instances).to(bench.device, non_blocking=True)
            loss = summed_loss(network(clip), {column: known[instances] for column, known in labels.items()})
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        last = step + 1 == schedule.steps
        if last or (schedule.test_every and (step + 1) % schedule.test_every == 0):
            if not torch.isfinite(loss):
                raise VieError(f"the loss is {loss.item()} at step {step + 1}: lower the learning rate")
            report(step + 1, test(bench, network))
            network.train()


@torch.no_grad()
def test(bench: Bench, network: Probe | Classifier) -> list[Score]:
    """Scores on the test videos: class probabilities averaged over clips; in order, and shuffled if asked for."""
    network.eval()
    return [
        score
        for shuffled in ((False, True) if bench.config.data.shuffled else (False,))
        for score in _test(bench, network, shuffled)
    ]


def _test(bench: Bench, network: Probe | Classifier, shuffled: bool) -> Iterator[Score]:
    clips = bench.test_clips()
    sums: dict[tuple[str, Place], Tensor] = {}
    seen = torch.zeros(len(bench.task.test), dtype=torch.bool, device=bench.device)
    batches = stream(
        clips, range(len(clips)), workers_for(bench.reader, bench.config.data.workers), _pins(bench.device)
    )
    for batch in tqdm(batches, "test", len(clips), unit="batch", leave=False, delay=2):
        if len(batch.positions) == 0:
            continue
        frames = batch.frames.to(bench.device, non_blocking=True)
        if shuffled:
            frames = _shuffle(frames, bench.seed)
        boxes = torch.from_numpy(batch.boxes).to(bench.device)
        positions = torch.from_numpy(batch.positions).to(bench.device)
        seen[positions] = True
        clip = crop_resize(frames, boxes, bench.sampling.size)
        for key, logits in network(normalise(clip, network.model.mean, network.model.std)).items():
            if key not in sums:
                sums[key] = torch.zeros(len(seen), logits.shape[1], device=bench.device)
            sums[key].index_add_(0, positions, logits.float().softmax(dim=1))
    missing = int((~seen).sum())
    if missing:
        logger.warning(
            "%d of %d test videos cannot be read, and are left out: prepare the corpus again", missing, len(seen)
        )
    if not sums:
        raise VieError("none of the test videos can be read: prepare the corpus again")
    for (column, place), total in sums.items():
        labels = bench.task.labels(column, bench.task.test, bench.device)
        asked = seen & (labels >= 0)
        if not asked.any():
            raise VieError(f"no test video with a label {column!r} can be read: prepare the corpus again")
        ranked = total[asked].topk(min(TOP, total.shape[1]), dim=1).indices == labels[asked][:, None]
        top1, top5 = (100 * ranked[:, :count].any(dim=1).float().mean().item() for count in (1, TOP))
        yield Score(column, place, shuffled, top1, top5, int(asked.sum()))


def _shuffle(frames: Tensor, seed: int) -> Tensor:
    """The frames of every clip (B, T, H, W, 3) in an order of its own."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(frames.shape[:2], generator=generator).argsort(dim=1).to(frames.device)
    return frames[torch.arange(len(frames), device=frames.device)[:, None], order]


def _optimizer(network: Probe | Classifier, schedule: Schedule) -> torch.optim.SGD:
    """SGD that decays the linear heads, and the trunk's weights too if the schedule says so."""
    exempt = norm_parameters(network.model)
    trunk = [p for p in network.model.parameters() if p.requires_grad]
    decayed = [p for p in trunk if schedule.decay_all and id(p) not in exempt]
    kept = [p for p in trunk if not (schedule.decay_all and id(p) not in exempt)]
    groups = [
        {"params": [*network.readouts.parameters(), *decayed], "weight_decay": schedule.weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    return torch.optim.SGD([group for group in groups if group["params"]], lr=schedule.lr, momentum=schedule.momentum)


def _pins(device: torch.device) -> bool:
    return device.type == "cuda"
