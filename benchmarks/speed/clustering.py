"""Exact neighbours and k-means: PyTorch beside faiss, in one run.

The rows are random unit vectors of 128 dimensions, of Kinetics-400's number. A k-means of 20 iterations assigns every
row 21 times; on the CPU fewer are run, and the time of one pass is what they have in common.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from benchmarks.speed.record import Job, Table, in_turns, medians, timed
from vie import MemoryBank, cluster
from vie.clustering import Engine

QUERIES, NEIGHBOURS, DIM = 128, (512, 4096), 128
CLUSTERS = (10_000, 8_000)
ITERATIONS = 20
COLUMNS = {
    **{"task": "", "engine": "", "seconds": ".4f", "k-means pass, s": ".4f", "20 iterations, s": ".2f"},
    "times faiss's speed": ".1f",
}


def measure(job: Job) -> None:
    """Measures searches, then k-means."""
    table = Table(job, "clustering", COLUMNS)
    rows = 2_000 if job.quick else 240_000
    bank = MemoryBank(rows, DIM)
    banks = {"PyTorch, CPU": bank}
    if job.device.type == "cuda":
        banks["PyTorch, GPU"] = MemoryBank(rows, DIM).to(job.device)
    index = None
    try:
        index = bank.as_faiss_index()
    except ImportError as error:
        table.skip("faiss, CPU", error)
    queries = F.normalize(torch.randn(QUERIES, DIM, generator=torch.Generator().manual_seed(0)), dim=1)
    for k in NEIGHBOURS:
        task = f"top {min(k, rows):,} of {rows:,} rows for {QUERIES} queries"
        ways: dict[str, Callable[[], object]] = {}
        if index is not None:
            ways["faiss, CPU"] = lambda k=k: index.search(queries.numpy(), min(k, rows))  # type: ignore[misc]
        for name, own in banks.items():
            there = queries.to(own.embeddings.device)
            ways[name] = lambda own=own, there=there, k=k: own.nearest(there, k)  # type: ignore[misc]
        if table.wants(task):
            for way in ways.values():
                way()
            _add(table, task, medians(in_turns(ways, job.device, *((0.05, 2) if job.quick else (0.5, 5)))))
    for clusters in CLUSTERS:
        _k_means(table, clusters if not job.quick else clusters // 100, banks, index is not None)


def _k_means(table: Table, clusters: int, banks: dict[str, MemoryBank], with_faiss: bool) -> None:
    job, rows = table.job, len(banks["PyTorch, CPU"])
    task = f"k-means of {rows:,} rows, K = {clusters:,}"
    if not table.wants(task):
        return
    passes: dict[str, float] = {}
    whole: dict[str, float] = {}
    engines: list[tuple[str, MemoryBank, Engine]] = [(name, bank, "torch") for name, bank in banks.items()]
    if with_faiss:
        engines.insert(0, ("faiss, CPU", banks["PyTorch, CPU"], "faiss"))
    for name, bank, engine in engines:
        on_gpu = bank.embeddings.device.type == "cuda"
        iterations, repeats = (ITERATIONS, 5) if on_gpu or job.quick else (1, 1)

        def run(bank: MemoryBank = bank, iterations: int = iterations, engine: Engine = engine) -> None:
            cluster(bank.embeddings, clusters, iterations=iterations, engine=engine)

        if on_gpu:
            run()
        seconds = sorted(timed(run, job.device) for _ in range(repeats))[repeats // 2]
        passes[name] = seconds / (iterations + 1)
        if iterations == ITERATIONS:
            whole[name] = seconds
    for name, seconds in passes.items():
        ratio = passes["faiss, CPU"] / seconds if with_faiss else None
        table.add(
            **{"task": task, "engine": name, "k-means pass, s": seconds, "20 iterations, s": whole.get(name)},
            **{"times faiss's speed": ratio},
        )


def _add(table: Table, task: str, seconds: dict[str, float]) -> None:
    for engine, spent in seconds.items():
        ratio = seconds["faiss, CPU"] / spent if "faiss, CPU" in seconds else None
        table.add(task=task, engine=engine, seconds=spent, **{"times faiss's speed": ratio})
