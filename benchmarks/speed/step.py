"""Parts of a training step, each beside the plain way to the same result: median milliseconds.

The stem is timed forward and backward in bf16 with channels last, the augmentation forward. Both ways are equal: the
stem to bf16 rounding, the augmentation to that of float32 (``difference``, of the greatest value).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.speed.record import Job, Table, in_turns, medians
from pretrain.runtime import use_channels_last
from vie.models.stem import StemConv2d, StemConv3d
from vie.video import Augmentation, augment, draw
from vie.video.apply import Apply, apply_draw, compiled_apply_draw

STEMS = {
    "VIE-3DResNet, 64 x 16 x 112 x 112": ((64, 3, 16, 112, 112), (7, 7, 7), (2, 2, 2), 64),
    "VIE-Slow, 64 x 4 x 224 x 224": ((64, 3, 4, 224, 224), (1, 7, 7), (1, 2, 2), 64),
    "the fast pathway, 64 x 16 x 224 x 224": ((64, 3, 16, 224, 224), (5, 7, 7), (1, 2, 2), 8),
    "VIE-Single, 256 x 224 x 224": ((256, 3, 224, 224), (7, 7), (2, 2), 64),
}
CLIPS = {
    "64 x 16 x 112 x 112 of 128 x 170": (64, 16, 128, 170, 112),
    "64 x 4 x 224 x 224 of 256 x 340": (64, 4, 256, 340, 224),
}
COLUMNS = {"part": "", "of": "", "plain, ms": ".2f", "ours, ms": ".2f", "ratio": ".1f", "difference": ".0e"}

Row = dict[str, Any]


def measure(job: Job) -> None:
    """Measures every part at every size."""
    table = Table(job, "step", COLUMNS)
    torch.backends.cudnn.benchmark = True
    for part, measure_one, names in (("stem", measure_stem, STEMS), ("augmentation", measure_augmentation, CLIPS)):
        for name in names:
            if table.wants(f"{part} of {name}"):
                try:
                    table.add(**measure_one(name, job))
                except RuntimeError as error:
                    table.skip(f"{part} of {name}", error)


def measure_stem(name: str, job: Job) -> Row:
    """The strided convolution, and the same over blocks of pixels."""
    shape, kernel, stride, width = STEMS[name]
    device = job.device
    if job.quick:
        shape = (2, *shape[1:])
    dims = len(kernel)
    padding = tuple(side // 2 for side in kernel)
    clip = torch.randn(shape, device=device)
    layers: dict[str, nn.Module] = {
        way: kind(3, width, kernel, stride=stride, padding=padding, bias=False, device=device)  # type: ignore[arg-type]
        for way, kind in (("plain", (nn.Conv2d, nn.Conv3d)[dims - 2]), ("ours", (StemConv2d, StemConv3d)[dims - 2]))
    }
    layers["ours"].load_state_dict(layers["plain"].state_dict())
    outputs: dict[str, Tensor] = {}

    def step(way: str) -> Callable[[], None]:
        use_channels_last(layers[way], device)

        def run() -> None:
            with torch.autocast(device.type, dtype=torch.bfloat16):
                outputs[way] = layers[way](clip)
            outputs[way].sum().backward()

        return run

    return _beside("stem", name, {way: step(way) for way in layers}, outputs, job)


def measure_augmentation(name: str, job: Job) -> Row:
    """VIE's augmentation, plain and compiled."""
    batch, frames, height, width, size = CLIPS[name]
    device = job.device
    if job.quick:
        batch = 2
    pixels = torch.randint(256, (batch, frames, height, width, 3), dtype=torch.uint8, device=device)
    sides = np.full(batch, height), np.full(batch, width)
    drawn = draw(Augmentation(), size, *sides, seed=0, epoch=0, instances=np.arange(batch))
    outputs: dict[str, Tensor] = {}

    def step(way: str, apply: Apply) -> Callable[[], None]:
        def run() -> None:
            outputs[way] = augment(pixels, drawn, size, apply=apply)

        return run

    ways = {"plain": step("plain", apply_draw), "ours": step("ours", compiled_apply_draw())}
    return _beside("augmentation", name, ways, outputs, job)


def _beside(part: str, name: str, ways: dict[str, Callable[[], None]], outputs: dict[str, Tensor], job: Job) -> Row:
    for run in ways.values():
        run()
    seconds = medians(in_turns(ways, job.device, *((0.02, 2) if job.quick else (0.4, 5))))
    plain, ours = (outputs[way].float() for way in ("plain", "ours"))
    difference = ((plain - ours).abs().max() / plain.abs().max()).item()
    milliseconds = {f"{way}, ms": 1000 * seconds[way] for way in ways}
    ratio = seconds["plain"] / seconds["ours"]
    return {"part": part, "of": name, **milliseconds, "ratio": ratio, "difference": difference}
