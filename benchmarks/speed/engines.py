"""Engines that could spread `prepare` over machines: Dask beside Ray, on a local cluster of two workers.

    pip install distributed ray
    python -m benchmarks.speed.engines [--shards 4] [--tasks 2000] [--repeats 3]

Both run the same task, which makes a whole shard (`pretrain.preparation.shard_task`) with one process. The videos are
synthetic, in Kinetics' usual form. Engines take turns at every measurement; medians (range) over repeats.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from benchmarks.speed.synthetic import write_synthetic
from pretrain.preparation.corpus_folder import package_versions
from pretrain.preparation.inputs import list_videos
from pretrain.preparation.shard_task import Made, ShardTask, make_shard
from pretrain.preparation.shard_writer import source_key
from pretrain.preparation.worker_pool import Job

WORKERS = 2
SHARD_VIDEOS = 8


class Engine(Protocol):
    """A local cluster of two workers, one task at a time on each."""

    package: str

    def map(self, function: Callable[[Any], Any], arguments: Iterable[Any]) -> list[Any]: ...
    def stop(self) -> None: ...


class Dask:
    """Dask's."""

    package = "distributed"

    def __init__(self) -> None:
        from distributed import Client, LocalCluster

        self._cluster = LocalCluster(n_workers=WORKERS, threads_per_worker=1, dashboard_address=None)
        self._client = Client(self._cluster)

    def map(self, function: Callable[[Any], Any], arguments: Iterable[Any]) -> list[Any]:
        from distributed import as_completed

        results = []
        for future, result in as_completed(self._client.map(function, list(arguments), pure=False), with_results=True):
            future.release()  # what is fetched need not be made again when its worker dies
            results.append(result)
        return results

    def stop(self) -> None:
        self._client.close()
        self._cluster.close()


class Ray:
    """Ray's."""

    package = "ray"

    def __init__(self) -> None:
        import ray

        ray.init(num_cpus=WORKERS, include_dashboard=False, logging_level="ERROR", log_to_driver=False)

    def map(self, function: Callable[[Any], Any], arguments: Iterable[Any]) -> list[Any]:
        import ray

        remote = ray.remote(function)
        results: list[Any] = ray.get([remote.remote(argument) for argument in arguments])
        return results

    def stop(self) -> None:
        import ray

        ray.shutdown()


def nothing(number: int) -> int:
    """An empty task."""
    return number


def make(task: ShardTask) -> Made:
    """A shard; see ``pretrain.preparation.cluster`` for the first line."""
    import multiprocessing

    multiprocessing.current_process().daemon = False
    return make_shard(task)


def tasks_below(source: Path, folder: Path) -> list[ShardTask]:
    """The shards of the videos of a folder, to be made in another."""
    folder.mkdir()
    work = [(video, source_key(video)) for video in list_videos(source)]
    parts = [work[start : start + SHARD_VIDEOS] for start in range(0, len(work), SHARD_VIDEOS)]
    job = Job(short_side=128, quality=90, decoder="decord", timeout=120, workers=1)
    return [ShardTask(number, part, job, {}, folder, package_versions()) for number, part in enumerate(parts)]


def kill_one(folder: Path, seen: int) -> None:
    """Kills the worker that has begun the latest of so many shards, which are folders named ``host-process-…``."""
    while len(begun := sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)) < seen:
        time.sleep(0.01)
    os.kill(int(begun[-1].name.split("-")[-2]), signal.SIGKILL)


def timed(work: Callable[[], object]) -> float:
    """Wall time of a call, in seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(source: Path, scratch: Path, empty: int) -> Iterator[tuple[str, str, float]]:
    """One repeat: what is measured, of which engine, and the figure. The engines take turns at each."""
    running: dict[str, Engine] = {}

    def start(kind: type[Dask] | type[Ray]) -> None:
        running[kind.package] = kind()
        running[kind.package].map(nothing, [0])

    for kind in (Dask, Ray):
        yield "start, s", kind.package, timed(partial(start, kind))
    for name in running:
        yield "import, s", name, timed(partial(subprocess.run, [sys.executable, "-c", f"import {name}"], check=True))
    for name, engine in running.items():
        yield "an empty task, ms", name, 1000 * timed(partial(engine.map, nothing, range(empty))) / empty
    for name, engine in running.items():
        engine.map(make, tasks_below(source, scratch / f"{name}-warm")[:WORKERS])  # imports torch
    for name, engine in running.items():
        tasks = tasks_below(source, scratch / f"{name}-whole")
        yield "videos per second", name, SHARD_VIDEOS * len(tasks) / timed(partial(engine.map, make, tasks))
    for name, engine in running.items():
        tasks = tasks_below(source, scratch / f"{name}-killed")
        killer = threading.Thread(target=kill_one, args=(tasks[0].unplaced, len(tasks) // 2))
        killer.start()
        seconds = timed(partial(engine.map, make, tasks))
        killer.join()
        yield "videos per second, one worker killed", name, SHARD_VIDEOS * len(tasks) / seconds
        yield "shards begun again", name, len(list(tasks[0].unplaced.iterdir())) - len(tasks)
        engine.stop()


def main() -> None:
    """Measures and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=4, help=f"of {SHARD_VIDEOS} videos each")
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    parsed = parser.parse_args()
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with tempfile.TemporaryDirectory() as folder:
        videos = write_synthetic(Path(folder) / "videos", SHARD_VIDEOS)
        for number in range(SHARD_VIDEOS, SHARD_VIDEOS * parsed.shards):
            (videos / f"{number:03d}.mp4").symlink_to(videos / f"{number % SHARD_VIDEOS:03d}.mp4")
        for repeat in range(parsed.repeats):
            scratch = Path(folder) / str(repeat)
            scratch.mkdir()
            for what, engine, value in measure(videos, scratch, parsed.tasks):
                found[what][engine].append(value)
    print(f"| | {Dask.package} | {Ray.package} |\n|---|---|---|")
    for what, by_engine in found.items():
        cells = [f"{statistics.median(v):.3g} ({min(v):.3g}-{max(v):.3g})" for v in by_engine.values()]
        print(f"| {what} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
