"""All frames of some videos, decoded at once, and kept in a file for whoever needs them again."""

import contextlib
import functools
import hashlib
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BufferedReader
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

CHUNK = 4 * 2**20
"""Bytes after which a worker hands over what it has decoded, at the end of a video."""

PIECE = 64 * 2**20
"""Bytes that are read from the file at once."""

OPENED = 3
"""Times that a file is made anew which is gone before it could be opened."""

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
    place = 0
    for chunk in _decoded(shards, videos, workers):
        frames[place : place + len(chunk.frames)] = chunk.frames.to(frames.device)
        place += len(chunk.frames)
        failures |= chunk.failures
    return failures


def read_kept(frames: Tensor, shards: Shards, videos: npt.NDArray[np.int64], workers: int) -> Failures:
    """The same, out of a file in the cache of the corpus; whoever finds none there writes it.

    Raises:
        UnreachableError: As above.
        VieError: The cache has no room for the file.
    """
    with _open_kept(frames.nbytes, shards, videos, workers) as file:
        piece, flat = fresh((min(PIECE, frames.nbytes),)), frames.view(-1)
        for start in range(0, frames.nbytes, PIECE):
            part = piece[: frames.nbytes - start]
            file.readinto(part.numpy().data)
            flat[start : start + PIECE] = part.to(frames.device)
        failed = json.load(file)
    # Once more: what could not be read then, as a disk was missing, may be there by now.
    ends = np.cumsum(shards.num_frames[videos])
    failures: Failures = {}
    for row in np.flatnonzero(np.isin(videos, failed)).tolist():
        own = frames[ends[row] - shards.num_frames[videos[row]] : ends[row]]
        failures |= decode_into(own, shards, videos[row : row + 1], workers=0)
    return failures


def _open_kept(size: int, shards: Shards, videos: npt.NDArray[np.int64], workers: int) -> BufferedReader:
    what = f"frames 1 {hashlib.blake2b(videos.tobytes()).hexdigest()}"
    for _ in range(OPENED):
        path = shards.cached(what, size, functools.partial(_write, shards, videos, workers))
        with contextlib.suppress(FileNotFoundError):  # others needed its room since
            file = path.open("rb")
            if os.fstat(file.fileno()).st_size > size:
                return file
            file.close()
            path.unlink()  # whatever has cut it
    raise VieError(f"{path} goes as soon as it is written: set data.cache_bytes to more, or data.cache=device")


def _write(shards: Shards, videos: npt.NDArray[np.int64], workers: int, path: Path) -> None:
    """Writes the frames, and after them which videos could not be read, as JSON."""
    failed: list[int] = []
    with path.open("rb+") as file:
        for chunk in _decoded(shards, videos, workers):
            file.write(chunk.frames.numpy().data)
            failed += chunk.failures
        file.write(json.dumps(failed).encode())


def _decoded(shards: Shards, videos: npt.NDArray[np.int64], workers: int) -> Iterator["_Decoded"]:
    """All frames in order, some videos at a time; the memory of one chunk is used again after the next."""
    chunks = _Chunks(shards, videos)
    stream = Slots(chunks, range(len(chunks)), workers, chunks.largest).stream()
    with contextlib.closing(stream), tqdm(desc="decode", total=len(videos), leave=False) as bar:
        for number, chunk in enumerate(stream):
            yield chunk
            bar.update(len(chunks.rows[number]))


@dataclass(frozen=True)
class _Decoded:
    """Frames (n, H, W, 3) of some videos, and why those of others among them mean nothing."""

    frames: Tensor
    failures: Failures

    def with_frames(self, frames: Tensor) -> Self:
        return replace(self, frames=frames)


class _Chunks:
    """Some videos at a time, in memory that it is given.

    Attributes:
        rows: Row numbers of the videos of each chunk.
        largest: Bytes of the frames of the largest.
    """

    def __init__(self, shards: Shards, videos: npt.NDArray[np.int64]) -> None:
        self.shards = shards
        height, width = int(shards.height[videos[0]]), int(shards.width[videos[0]])
        self._picture = height, width, 3
        sizes = shards.num_frames[videos].astype(np.int64) * math.prod(self._picture)
        chunk = (np.cumsum(sizes) - sizes) // CHUNK
        starts = np.flatnonzero(np.diff(chunk, prepend=-1))
        self.rows = np.split(videos, starts[1:])
        self.largest = int(np.add.reduceat(sizes, starts).max())

    def __len__(self) -> int:
        return len(self.rows)

    def frame_bytes(self, number: int) -> int:
        return math.prod(self._shape(number))

    def make(self, number: int, room: Room = fresh) -> _Decoded:
        frames, failures, place = room(self._shape(number)), {}, 0
        for video in self.rows[number].tolist():
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

    def _shape(self, number: int) -> tuple[int, int, int, int]:
        return int(self.shards.num_frames[self.rows[number]].sum()), *self._picture
