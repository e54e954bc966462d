"""JPEG frames of a prepared corpus into pixels, in clips of 16 frames: by one process, by many, by the device.

What all workers decode is the most that any loader could bring to the device without its help. torchvision's decoder
stands beside the one that shards are read by.
"""

import multiprocessing
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks.speed.corpus import synthetic_corpus
from benchmarks.speed.record import Job, Table, in_turns
from pretrain.data.late import decode_files
from vie.video import Shards
from vie.video.shards import decode_picture

Decode = Callable[[list[Tensor], tuple[int, int], torch.device], object]

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
        for name, decode, device, images, processes in (
            ("one process", _by_shards, CPU, FRAMES, 1),
            ("one process, torchvision", _by_torchvision, CPU, FRAMES, 1),
            (f"{job.workers} processes", _by_shards, CPU, FRAMES, job.workers),
            *(
                (("device", _by_torchvision, job.device, count, 1) for count in (256, 1024))
                if job.device.type == "cuda"
                else ()
            ),
        ):
            row = f"{side} {name} {images}"
            if table.wants(row):
                try:
                    rates = sorted(_rates(shards, decode, device, images, processes, job.quick))
                    table.add(
                        **{"short side": side, "decoder": name, "images at once": images},
                        **{"clips/s": statistics.median(rates), "least": rates[0], "most": rates[-1]},
                    )
                except RuntimeError as error:
                    table.skip(row, error)
    torch.set_num_threads(threads)


def _by_shards(files: list[Tensor], size: tuple[int, int], device: torch.device) -> object:
    return [decode_picture(file, size) for file in files]


def _by_torchvision(files: list[Tensor], size: tuple[int, int], device: torch.device) -> object:
    return decode_files(files, device)


def _rates(
    shards: Shards, decode: Decode, device: torch.device, images: int, processes: int, quick: bool
) -> list[float]:
    """Clips a second, one figure for each repeat."""
    clips = range(images // FRAMES)
    files = [file for clip in clips for file in shards.jpegs(clip, np.arange(FRAMES))]
    call = partial(decode, files, (int(shards.height[0]), int(shards.width[0])), device)
    seconds, repeats = (0.05, 2) if quick else (0.5, 5)
    if device.type == "cpu":
        with multiprocessing.get_context("fork").Pool(processes) as pool:
            work = partial(_times, call, seconds)
            return [len(clips) * sum(pool.map(work, range(processes), chunksize=1)) for _ in range(repeats)]
    call()
    return [len(clips) / spent for spent in in_turns({"": call}, device, seconds, repeats)[""]]


def _times(call: Callable[[], object], seconds: float, process: int) -> float:
    """How many times a second a process does something."""
    times, began = 0, time.perf_counter()
    while (spent := time.perf_counter() - began) < seconds:
        call()
        times += 1
    return times / spent
