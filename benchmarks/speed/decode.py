"""JPEG frames of a prepared corpus into pixels, in clips of 16 frames: by one process, by many, by the device.

What all workers decode is the most that any loader could bring to the device without its help.
"""

import multiprocessing
import statistics
import time
from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks.speed.corpus import synthetic_corpus
from benchmarks.speed.record import Job, Table, in_turns
from pretrain.data.late import decode_files
from vie.video import Shards

FRAMES = 16
CPU = torch.device("cpu")
COLUMNS = {"short side": "d", "decoder": "", "images at once": "d", "clips/s": ",.0f", "least": ",.0f", "most": ",.0f"}


def measure(job: Job) -> None:
    """Measures both decoders on pictures of both sizes."""
    table = Table(job, "decode", COLUMNS)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for side in (128, 256):
        shards = Shards(synthetic_corpus(side, job))
        for name, device, images, processes in (
            ("one process", CPU, FRAMES, 1),
            (f"{job.workers} processes", CPU, FRAMES, job.workers),
            *((("device", job.device, count, 1) for count in (256, 1024)) if job.device.type == "cuda" else ()),
        ):
            row = f"{side} {name} {images}"
            if table.wants(row):
                try:
                    rates = sorted(_rates(shards, device, images, processes, job.quick))
                    table.add(
                        **{"short side": side, "decoder": name, "images at once": images},
                        **{"clips/s": statistics.median(rates), "least": rates[0], "most": rates[-1]},
                    )
                except RuntimeError as error:
                    table.skip(row, error)
    torch.set_num_threads(threads)


def _rates(shards: Shards, device: torch.device, images: int, processes: int, quick: bool) -> list[float]:
    """Clips a second, one figure for each repeat."""
    clips = range(images // FRAMES)
    files = [file for clip in clips for file in shards.jpegs(clip, np.arange(FRAMES))]
    seconds, repeats = (0.05, 2) if quick else (0.5, 5)
    if device.type == "cpu":
        with multiprocessing.get_context("fork").Pool(processes) as pool:
            work = partial(_decoded, files, seconds)
            return [len(clips) * sum(pool.map(work, range(processes), chunksize=1)) for _ in range(repeats)]
    decode_files(files, device)
    found = in_turns({"": lambda: decode_files(files, device)}, device, seconds, repeats)[""]
    return [len(clips) / spent for spent in found]


def _decoded(files: list[Tensor], seconds: float, process: int) -> float:
    """How many times a second a process decodes some files."""
    times, began = 0, time.perf_counter()
    while (spent := time.perf_counter() - began) < seconds:
        decode_files(files, CPU)
        times += 1
    return times / spent
