"""Parts of a training step, each beside the plain way to the same result: median milliseconds on this machine.

    python -m benchmarks.speed.step --out step.json

The stem is timed forward and backward in bf16 with channels last, the augmentation forward. Both ways are equal: the
stem to bf16 rounding, the augmentation to that of float32 (``difference``, of the greatest value).
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from pretrain.runtime import describe_machine, use_channels_last
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
SECONDS = 2.0

Row = dict[str, Any]


def measure_stem(name: str, device: torch.device) -> Row:
    """The strided convolution, and the same over blocks of pixels."""
    shape, kernel, stride, width = STEMS[name]
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

    return _beside("stem", name, {way: step(way) for way in layers}, outputs)


def measure_augmentation(name: str, device: torch.device) -> Row:
    """VIE's augmentation, plain and compiled."""
    batch, frames, height, width, size = CLIPS[name]
    pixels = torch.randint(256, (batch, frames, height, width, 3), dtype=torch.uint8, device=device)
    sides = np.full(batch, height), np.full(batch, width)
    drawn = draw(Augmentation(), size, *sides, seed=0, epoch=0, instances=np.arange(batch))
    outputs: dict[str, Tensor] = {}

    def step(way: str, apply: Apply) -> Callable[[], None]:
        def run() -> None:
            outputs[way] = augment(pixels, drawn, size, apply=apply)

        return run

    ways = {"plain": step("plain", apply_draw), "ours": step("ours", compiled_apply_draw())}
    return _beside("augmentation", name, ways, outputs)


def _beside(part: str, name: str, ways: dict[str, Callable[[], None]], outputs: dict[str, Tensor]) -> Row:
    times = {}
    for way, run in ways.items():
        run()
        times[way] = Timer("run()", globals={"run": run}).blocked_autorange(min_run_time=SECONDS).median * 1e3
    plain, ours = (outputs[way].float() for way in ("plain", "ours"))
    difference = ((plain - ours).abs().max() / plain.abs().max()).item()
    return {"part": part, "of": name, **times, "ratio": times["plain"] / times["ours"], "difference": difference}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, and prints one line of a Markdown table for each part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="JSON file of the results")
    parsed = parser.parse_args(arguments)
    device = torch.device(parsed.device)
    torch.backends.cudnn.benchmark = True
    print("| part | of | plain, ms | ours, ms | ratio | difference |\n|---|---|---|---|---|---|")
    rows = []
    for measure, names in ((measure_stem, STEMS), (measure_augmentation, CLIPS)):
        for name in names:
            row = measure(name, device)
            rows.append(row)
            print(
                "| {part} | {of} | {plain:.2f} | {ours:.2f} | {ratio:.1f} | {difference:.0e} |".format(**row),
                flush=True,
            )
    if parsed.out:
        parsed.out.write_text(json.dumps({"machine": describe_machine(device), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
