"""One video file into a stream of small JPEG frames. This runs in a worker process, which may be killed at any time."""

import contextlib
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor

from pretrain.preparation.frames import Transcoded, encode_frames
from vie.errors import VieError
from vie.video.picture import is_picture, read_picture
from vie.video.source import Decoder, open_video

CHUNK = 16  # frames decoded at once: large enough for speed, small enough for a worker's memory at 4K
PICTURE_FPS = 25.0  # a rate that every sampling takes; one frame is the same at any
TOLERATED_LOSS = 0.05  # share of the announced frames that may be missing at the end


def transcode(
    path: Path, short_side: int, quality: int, decoder: Decoder = "decord", min_frames: int = 3
) -> Transcoded:
    """Decodes a whole video, shrinks it and encodes every frame as JPEG; a picture is a video of one frame.

    Args:
        path: The video or picture file.
        short_side: Pixels of the shorter side of the stored frames; smaller videos keep their size.
        quality: JPEG quality, 1 to 100.
        decoder: See ``vie.video.source.open_video``.
        min_frames: A video with fewer frames is refused; a picture is not.

    Raises:
        VieError: The file is missing, empty, no video, damaged, truncated or too short, or tells no frame rate.
    """
    _require_content(path)
    if is_picture(path):
        return encode_frames(PICTURE_FPS, [read_picture(path)[None]], short_side, quality)
    announced = announced_frames(path)
    try:
        result = encode_frames(*_decode(path, decoder), short_side, quality)
    except VieError:
        result = encode_frames(*_salvage(path), short_side, quality)
    count = len(result.frame_bytes)
    if count < (1 - TOLERATED_LOSS) * announced:
        raise VieError(f"{path}: truncated or damaged: {count} of {announced} frames can be decoded")
    if count < min_frames:
        raise VieError(f"{path}: too short: {count} frames, at least {min_frames} are needed")
    return result if _is_rate(result.fps) else replace(result, fps=_guessed_rate(path))


def announced_frames(path: Path) -> int:
    """Number of frames that the container promises, whether or not they are there.

    A decoder's own count does not serve: it counts the packets that are present, so a truncated file looks complete.

    Raises:
        VieError: The file is no media file, or holds no video stream.
    """
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise VieError(f"{path}: no video stream")
            stream = container.streams.video[0]
            if not stream.frames:
                return _announced_by_time(container, stream)
            if not stream.duration or not stream.average_rate or not stream.time_base:
                return int(stream.frames)
            # An edit list may hide frames that the table of frames counts; the duration knows.
            return min(stream.frames, math.ceil(stream.duration * stream.time_base * stream.average_rate))
    except av.FFmpegError as error:
        cause = error.strerror or type(error).__name__
        raise VieError(f"{path}: not a video file, or cut before its header ({cause})") from error


def _require_content(path: Path) -> None:
    if not path.exists():
        raise VieError(f"{path}: no such file")
    if not path.is_file():  # a named pipe would be waited for until the time is up
        raise VieError(f"{path}: a folder, a pipe or a device, not a file")
    if path.stat().st_size == 0:
        raise VieError(f"{path}: the file is empty (0 bytes)")


def _is_rate(fps: float) -> bool:
    return math.isfinite(fps) and fps > 0


def _guessed_rate(path: Path) -> float:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate):
            if rate and _is_rate(float(rate)):
                return float(rate)
    raise VieError(f"{path}: tells no frame rate")


def _announced_by_time(container: "av.container.InputContainer", stream: "av.VideoStream") -> int:
    """Frames present, scaled by how much of the container's duration its packets cover."""
    packets, end = 0, 0.0
    for packet in container.demux():
        if packet.pts is None or packet.time_base is None:
            continue
        end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        packets += packet.stream_index == stream.index
    # Matroska counts its duration from 0, wherever the first frame is.
    start = min(0, container.start_time or 0) / av.time_base
    if not container.duration or end <= start:
        return packets
    return round(packets * max(1.0, container.duration / av.time_base / (end - start)))


def _decode(path: Path, decoder: Decoder) -> tuple[float, Iterator[Tensor]]:
    source = open_video(path, decoder)
    starts = range(0, len(source), CHUNK)
    return source.fps, (source.get_batch(range(start, min(start + CHUNK, len(source)))) for start in starts)


def _salvage(path: Path) -> tuple[float, Iterator[Tensor]]:
    """All frames before the first damaged packet.

    The decoders behind ``open_video`` are no help here: they read ahead, and an error then takes good frames with it,
    in decord's case as many as the timing of its threads happens to decide.
    """

    def decoded() -> Iterator[av.VideoFrame]:
        with av.open(str(path)) as container:
            with contextlib.suppress(av.FFmpegError):
                for packet in container.demux(video=0):
                    yield from packet.decode()
                return
            with contextlib.suppress(av.FFmpegError):  # the decoder still holds the frames that it reorders
                yield from container.streams.video[0].decode(None)

    def frames() -> Iterator[Tensor]:
        size: tuple[int, int] | None = None
        for frame in decoded():
            size = size or (frame.width, frame.height)  # as the other decoders do where it changes on the way
            yield _pixels(frame, *size)

    with av.open(str(path)) as container:
        rate = container.streams.video[0].average_rate
    return float(rate or 0), frames()


def _pixels(frame: av.VideoFrame, width: int, height: int) -> Tensor:
    pixels = frame.to_ndarray(format="rgb24", width=width, height=height)
    upright = np.rot90(pixels, frame.rotation // 90)  # as the other decoders do by themselves
    return torch.from_numpy(upright.copy())[None]


def start_worker() -> None:
    """Prepares a worker process: one thread, and no chatter of the decoders on the terminal."""
    torch.set_num_threads(1)
    av.logging.set_level(av.logging.PANIC)
    # Decoders print on the file descriptor itself; what matters comes back as an exception or an exit status.
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 2)
    os.close(silence)
