"""What an index of millions of videos costs: disk, time and memory to open it, and to plan the clips of a step.

    python -m benchmarks.speed.manifest --rows 10000000 --out manifest.json

A synthetic index is written, with one shard for 256 videos and a label column of 400 classes, and opened by processes
of their own: the first makes the table of names and frame lengths in a cache, if it is large, and a later one finds it.
"""

import argparse
import json
import multiprocessing
import pickle
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from pretrain.config import Config
from pretrain.data.clips import TrainClips
from pretrain.data.corpus import open_corpus
from pretrain.data.readers import Pixels
from pretrain.data.room import Room, fresh
from pretrain.runtime import describe_machine
from vie.video import Augmentation, Sampling
from vie.video.index import INDEX_FIELDS, INDEX_NAME, LABEL_PREFIX
from vie.video.pixels import Boxes

ROWS = 65_536
VIDEOS_PER_SHARD = 256
CLASSES = 400
BATCH = 256
PLANS = 20
MIB = 2**20

Row = dict[str, Any]


def write_synthetic(folder: Path, rows: int, frames: int) -> None:
    """Writes an index of so many videos, none of which exists."""
    schema = pa.schema([*INDEX_FIELDS, pa.field(f"{LABEL_PREFIX}label", pa.string())])
    classes = pa.array([f"class {number:03d}" for number in range(CLASSES)])
    rng = np.random.default_rng(0)
    with pq.ParquetWriter(folder / INDEX_NAME, schema) as writer:
        for first in range(0, rows, ROWS):
            numbers = np.arange(first, min(first + ROWS, rows))
            count = len(numbers)
            lengths = rng.integers(4_000, 16_000, (count, frames), dtype=np.int32)
            columns = {
                "name": pa.array([f"train/class-{n % CLASSES:03d}/{n:011d}_000012.mp4" for n in numbers.tolist()]),
                "split": pa.array(["train" if n % 20 else "val" for n in numbers.tolist()]),
                "shard": pa.array([f"shard-{n // VIDEOS_PER_SHARD:06d}.tar" for n in numbers.tolist()]),
                "offset": pa.array(numbers % VIDEOS_PER_SHARD * frames * 16_000 + 512),
                "frame_bytes": pa.ListArray.from_arrays(
                    np.arange(0, count * frames + 1, frames, dtype=np.int32), lengths.ravel()
                ),
                "fps": pa.array(np.full(count, 30, dtype=np.float32)),
                "height": pa.array(np.full(count, 128, dtype=np.int32)),
                "width": pa.array(np.full(count, 170, dtype=np.int32)),
                f"{LABEL_PREFIX}label": classes.take(pa.array(numbers % CLASSES)),
            }
            writer.write_table(pa.table(columns, schema=schema))


class NoPixels:
    """A reader that reads nothing, so that only the planning is timed."""

    def read(
        self, videos: np.ndarray[Any, Any], frames: np.ndarray[Any, Any], boxes: Boxes, room: Room = fresh
    ) -> Pixels:
        nothing = torch.empty((len(videos), frames.shape[1], 1, 1, 3), dtype=torch.uint8)
        return Pixels(nothing, boxes, np.arange(len(videos)), {})


def measure(folder: Path, cache: Path) -> Row:
    """Opens the corpus as a run does, in this process, and plans some steps."""
    before = _memory()
    config = Config()
    config.data.path, config.data.cache_dir = str(folder), str(cache)
    sampling = Sampling(16, 4, None, 112)
    began = time.perf_counter()
    corpus = open_corpus(config, sampling)
    opened = time.perf_counter()
    peak, after = _peak(), _memory()
    digest = corpus.instance_fingerprint()
    digested = time.perf_counter()
    clips = TrainClips(
        corpus.shards, corpus.instances, NoPixels(), sampling, Augmentation(), batch_size=BATCH, seed=0, steps=10**6
    )
    began_first = time.perf_counter()
    _ = clips[0]
    first = time.perf_counter()
    for step in range(1, PLANS + 1):
        _ = clips[step]
    planned = time.perf_counter()
    rng = np.random.default_rng(0)
    videos = rng.integers(len(corpus.shards), size=10_000).tolist()
    located = time.perf_counter()
    for video in videos:
        corpus.shards.locate(video, [0])
    end = time.perf_counter()
    return {
        "open, s": opened - began,
        "peak RSS while opening, MiB": peak,
        "RSS after, MiB": after["VmRSS"],
        "of it added by opening: private, MiB": after["RssAnon"] - before["RssAnon"],
        "of it added by opening: mapped file, shared, MiB": after["RssFile"] - before["RssFile"],
        "fingerprint, s": digested - opened,
        "first step's plan with the epoch's permutation, ms": (first - began_first) * 1e3,
        "a later step's plan, ms": (planned - first) / PLANS * 1e3,
        "where a video lies, us": (end - located) / len(videos) * 1e6,
        "peak RSS of it all, MiB": _peak(),
        "corpus pickled for a spawned worker, bytes": len(pickle.dumps(corpus.shards)),
        "fingerprint": digest,
    }


def _memory() -> dict[str, float]:
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = (line.split(":") for line in lines if line.startswith(("VmRSS", "RssAnon", "RssFile")))
    return {name: int(value.split()[0]) / 1024 for name, value in fields}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--frames", type=int, default=8, help="of each video")
    parser.add_argument("--scratch", type=Path, help="folder for the index and the cache (default: the system's)")
    parser.add_argument("--out", type=Path, help="JSON file of the results")
    parsed = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=parsed.scratch) as scratch:
        folder, cache = Path(scratch) / "corpus", Path(scratch) / "cache"
        folder.mkdir()
        spawn = multiprocessing.get_context("spawn")
        results = []
        with spawn.Pool(1) as pool:
            pool.apply(write_synthetic, (folder, parsed.rows, parsed.frames))
        for _ in range(2):
            with spawn.Pool(1) as pool:
                results.append(pool.apply(measure, (folder, cache)))
        index = (folder / INDEX_NAME).stat().st_size
        table = sum(file.stat().st_size for file in cache.glob("*.vie"))
    sizes = f"index {index / MIB:,.0f} MiB, table in the cache {table / MIB:,.0f} MiB"
    print(f"{parsed.rows:,} videos of {parsed.frames} frames: {sizes}\n")
    print("| | first opening | later |\n|---|---|---|")
    for name, value in results[0].items():
        if name != "fingerprint":
            print(f"| {name} | {value:,.1f} | {results[1][name]:,.1f} |")
    if parsed.out:
        machine = describe_machine(torch.device("cpu"))
        facts = {"rows": parsed.rows, "frames": parsed.frames, "index_bytes": index, "table_bytes": table}
        parsed.out.write_text(json.dumps({"machine": machine, **facts, "openings": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
