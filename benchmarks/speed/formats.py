"""How fast, how large and how faithful are the ways to keep a video corpus for training?

One run compares, on the same clips of the same source files and on one processor: the source files read by
PyTorchVideo, decord and torchcodec; short-GOP H.264 files of 128 pixels; and the shards of ``vie-pretrain prepare``. A
clip is 16 frames, ready when it is a uint8 tensor of 112x112. Sources are opened anew for every clip, as a training job
does.
"""

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.speed.fidelity import psnr, ssim
from benchmarks.speed.record import Job, Table, scratch
from benchmarks.speed.sources import has_decoder, has_pytorchvideo, source_videos
from pretrain.preparation.frames import shrink
from pretrain.preparation.inputs import Video
from pretrain.preparation.prepare import PrepareConfig, prepare
from vie.video.shards import Shards
from vie.video.source import Decoder, open_video

SHORT_SIDE, CROP, FRAMES, STRIDES = 128, 112, 16, (1, 4)
QUALITIES = (75, 90, 95)
COLUMNS = {
    **{"storage": "", "reader": "", "kB/video": ".0f"},
    **{f"clips/s, stride {stride}": ".1f" for stride in STRIDES},
    **{"PSNR, dB": ".1f", "SSIM": ".4f"},
}

Read = Callable[[int, Sequence[int]], Tensor]  # video, frame numbers with a constant stride -> uint8 (T, H, W, 3)


@dataclass
class Row:
    """One line of the table.

    Attributes:
        clips_per_second: Median over the repeats, by stride.
        spread: Slowest and fastest repeat, by stride.
        psnr, ssim: Against the source's frames shrunk to the same size; none for the source itself.
    """

    storage: str
    reader: str
    bytes_per_video: float
    clips_per_second: dict[int, float] = field(default_factory=dict)
    spread: dict[int, tuple[float, float]] = field(default_factory=dict)
    psnr: float | None = None
    ssim: float | None = None


def measure(job: Job) -> None:
    """Measures every way to keep the videos, at every stride."""
    table = Table(job, "formats", COLUMNS)
    with scratch() as folder:
        try:
            videos = source_videos(job, Path(folder), most=16, synthetic=8)
            formats = build_formats(table, videos, Path(folder))
        except ImportError as error:
            return table.skip("everything", f"no video can be written ({error})")
        measure_fidelity(formats, videos)
        measure_speed(formats, videos, *((1, 1) if job.quick else (24, 5)))
    for row, _ in formats:
        speeds = {f"clips/s, stride {stride}": row.clips_per_second.get(stride) for stride in STRIDES}
        fidelity = {"PSNR, dB": row.psnr, "SSIM": row.ssim, "range by stride": row.spread}
        kept = {"storage": row.storage, "reader": row.reader, "kB/video": row.bytes_per_video / 1000}
        table.add(**kept, **speeds, **fidelity)


def build_formats(table: Table, videos: list[Video], folder: Path) -> list[tuple[Row, Read]]:
    """Stores the videos in every way, and returns how each is read."""
    sources = [video.path for video in videos]
    short = [reencode(path, folder / "short" / f"{i}.mp4") for i, path in enumerate(sources)]
    formats = [(Row("source files", "pytorchvideo", mean_size(sources)), by_pytorchvideo(sources))] * has_pytorchvideo(
        table
    )
    decoders: list[Decoder] = [decoder for decoder in ("decord", "torchcodec") if has_decoder(table, decoder)]
    formats += [(Row("source files", name, mean_size(sources)), by_decoder(sources, name)) for name in decoders]
    label = f"H.264, {SHORT_SIDE} px, GOP 8"
    formats += [(Row(label, name, mean_size(short)), by_decoder(short, name)) for name in decoders]
    for quality in QUALITIES:
        config = PrepareConfig(short_side=SHORT_SIDE, quality=quality)
        prepare(videos, folder / f"shards{quality}", config, progress=False)
        shards = Shards(folder / f"shards{quality}")
        size = sum(int(shards.locate(i, range(n)).lengths.sum()) for i, n in enumerate(shards.num_frames)) / len(shards)
        formats.append((Row(f"shards, {SHORT_SIDE} px, JPEG {quality}", "vie", size), by_shards(shards)))
    return formats


def by_shards(shards: Shards) -> Read:
    """Reads frames and keeps the middle, as training keeps its crop."""

    def read(video: int, frames: Sequence[int]) -> Tensor:
        rows, columns = (centre(int(side[video])) for side in (shards.height, shards.width))
        return torch.stack([picture[rows, columns] for picture in shards.decode(video, frames)])

    return read


