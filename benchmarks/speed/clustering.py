"""Exact neighbours and k-means: PyTorch beside faiss, in one run.

    python -m benchmarks.speed.clustering [--rows 240000] [--clusters 8000] [--iterations 2] [--repeats 3] [--out FILE]

The rows are random unit vectors of 128 dimensions, synthetic, of Kinetics-400's number by default. Medians over
repeats, the engines taking turns; on a machine with a GPU, PyTorch is measured there too.
"""

import argparse
import json
import platform
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import faiss
import torch
import torch.nn.functional as F

from vie import MemoryBank, cluster

QUERIES = 128
NEIGHBOURS = 512
DIM = 128


def seconds(work: Callable[[], object]) -> float:
    """Wall time of a call, the device's part included."""
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(rows: int, clusters: int, iterations: int, repeats: int) -> dict[str, dict[str, float]]:
    """Median seconds of a search and of one k-means iteration, by engine."""
    bank = MemoryBank(rows, DIM)
    index = bank.as_faiss_index()
    queries = F.normalize(torch.randn(QUERIES, DIM, generator=torch.Generator().manual_seed(0)), dim=1)
    work: dict[tuple[str, str], Callable[[], object]] = {
        ("search", "faiss, CPU"): lambda: index.search(queries.numpy(), NEIGHBOURS),
        ("search", "PyTorch, CPU"): lambda: bank.nearest(queries, NEIGHBOURS),
        ("k-means", "faiss, CPU"): lambda: cluster(bank.embeddings, clusters, iterations=iterations, engine="faiss"),
        ("k-means", "PyTorch, CPU"): lambda: cluster(bank.embeddings, clusters, iterations=iterations),
    }
    if torch.cuda.is_available():
        on_gpu, queries_on_gpu = MemoryBank(rows, DIM).cuda(), queries.cuda()
        work["search", "PyTorch, GPU"] = lambda: on_gpu.nearest(queries_on_gpu, NEIGHBOURS)
        work["k-means", "PyTorch, GPU"] = lambda: cluster(on_gpu.embeddings, clusters, iterations=iterations)
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for _ in range(repeats + 1):
        for key, call in work.items():
            times[key].append(seconds(call))
    result: dict[str, dict[str, float]] = defaultdict(dict)
    for (task, engine), values in times.items():
        per = iterations + 1 if task == "k-means" else 1  # the labels at the end cost one assignment more
        result[task][engine] = statistics.median(values[1:]) / per
    return result


def main() -> None:
    """Measures, prints a Markdown table, and writes JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=240_000)
    parser.add_argument("--clusters", type=int, default=8_000)
    parser.add_argument("--iterations", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parsed = parser.parse_args()
    result = measure(parsed.rows, parsed.clusters, parsed.iterations, parsed.repeats)
    machine = {
        "faiss": faiss.__version__,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    print(json.dumps(machine))
    print(
        f"| engine | top {NEIGHBOURS} of {parsed.rows} rows for {QUERIES} queries, ms "
        f"| k-means pass, K = {parsed.clusters}, s |"
    )
    print("|---|---|---|")
    for engine in result["search"]:
        print(f"| {engine} | {1000 * result['search'][engine]:.1f} | {result['k-means'][engine]:.3f} |")
    if parsed.out:
        parsed.out.write_text(
            json.dumps({"machine": machine, "seconds": result, "arguments": vars(parsed)}, default=str)
        )


if __name__ == "__main__":
    main()
