"""How long a checkpoint keeps the thread that trains, and how long it takes to be on the disk.

    python -m benchmarks.speed.checkpoint --scratch FOLDER --out checkpoint.json

The state is that of VIE-3DResNet's Kinetics recipe: network, momentum and a bank of 240,000 rows. It is written as in
training, by ``pretrain.checkpoint``; and, beside it, as PyTorch's own writer does. The two take turns.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest.mock import patch

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor

from benchmarks.speed.record import describe_machine
from pretrain.checkpoint import Checkpoints
from pretrain.checkpoint_writer import Writer
from vie import create_model
from vie.distributed import ALONE

ROWS, DIM = 240_000, 128
TICK = 0.0005
"""Seconds between two looks at the clock."""

COLUMNS = ("save", "longest standstill", "write")


def state_of(model: str, device: torch.device) -> dict[str, Tensor]:
    """Of a run: everything that its steps change."""
    network = create_model(model).to(device)
    return {
        **{f"network.{name}": tensor.detach() for name, tensor in network.state_dict().items()},
        **{f"momentum.{name}": torch.randn_like(weight) for name, weight in network.named_parameters()},
        "method.bank": torch.randn(ROWS, DIM, device=device),
    }


def theirs(folder: Path) -> dcp.HuggingFaceStorageWriter:
    """PyTorch's writer."""
    return dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True)


def write_one(checkpoints: Checkpoints, step: int, state: dict[str, Tensor]) -> tuple[float, float, float]:
    """Seconds: of the call, the longest that this thread then stood still, and until all was on the disk."""
    began = time.perf_counter()
    checkpoints.save(step, state, {})
    saved = last = time.perf_counter()
    longest = 0.0
    while checkpoints._writing is not None:
        time.sleep(TICK)
        checkpoints.poll()
        now = time.perf_counter()
        last, longest = now, max(longest, now - last - TICK)
    return saved - began, longest, last - saved


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", type=torch.device)
    parser.add_argument("--model", default="vie_resnet3d_r18")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--scratch", type=Path, help="folder on the disk to measure (default: the system's)")
    parser.add_argument("--out", type=Path, help="JSON file of the results")
    parsed = parser.parse_args(arguments)
    state = state_of(parsed.model, parsed.device)
    size = sum(tensor.nbytes for tensor in state.values()) / 1e6
    writers: dict[str, Callable[[Path], dcp.StorageWriter]] = {"as in training": Writer, "by PyTorch's writer": theirs}
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in writers}
    with tempfile.TemporaryDirectory(dir=parsed.scratch) as scratch:
        ways = {name: Checkpoints(Path(scratch) / name, ALONE, parsed.device, keep=1) for name in found}
        for step in range(parsed.repeats + 1):
            for name, checkpoints in ways.items():
                with patch("pretrain.checkpoint.Writer", writers[name]):
                    seconds = write_one(checkpoints, step, state)
                if step:  # the first asks the system for its memory
                    found[name].append(seconds)
    print(f"{parsed.model}, {size:,.0f} MB, medians (least to most) of {parsed.repeats}, in seconds\n")
    print(f"| written | {' | '.join(COLUMNS)} |\n|{'---|' * 4}")
    for name, rows in found.items():
        columns = zip(*rows, strict=True)
        cells = [f"{statistics.median(each):.3f} ({min(each):.3f} to {max(each):.3f})" for each in columns]
        print(f"| {name} | {' | '.join(cells)} |")
    if parsed.out:
        facts = {"machine": describe_machine(parsed.device), "megabytes": size, "columns": COLUMNS}
        parsed.out.write_text(json.dumps({**facts, "seconds": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
