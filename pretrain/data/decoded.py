"""All frames of some videos, decoded at once, and kept in a file for whoever needs them again."""

import functools
import hashlib
import json
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from pretrain.data.room import Room, fresh
from pretrain.data.slots import Slots
from vie.errors import UnreachableError, VieError
from vie.video import Shards

CHUNK = 16
"""Videos that a worker decodes before it hands them over."""

Failures = dict[int, str]
"""Why a video cannot be read, by its row number."""


def decode_into(frames: Tensor, shards: Shards, videos: npt.NDArray[np.int64], workers: int) -> Failures:
    """Decodes videos one after another.

    Args:
        frames: uint8 (N, H, W, 3), on any device, for the frames of all videos in order. Those of a video that cannot
            be read mean nothing.
        shards: The corpus.
        videos: Row numbers; all have the same picture size.
        workers: Processes that decode; 0 decodes in this one.

    Raises:
        UnreachableError: A video could not be fetched; nothing is known of it.
    """
    failures: Failures = {}
    chunks, place = _Chunks(shards, videos), 0
    decoded = Slots(chunks, range(len(chunks)), workers).stream()
    for chunk in tqdm(decoded, "decode", len(chunks), unit=f"{CHUNK} videos", leave=False):
        frames[place : place + len(chunk.frames)] = chunk.frames.to(frames.device)
        place += len(chunk.frames)
        failures |= chunk.failures
    return failures


def read_kept(frames: Tensor, shards: Shards, videos: npt.NDArray[np.int64], workers: int) -> Failures:
    """The same, out of a file beside what else is cached of the corpus; whoever finds none there writes it.

    Raises:
        UnreachableError: As above.
        VieError: The cache has no room for the file.
    """
    write = functools.partial(_write, frames.shape, shards, videos, workers)
    path = shards.cached(f"frames 1 {hashlib.blake2b(videos.tobytes()).hexdigest()}", frames.nbytes, write)
    frames.copy_(torch.from_file(str(path), size=frames.nbytes, dtype=torch.uint8).view(frames.shape))
    with path.open("rb") as file:
        file.seek(frames.nbytes)
        return {int(video): cause for video, cause in json.load(file).items()}


def _write(shape: torch.Size, shards: Shards, videos: npt.NDArray[np.int64], workers: int, path: Path) -> None:
    """Writes the frames, and after them the failures as JSON."""
    size = shape.numel()
    with path.open("rb+") as file:
        os.posix_fallocate(file.fileno(), 0, size)  # a disk that is full would end the process while it writes below
    mapped = torch.from_file(str(path), shared=True, size=size, dtype=torch.uint8)
    failures = decode_into(mapped.view(shape), shards, videos, workers)
    with path.open("ab") as file:
        file.write(json.dumps(failures).encode())


@dataclass(frozen=True)
class _Decoded:
    """Frames (n, H, W, 3) of some videos, and why those of others among them mean nothing."""

    frames: Tensor
    failures: Failures

    def with_frames(self, frames: Tensor) -> Self:
        return replace(self, frames=frames)


class _Chunks:
    """Some videos at a time, in memory that it is given."""

    def __init__(self, shards: Shards, videos: npt.NDArray[np.int64]) -> None:
        self.shards, self.videos = shards, videos

    def __len__(self) -> int:
        return -(-len(self.videos) // CHUNK)

    def frame_bytes(self, number: int) -> int:
        return math.prod(self._shape(number))

    def make(self, number: int, room: Room = fresh) -> _Decoded:
        frames, failures, place = room(self._shape(number)), {}, 0
        for video in self._chunk(number).tolist():
            count = int(self.shards.num_frames[video])
            try:
                decoded = self.shards.decode(video, np.arange(count))
                torch.stack(decoded, out=frames[place : place + count])
            except UnreachableError:
                raise
            except VieError as error:
                failures[video] = str(error)
            place += count
        return _Decoded(frames, failures)

    __getitem__ = make

    def _chunk(self, number: int) -> npt.NDArray[np.int64]:
        return self.videos[number * CHUNK : (number + 1) * CHUNK]

    def _shape(self, number: int) -> tuple[int, int, int, int]:
        chunk = self._chunk(number)
        first = chunk[0]
        return (
            int(self.shards.num_frames[chunk].sum()),
            int(self.shards.height[first]),
            int(self.shards.width[first]),
            3,
        )