def by_decoder(paths: list[Path], decoder: Decoder) -> Read:
    """Reads frames and shrinks them, as far as they are larger than what is trained on."""

    def read(video: int, frames: Sequence[int]) -> Tensor:
        return shrink(open_video(paths[video], decoder).get_batch(frames), SHORT_SIDE).permute(0, 2, 3, 1)

    return read


def by_pytorchvideo(paths: list[Path]) -> Read:
    """Reads a span of time and picks the frames out of it, as PyTorchVideo's datasets and transforms do."""
    rates = [open_video(path).fps for path in paths]

    def read(video: int, frames: Sequence[int]) -> Tensor:
        from pytorchvideo.data.encoded_video import EncodedVideo

        encoded = EncodedVideo.from_path(str(paths[video]), decode_audio=False)
        rate, stride = rates[video], frames[1] - frames[0]
        clip = encoded.get_clip(frames[0] / rate, (frames[-1] + stride) / rate)["video"]  # float (3, T, H, W), 0 to 255
        encoded.close()
        picked = torch.linspace(0, clip.shape[1] - 1, len(frames)).long()
        return shrink(clip[:, picked].permute(1, 2, 3, 0).to(torch.uint8), SHORT_SIDE).permute(0, 2, 3, 1)

    return read


def reencode(source: Path, target: Path) -> Path:
    """Writes a small copy that is quick to decode anywhere: a key frame every 8 frames, and no loop filter."""
    import av

    target.parent.mkdir(parents=True, exist_ok=True)
    video = open_video(source)
    with av.open(str(target), "w") as container:
        options = {"crf": "18", "g": "8", "preset": "medium", "tune": "fastdecode"}
        stream = container.add_stream("libx264", rate=round(video.fps), options=options)
        stream.height, stream.width = (side // 2 * 2 for side in shrink(video.get_batch([0]), SHORT_SIDE).shape[2:])
        stream.pix_fmt = "yuv420p"
        for start in range(0, len(video), 32):
            small = shrink(video.get_batch(range(start, min(start + 32, len(video)))), SHORT_SIDE).permute(0, 2, 3, 1)
            for frame in small[:, : stream.height, : stream.width].contiguous().numpy():
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return target


def measure_fidelity(formats: list[tuple[Row, Read]], videos: list[Video]) -> None:
    """Compares 16 evenly spaced frames of every video with the source's."""
    for row, read in formats:
        if row.storage == "source files":
            continue
        scores = []
        for i, video in enumerate(videos):
            source = open_video(video.path)
            frames = np.linspace(0, len(source) - 1, FRAMES).astype(np.int64)
            stored = crop(read(i, frames.tolist()))
            wanted = crop(shrink(source.get_batch(frames), SHORT_SIDE).permute(0, 2, 3, 1))
            scores.append((psnr(stored, wanted), ssim(stored, wanted)))
        row.psnr, row.ssim = (statistics.mean(values) for values in zip(*scores, strict=True))


def measure_speed(formats: list[tuple[Row, Read]], videos: list[Video], clips: int, repeats: int) -> None:
    """Times the formats in turns, so that a slow minute of the machine strikes all of them."""
    lengths = [len(open_video(video.path)) for video in videos]
    rng = np.random.default_rng(0)
    everywhere = os.sched_getaffinity(0)
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {min(everywhere)})
    try:
        for stride in STRIDES:
            eligible = [i for i, length in enumerate(lengths) if length >= FRAMES * stride]
            if not eligible:
                continue
            chosen = rng.choice(eligible, size=clips)
            wanted = [(int(i), int(rng.integers(lengths[i] - FRAMES * stride + 1))) for i in chosen]
            rates: list[list[float]] = [[] for _ in formats]
            for _ in range(repeats):
                for (_, read), found in zip(formats, rates, strict=True):
                    began = time.perf_counter()
                    for video, first in wanted:
                        crop(read(video, range(first, first + FRAMES * stride, stride)))
                    found.append(clips / (time.perf_counter() - began))
            for (row, _), found in zip(formats, rates, strict=True):
                row.clips_per_second[stride] = statistics.median(found)
                row.spread[stride] = (min(found), max(found))
    finally:
        os.sched_setaffinity(0, everywhere)


def crop(frames: Tensor) -> Tensor:
    """The middle of the frames, ready to be sent to a device."""
    return frames[:, centre(frames.shape[1]), centre(frames.shape[2])].contiguous()


def centre(side: int) -> slice:
    """The middle of a side."""
    return slice((side - CROP) // 2, (side + CROP) // 2)


def mean_size(paths: list[Path]) -> float:
    """Mean size of files, in bytes."""
    return statistics.mean(path.stat().st_size for path in paths)
