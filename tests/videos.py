"""Writes small real video files for the tests."""

import shutil
from pathlib import Path

import av
import numpy as np


def pictures(count, height=96, width=128, seed=0):
    """A smooth coloured texture that drifts, uint8 (T, H, W, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = rng.uniform(0.02, 0.12, size=(3, 2))
    phase = rng.uniform(0, 6, size=3)
    time = np.arange(count)[:, None, None]
    channels = [np.sin(wave[0] * y + wave[1] * x + p + 0.2 * time) for wave, p in zip(waves, phase, strict=True)]
    return (127.5 + 110 * np.stack(channels, axis=-1)).astype(np.uint8)


def write_video(path, frames=30, height=96, width=128, fps=25, seed=0, gop=12, codec="libx264", **options):
    """Writes an H.264 file with its header in front, so that a cut file still opens."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    movflags = {"movflags": "+faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=movflags) as container:
        stream = container.add_stream(codec, rate=fps, options={"crf": "18", "g": str(gop), **options})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for picture in pictures(frames, height, width, seed):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_sound(path):
    """Writes an mp4 file without a video stream."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        frame.rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def cut(source, target, share):
    """Copies the first part of a file."""
    data = Path(source).read_bytes()
    Path(target).write_bytes(data[: int(share * len(data))])
    return target


def cut_after_packet(source, target, packets):
    """Copies a file up to the middle of a packet, and returns how many whole packets are left."""
    with av.open(str(source)) as container:
        places = sorted((packet.pos, packet.size) for packet in container.demux(video=0) if packet.size)
    place, size = places[packets]
    shutil.copy(source, target)
    with Path(target).open("r+b") as file:
        file.truncate(place + size // 2)
    return packets
