"""Clips a second of the whole way from stored videos to the device: ours beside PyTorchVideo's and plain decoders.

Ours is training's own way: random clips and crops of ``TrainClips``, read from the shards of ``vie-pretrain prepare``
by worker processes. PyTorchVideo's is its ``LabeledVideoDataset`` over the source files, with the transform of its
tutorials (pick frames, shrink, random crop); the plain ones open a file with decord or torchcodec, read the frames of a
random clip and do the same; all of them behind a ``DataLoader``. They end as batches of 16-frame, 112-pixel clips on
the device: ours as uint8 crops with their boxes, which training resizes and augments there. All processes of a loader
share the cores; the loaders take turns.
"""

import contextlib
import statistics
import time
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.speed.record import Job, Table, scratch, wait
from benchmarks.speed.sources import has_decoder, has_pytorchvideo, source_videos
from pretrain.data.clips import TrainClips
from pretrain.data.instances import whole_videos
from pretrain.data.prefetch import stream
from pretrain.data.readers import ShardReader
from pretrain.preparation.frames import shrink
from pretrain.preparation.inputs import Video
from pretrain.preparation.prepare import PrepareConfig, prepare
from vie.video import Augmentation, Sampling, Shards
from vie.video.source import Decoder, open_video

SIZE, SHORT_SIDE, FRAMES, BATCH = 112, 128, 16, 8
STRIDES = (1, 4)
COLUMNS = {
    **{"loader": "", "stride": "d", "workers": "d", "clips/s": ",.1f", "least": ",.1f", "most": ",.1f"},
    "ours is so many times as fast": ".1f",
}

Batches = Generator[Tensor, None, None]


def measure(job: Job) -> None:
    """Measures every loader there is at every stride."""
    table = Table(job, "loader", COLUMNS)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with scratch() as folder:
        try:
            videos = source_videos(job, Path(folder), most=64, synthetic=16)
        except ImportError as error:
            return table.skip("everything", f"no synthetic video can be written ({error}): name some by --videos")
        prepare(videos, Path(folder) / "shards", PrepareConfig(short_side=SHORT_SIDE), progress=False)
        shards = Shards(Path(folder) / "shards")
        for stride in STRIDES:
            if table.wants(f"stride {stride}"):
                _compare(table, shards, videos, stride)
    torch.set_num_threads(threads)


def _compare(table: Table, shards: Shards, videos: list[Video], stride: int) -> None:
    job, workers = table.job, table.job.workers
    by_name = {video.name: video for video in videos}
    usable = np.flatnonzero(shards.num_frames >= stride * FRAMES)
    sources = [by_name[shards.names[i]] for i in usable.tolist()]
    decoders: list[Decoder] = [name for name in ("decord", "torchcodec") if has_decoder(table, name)]
    loaders: dict[str, Callable[[], Batches]] = {"ours": partial(by_shards, shards, usable, stride, workers)}
    if has_pytorchvideo(table):
        loaders["PyTorchVideo"] = partial(by_pytorchvideo, sources, stride, workers)
    for decoder in decoders:
        loaders[f"plain {decoder}"] = partial(by_decoder, sources, decoder, stride, workers)
    batches, repeats = (2, 1) if job.quick else (40 * workers, 5)
    rates: dict[str, list[float]] = {name: [] for name in loaders}
    for _ in range(repeats):
        for name, open_loader in loaders.items():
            # Closed at once, so that no worker of the one reads ahead while the other is timed.
            with contextlib.closing(open_loader()) as found:
                count = batches if name == "ours" else -(-batches // 10)
                rates[name].append(clips_per_second(found, count, job.device))
    ours = statistics.median(rates["ours"])
    for name, values in rates.items():
        median = statistics.median(values)
        table.add(
            **{"loader": name, "stride": stride, "workers": workers, "clips/s": median},
            **{"least": min(values), "most": max(values), "ours is so many times as fast": ours / median},
        )


def clips_per_second(batches: Batches, count: int, device: torch.device) -> float:
    """The rate over ``count`` batches on the device, after two that fill the pipe."""
    for _ in range(2):
        next(batches)
    began, clips = time.perf_counter(), 0
    for _ in range(count):
        clips += len(next(batches).to(device, non_blocking=True))
    wait(device)
    return clips / (time.perf_counter() - began)


def by_shards(shards: Shards, videos: npt.NDArray[np.int64], stride: int, workers: int) -> Batches:
    """Training's own batches, for ever."""
    sampling = Sampling(frames=FRAMES, stride=stride, fps=None, size=SIZE)
    instances, reader = whole_videos(shards, videos), ShardReader(shards)
    size = min(BATCH, len(videos))
    clips = TrainClips(shards, instances, reader, sampling, Augmentation(), batch_size=size, seed=0, steps=10**9)
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


def by_decoder(videos: list[Video], decoder: Decoder, stride: int, workers: int) -> Batches:
    """Batches of random clips, each read from a file that is opened for it, many passes long."""
    yield from DataLoader(_Decoded(videos, decoder, stride), BATCH, num_workers=workers)


class _Decoded(Dataset[Tensor]):
    def __init__(self, videos: list[Video], decoder: Decoder, stride: int) -> None:
        self.videos, self.decoder, self.stride = videos, decoder, stride

    def __len__(self) -> int:
        return 1000 * len(self.videos)

    def __getitem__(self, number: int) -> Tensor:
        video = open_video(self.videos[number % len(self.videos)].path, self.decoder)
        first = int(torch.randint(len(video) - FRAMES * self.stride + 1, ()))
        return _cut(video.get_batch(range(first, first + FRAMES * self.stride, self.stride)))


def _transform(clip: dict[str, Tensor]) -> Tensor:
    """Float (3, T, H, W) -> uint8 (16, 3, 112, 112)."""
    video = clip["video"]
    return _cut(video[:, torch.linspace(0, video.shape[1] - 1, FRAMES).long()].permute(1, 2, 3, 0).to(torch.uint8))


def _cut(frames: Tensor) -> Tensor:
    """Shrinks (T, H, W, 3) and cuts out a square somewhere: (T, 3, 112, 112)."""
    small = shrink(frames, SHORT_SIDE)
    top, left = (int(torch.randint(side - SIZE + 1, ())) for side in small.shape[-2:])
    return small[..., top : top + SIZE, left : left + SIZE].contiguous()
