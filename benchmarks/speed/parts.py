"""The trainer that is measured, and what is left of its step when a part is taken out."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.speed.corpus import synthetic_corpus
from benchmarks.speed.record import Job
from pretrain.methods.method import Method
from pretrain.methods.vie import VIE
from pretrain.settings import parse_config
from pretrain.train import Trainer
from vie.models.pool import MaxPoolClip
from vie.models.stem import StemConv2d, StemConv3d
from vie.video import augment
from vie.video.apply import Apply

IR_STEPS = 5
"""Of instance recognition, before local aggregation."""

TINY = (
    *("model.width=4", "data.size=32", "data.batch_size=8", "runtime.precision=fp32", "runtime.channels_last=false"),
    *("instance_recognition.noise=64", "local_aggregation.clusters=20", "local_aggregation.neighbours=64"),
)


@dataclass(frozen=True)
class Case:
    """One stream as its Kinetics recipe trains it, and the short side of its corpus."""

    recipe: str
    short_side: int
    batches: tuple[int, ...]

    @property
    def name(self) -> str:
        return self.recipe.removeprefix("kinetics400_")


CASES = (
    Case("kinetics400_resnet3d", 128, (64, 128, 256)),
    Case("kinetics400_slow", 256, (64, 128, 256)),
    Case("kinetics400_single", 256, (128, 256, 512)),
)


def open_trainer(case: Case, job: Job, folder: Path, run: str, *settings: str) -> Trainer:
    """The trainer of a case on a synthetic corpus, with its run in ``folder`` and a bank as large as Kinetics-400's."""
    torch._dynamo.reset()  # its limits on compilations count over all cases
    data = synthetic_corpus(case.short_side, job)
    common = [
        f"data.path={data}",
        f"run={folder / run}",
        f"runtime.device={job.device}",
        f"data.workers={job.workers}",
        f"instance_recognition.steps={IR_STEPS}",
        "monitor.knn_every=0",
        "monitor.checkpoint_every=0",
    ]
    trainer = Trainer(parse_config([case.recipe], [*common, *(TINY if job.quick else ()), *settings]))
    trainer.method.network.train()
    return trainer


def aggregate(trainer: Trainer) -> None:
    """Sends a trainer to local aggregation, with labels drawn by chance in place of a clustering."""
    assert isinstance(trainer.method, VIE)
    objective = trainer.method.objective
    objective.labels = torch.randint_like(objective.labels, objective.num_clusters)
    trainer.step = IR_STEPS + 1


def synthetic_step(trainer: Trainer) -> Callable[[], Tensor]:
    """The step of a trainer on two real batches in turns, which lie on the device already."""
    batches = [trainer.clips[number].to(trainer.device) for number in range(2)]
    taken = iter(range(10**9))
    return lambda: trainer.train_step(batches[next(taken) % 2])


@contextmanager
def replaced(trainer: Trainer, **parts: object) -> Iterator[None]:
    """Gives a trainer other parts for a while."""
    before = {name: getattr(trainer, name) for name in parts}
    try:
        for name, part in parts.items():
            setattr(trainer, name, part)
        yield
    finally:
        for name, part in before.items():
            setattr(trainer, name, part)


def finished_clips(trainer: Trainer) -> Apply:
    """An ``Apply`` that gives every step the same clips, augmented once."""
    batch = trainer.clips[0].to(trainer.device)
    size, mean, std = trainer.clips.sampling.size, trainer.model.mean, trainer.model.std
    clip = augment(batch.frames, batch.drawn, size, batch.boxes, mean, std, trainer.apply)
    return lambda frames, numbers, size, mean, std, parts: clip


def use_plain_layers(network: nn.Module) -> None:
    """Puts PyTorch's own layers in place of those of ``vie.models.stem`` and ``vie.models.pool``."""
    plain = {StemConv2d: nn.Conv2d, StemConv3d: nn.Conv3d, MaxPoolClip: nn.MaxPool3d}
    for module in network.modules():
        module.__class__ = plain.get(type(module), type(module))


class NoBank(Method):
    """A loss without a bank: the sum of what the network gives."""

    citation = ""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def loss(self, output: Tensor, target: Tensor, step: int) -> Tensor:
        return output.float().sum()
