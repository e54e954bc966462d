"""JPEG frames of a prepared corpus into pixels: one core of the host beside the device, in clips of 16 frames."""

import statistics

import numpy as np
import torch

from benchmarks.speed.corpus import synthetic_corpus
from benchmarks.speed.record import Job, Table, in_turns
from pretrain.data.late import decode_files
from vie.video import Shards

FRAMES = 16
COLUMNS = {"short side": "d", "decoder": "", "images at once": "d", "clips/s": ",.0f", "least": ",.0f", "most": ",.0f"}


def measure(job: Job) -> None:
    """Measures both decoders on pictures of both sizes."""
    table = Table(job, "decode", COLUMNS)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for side in (128, 256):
        shards = Shards(synthetic_corpus(side, job))
        for name, device, images in (
            ("one core", torch.device("cpu"), FRAMES),
            *((("device", job.device, count) for count in (256, 1024)) if job.device.type == "cuda" else ()),
        ):
            row = f"{side} {name} {images}"
            if table.wants(row):
                try:
                    table.add(**_row(shards, side, name, device, images, job.quick))
                except RuntimeError as error:
                    table.skip(row, error)
    torch.set_num_threads(threads)


def _row(shards: Shards, side: int, name: str, device: torch.device, images: int, quick: bool) -> dict[str, object]:
    clips = range(images // FRAMES)
    files = [file for clip in clips for file in shards.jpegs(clip, np.arange(FRAMES))]

    def decode() -> None:
        decode_files(files, device)

    decode()
    found = in_turns({"": decode}, device, *((0.05, 2) if quick else (0.5, 5)))[""]
    rates = sorted(len(clips) / seconds for seconds in found)
    return {
        "short side": side,
        "decoder": name,
        "images at once": images,
        "clips/s": statistics.median(rates),
        "least": rates[0],
        "most": rates[-1],
    }
