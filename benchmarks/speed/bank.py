"""A memory bank of many millions of rows, divided between ranks: seconds of what a step asks of it, and its memory.

    torchrun --standalone --nproc-per-node 2 -m benchmarks.speed.bank --rows 10000000 --out FILE
    python -m benchmarks.speed.bank --rows 65000000 --of 64 --batch 128 --out FILE

The second is one rank of 64 in a process alone: it owns and computes what that rank would, and what the others would
send it is a copy of its own; the exchange itself takes no time.

The clips are random unit vectors, the loss, its gradient and the update those of training. Medians over repeats, of the
first rank; memory is the most that any rank has held, with and without what Python and PyTorch take by themselves.
"""

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.config import BankConfig, InstanceRecognitionConfig, LocalAggregationConfig
from pretrain.launch import process_group
from pretrain.objective import Objective
from pretrain.runtime import describe_machine
from vie import MemoryBank, cluster
from vie.distributed import Ranks

DIM = 128


@dataclass(frozen=True)
class OneOfMany(Ranks):
    """One rank in a process alone, whose like the others are."""

    def wait(self) -> None:
        pass

    def gather(self, x: Tensor) -> Tensor:
        return torch.cat([x] * self.size)

    def sum(self, x: Tensor) -> Tensor:
        return x

    def exchange(self, x: Tensor) -> Tensor:
        return x.detach()

    def largest(self, x: Tensor) -> Tensor:
        return x.detach()


def measure(
    rows: int, dtype: str, batch: int, clusters: int, repeats: int, ranks: Ranks, device: torch.device
) -> dict[str, Any]:
    """Seconds of each piece of work and bytes of memory, as this rank sees them."""
    before = peak_bytes()
    began = time.perf_counter()
    bank = MemoryBank(rows, DIM, dtype=getattr(torch, dtype), ranks=ranks).to(device)
    seconds = {"the bank's beginning": time.perf_counter() - began}
    objective = Objective(
        bank,
        BankConfig(),
        InstanceRecognitionConfig(steps=1),
        LocalAggregationConfig(clusters=clusters, neighbours=512),
        seed=0,
        steps_per_epoch=1,
    )
    generator = torch.Generator().manual_seed(ranks.rank)
    clips = F.normalize(torch.randn(batch, DIM, generator=generator), dim=1).to(device).requires_grad_()
    instances = torch.randint(rows, (batch,), generator=generator).to(device)

    def loss(step: int) -> None:
        objective.loss(clips, instances, step).backward()

    seconds[f"one pass of k-means, K = {clusters}"] = timed(
        ranks, lambda: cluster(bank.embeddings, clusters, iterations=0, ranks=bank.owners), device
    )
    for name, work in (
        ("instance recognition, 4,096 rows of noise", lambda: loss(0)),
        ("local aggregation, 512 neighbours", lambda: loss(1)),
        ("update", lambda: bank.update(instances, clips.detach())),
    ):
        seconds[name] = statistics.median(timed(ranks, work, device) for _ in range(repeats))
    return {
        "seconds": seconds,
        "bytes": {
            "rows of a rank": bank.embeddings.nbytes,
            "host memory of a rank, at most": peak_bytes(),
            "of that, the bank and the work on it": peak_bytes() - before,
            **({"GPU memory, at most": torch.cuda.max_memory_allocated(device)} if device.type == "cuda" else {}),
        },
    }


def timed(ranks: Ranks, work: Callable[[], object], device: torch.device) -> float:
    """Wall seconds, all ranks beginning together."""
    ranks.wait()
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def peak_bytes() -> int:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Measures, prints a Markdown table, and writes JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--dtype", choices=["float32", "float16"], default="float16")
    parser.add_argument("--batch", type=int, default=64, help="clips of each rank (%(default)s)")
    parser.add_argument("--of", type=int, help="measure one of so many ranks, in a process alone")
    parser.add_argument("--clusters", type=int, default=1_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path)
    parsed = parser.parse_args()
    with process_group():
        ranks = OneOfMany(0, parsed.of) if parsed.of else Ranks.of_job()
        device = torch.device(parsed.device)
        result = measure(parsed.rows, parsed.dtype, parsed.batch, parsed.clusters, parsed.repeats, ranks, device)
        most = ranks.largest(torch.tensor(list(result["bytes"].values()))).tolist()
        result["bytes"] = dict(zip(result["bytes"], most, strict=True))
    if ranks.rank > 0:
        return
    print(f"{parsed.rows:,} rows of {DIM} in {parsed.dtype}, {ranks.size} ranks, {parsed.batch} clips each\n")
    print("| what | |\n|---|---|")
    print("\n".join(f"| {name} | {value:.3f} s |" for name, value in result["seconds"].items()))
    print("\n".join(f"| {name} | {value / 2**30:.2f} GiB |" for name, value in result["bytes"].items()))
    if parsed.out:
        about = {"machine": describe_machine(device), "ranks": ranks.size, "arguments": vars(parsed)}
        parsed.out.write_text(json.dumps({**about, **result}, default=str, indent=2) + "\n")


if __name__ == "__main__":
    main()
