"""Clips a second of the whole way from stored videos to the device, beside PyTorchVideo's loader.

    python -m benchmarks.speed.loader --videos FOLDER_OR_CSV [--workers W] [--device cuda] [--out FILE.json]
    python -m benchmarks.speed.loader --synthesize 16

Ours is training's own way: random clips and crops of ``TrainClips``, read from the shards of ``vie-pretrain prepare``
by worker processes. PyTorchVideo's is its ``LabeledVideoDataset`` over the source files, with the transform of its
tutorials (pick frames, shrink, random crop), behind a ``DataLoader``. Both end as a batch of 16-frame, 112-pixel clips
on the device: ours as uint8 crops with their boxes, which training resizes and augments there. All processes of a
loader share the given cores; the two take turns.
"""

import argparse
import contextlib
import json
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Generator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.speed.formats import describe_machine
from benchmarks.speed.synthetic import write_synthetic
from pretrain.data.clips import TrainClips
from pretrain.data.instances import whole_videos
from pretrain.data.prefetch import stream
from pretrain.data.readers import ShardReader
from pretrain.preparation.frames import shrink
from pretrain.preparation.inputs import Video, list_videos
from pretrain.preparation.prepare import PrepareConfig, prepare
from vie.video import Augmentation, Sampling, Shards
from vie.video.source import open_video

SIZE, SHORT_SIDE, FRAMES, BATCH = 112, 128, 16, 8
STRIDES = (1, 4)

Batches = Generator[Tensor, None, None]


def main() -> None:
    """Runs the comparison and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--videos", help="folder or listing of source videos; the first 64 are used")
    source.add_argument("--synthesize", type=int, metavar="N", help="write N synthetic videos of Kinetics' format")
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1, help="worker processes of each loader")
    parser.add_argument("--batches", type=int, default=40, help="of ours in each repeat; PyTorchVideo's are a tenth")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="file for the results as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(arguments.device)
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.synthesize:
            videos = list_videos(write_synthetic(Path(scratch) / "source", arguments.synthesize))
        else:
            videos = list_videos(arguments.videos)[:64]
        prepare(videos, Path(scratch) / "shards", PrepareConfig(short_side=SHORT_SIDE), progress=False)
        shards = Shards(Path(scratch) / "shards")
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.cores])
        rates = measure(shards, videos, arguments.workers, arguments.batches, arguments.repeats, device)
    rows = {name: (statistics.median(found), min(found), max(found)) for name, found in rates.items()}
    print(f"{arguments.cores} core(s), {arguments.workers} worker(s), device {device}; {describe_machine()}\n")
    print("| loader | clips/s, median (range) |\n|---|---|")
    for name, (median, least, most) in rows.items():
        print(f"| {name} | {median:.1f} ({least:.1f}-{most:.1f}) |")
    for stride in STRIDES:
        ratio = rows[f"vie, stride {stride}"][0] / rows[f"pytorchvideo, stride {stride}"][0]
        print(f"stride {stride}: {ratio:.1f} times PyTorchVideo's")
    if arguments.out:
        arguments.out.write_text(json.dumps({"machine": describe_machine(), "rows": rows}, indent=2) + "\n")


def measure(
    shards: Shards, videos: list[Video], workers: int, batches: int, repeats: int, device: torch.device
) -> dict[str, list[float]]:
    """Clips a second by loader and stride, one figure for each repeat; the loaders take turns."""
    by_name = {video.name: video for video in videos}
    rates: dict[str, list[float]] = defaultdict(list)
    for _ in range(repeats):
        for stride in STRIDES:
            usable = np.flatnonzero(shards.num_frames >= stride * FRAMES)
            sources = [by_name[shards.names[i]] for i in usable]
            # Closed at once, so that no worker of the one reads ahead while the other is timed.
            with contextlib.closing(by_shards(shards, usable, stride, workers)) as ours:
                rates[f"vie, stride {stride}"].append(clips_per_second(ours, batches, device))
            with contextlib.closing(by_pytorchvideo(sources, stride, workers)) as theirs:
                rates[f"pytorchvideo, stride {stride}"].append(clips_per_second(theirs, -(-batches // 10), device))
    return rates


def clips_per_second(batches: Batches, count: int, device: torch.device) -> float:
    """The rate over ``count`` batches on the device, after two that fill the pipe."""
    for _ in range(2):
        next(batches)
    began, clips = time.perf_counter(), 0
    for _ in range(count):
        clips += len(next(batches).to(device, non_blocking=True))
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clips / (time.perf_counter() - began)


def by_shards(shards: Shards, videos: npt.NDArray[np.int64], stride: int, workers: int) -> Batches:
    """Training's own batches, for ever."""
    sampling = Sampling(frames=FRAMES, stride=stride, fps=None, size=SIZE)
    instances, reader = whole_videos(shards, videos), ShardReader(shards)
    clips = TrainClips(shards, instances, reader, sampling, Augmentation(), batch_size=BATCH, seed=0, steps=10**9)
    yield from (batch.frames for batch in stream(clips, range(10**6), workers))


def by_pytorchvideo(videos: list[Video], stride: int, workers: int) -> Batches:
    """Batches of PyTorchVideo's dataset, many passes long; the files are taken to have one rate."""
    from pytorchvideo.data import LabeledVideoDataset, make_clip_sampler

    rate = open_video(videos[0].path).fps
    dataset = LabeledVideoDataset(
        [(str(video.path), {"label": 0}) for video in videos] * 1000,
        make_clip_sampler("random", FRAMES * stride / rate),
        transform=_transform,
        decode_audio=False,
    )
    yield from DataLoader(dataset, BATCH, num_workers=workers)


def _transform(clip: dict[str, Tensor]) -> Tensor:
    """Float (3, T, H, W) -> uint8 (16, 3, 112, 112)."""
    video = clip["video"]
    picked = video[:, torch.linspace(0, video.shape[1] - 1, FRAMES).long()].permute(1, 2, 3, 0).to(torch.uint8)
    small = shrink(picked, SHORT_SIDE)
    top, left = (int(torch.randint(side - SIZE + 1, ())) for side in small.shape[-2:])
    return small[..., top : top + SIZE, left : left + SIZE].contiguous()


if __name__ == "__main__":
    main()
