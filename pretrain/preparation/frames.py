"""Frames as they are stored: shrunk, and each a JPEG file."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor
from torchvision.io import encode_jpeg
from torchvision.transforms.v2.functional import resize


@dataclass(frozen=True)
class Transcoded:
    """The frames of a video as JPEG files.

    Attributes:
        stream: The JPEG files one after another.
        frame_bytes: Length of each, in bytes.
        fps: Frames per second of the source; every frame is kept.
        height, width: Size of the stored frames, in pixels.
    """

    stream: bytes
    frame_bytes: list[int]
    fps: float
    height: int
    width: int


def encode_frames(fps: float, chunks: Iterable[Tensor], short_side: int, quality: int) -> Transcoded:
    """Shrinks frames and encodes each as JPEG.

    Args:
        fps: Frames per second.
        chunks: The frames in order, some at a time: uint8 (T, H, W, 3).
        short_side: See ``shrink``.
        quality: JPEG quality, 1 to 100.
    """
    encoded: list[bytes] = []
    height = width = 0
    for frames in chunks:
        small = shrink(frames, short_side)
        height, width = small.shape[2:]
        encoded.extend(encode_jpeg(image, quality=quality).numpy().tobytes() for image in small.contiguous())
    return Transcoded(b"".join(encoded), [len(frame) for frame in encoded], fps, height, width)


def shrink(frames: Tensor, short_side: int) -> Tensor:
    """Resizes frames so that the shorter side is ``short_side``; smaller frames are left alone.

    Args:
        frames: uint8 (T, H, W, 3).
        short_side: Pixels.

    Returns:
        uint8 (T, 3, H', W').
    """
    images = frames.permute(0, 3, 1, 2)
    height, width = images.shape[2:]
    scale = short_side / min(height, width)
    if scale >= 1:
        return images
    small: Tensor = resize(images, [round(height * scale), round(width * scale)], antialias=True)
    return small
