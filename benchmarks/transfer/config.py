"""What a transfer evaluation is; the tasks that come along are YAML files in ``tasks/`` over these defaults."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pretrain.config import KnnConfig
from pretrain.settings import RANGES as OF_PRETRAINING
from vie import VieError
from vie.settings import parse_settings
from vie.video.augment import Augmentation
from vie.video.cache import DEFAULT_BYTES

TASKS = Path(__file__).parent / "tasks"

RANGES = {
    **OF_PRETRAINING,
    "data.clips": (1, math.inf),
    **{
        f"{mode}.{name}": (0, math.inf)
        for mode in ("linear", "finetune", "scratch")
        for name in ("steps", "lr", "momentum", "weight_decay", "test_every")
    },
}
"""Least and greatest values that make sense."""


@dataclass
class TaskData:
    """The prepared corpus of a task: videos, or pictures, which are videos of one frame.

    Attributes:
        path: Folder written by `vie-pretrain prepare`, or the URL of a copy of it.
        labels: Label columns, all read out of one pass; null takes every one that both splits have.
        split: Which of the corpus's official splits ("1", "2" or "3" of UCF101 and HMDB51); null takes its own.
        train_split: Split that read-outs and networks learn from.
        test_split: Split that is tested.
        clips: Test clips of each video, spread evenly, whose class probabilities are averaged.
        shuffled: Whether the frames of the test clips are also shown out of order: what is lost is owed to their order.
        batch_size: Clips in a step.
        workers: Processes that read ahead; 0 reads in the process itself.
        cache: "none" decodes from the shards; "device" keeps all frames on the device; "device+disk"
            also keeps them decoded in cache_dir, where the next result finds them.
        cache_dir: Folder on a local disk for what is fetched of a corpus behind a URL, for tables made out of an index
            of millions of videos and for decoded frames; all processes of a node share it. null takes
            $XDG_CACHE_HOME/vie.
        cache_bytes: That cache_dir may hold; what was used longest ago goes first.
    """

    path: str = ""
    labels: list[str] | None = None
    split: str | None = None
    train_split: str = "train"
    test_split: str = "val"
    clips: int = 5
    shuffled: bool = False
    batch_size: int = 128
    workers: int = 4
    cache: Literal["none", "device", "device+disk"] = "none"
    cache_dir: str | None = None
    cache_bytes: int = DEFAULT_BYTES


@dataclass
class TaskRuntime:
    """Where and how the steps run.

    Attributes:
        device: "auto" takes a GPU if there is one.
        precision: Of the trunk: "bf16" is autocast; "auto" takes it where the device computes in it.
        channels_last: Memory layout of weights and activations.
        compile: Whether the augmentation is compiled on a GPU, where it takes longer than a frozen trunk if it is not.
    """

    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    channels_last: bool = True
    compile: bool = True


@dataclass
class Schedule:
    """SGD over so many steps.

    Attributes:
        steps: Of training; 0 if the task has no schedule for this mode.
        lr: Learning rate.
        momentum: Not Nesterov's.
        weight_decay: On the linear heads alone, unless ``decay_all``.
        decay_all: Whether the trunk is decayed too; batch norm never is.
        standardise: Whether what a linear layer reads is standardised over the clips of training (batch norm without
            weights) and divided by the root of its dimensions, so that one learning rate suits every layer.
        drops: Steps at which the learning rate falls to a tenth.
        test_every: Steps between two tests; 0 tests at the end alone.
    """

    steps: int = 0
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-4
    decay_all: bool = False
    standardise: bool = False
    drops: list[int] = field(default_factory=list)
    test_every: int = 0


@dataclass
class TransferConfig:
    """One evaluation of one encoder on one task.

    Attributes:
        task: Its name, for the results.
        seed: Of new weights, the data order and the augmentation; null takes the seed of the encoder's own training.
        modes: What is measured: "knn" (nearest neighbours and logistic regression of averaged features), "linear"
            (read-outs of the frozen trunk's layers), "random" (both, of new weights), "finetune" (all layers, from
            the encoder's weights), "scratch" (all layers, from new weights).
        data: The prepared corpus.
        augmentation: Of the training clips.
        knn: Of the nearest neighbours.
        linear: Linear read-outs of the frozen trunk.
        finetune: Training of all layers, from the encoder's weights.
        scratch: Training of all layers, from new weights.
        runtime: Device and precision.
    """

    task: str = "task"
    seed: int | None = None
    modes: list[Literal["knn", "linear", "random", "finetune", "scratch"]] = field(
        default_factory=lambda: ["knn", "linear"]
    )
    data: TaskData = field(default_factory=TaskData)
    augmentation: Augmentation = field(default_factory=Augmentation)
    knn: KnnConfig = field(default_factory=KnnConfig)
    linear: Schedule = field(default_factory=Schedule)
    finetune: Schedule = field(default_factory=Schedule)
    scratch: Schedule = field(default_factory=Schedule)
    runtime: TaskRuntime = field(default_factory=TaskRuntime)


def parse_task(task: str, overrides: Sequence[str] = ()) -> TransferConfig:
    """The task of a name in ``tasks/``, or of a YAML file, with ``key=value`` over it.

    Raises:
        VieError: A setting is unknown, wrong or makes no sense.
    """
    config = parse_settings(TransferConfig, [task], overrides, TASKS, RANGES, "vie-bench transfer --help")
    if config.data.train_split == config.data.test_split:
        raise VieError(f"data.train_split and data.test_split are both {config.data.test_split!r}: give two splits")
    if not config.modes:
        raise VieError("no mode is asked for: give --mode knn, linear, random, finetune or scratch")
    for mode in ("linear", "finetune", "scratch"):
        schedule: Schedule = getattr(config, mode)
        asked = [one for one in config.modes if one == mode or (one, mode) == ("random", "linear")]
        if asked and schedule.steps < 1:
            raise VieError(
                f"task {config.task!r} has no schedule for mode {asked[0]}: set {mode}.steps and {mode}.lr, or give "
                "other modes"
            )
        if late := [drop for drop in schedule.drops if schedule.steps and not 0 <= drop < schedule.steps]:
            raise VieError(f"{mode}.drops={late} lie outside the {schedule.steps} steps: give both to fit")
    return config
