"""From rows and frame numbers to pixels: out of the shards, or out of a copy of the corpus on the device."""

from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pretrain.data.decoded import decode_into, read_kept
from pretrain.data.room import Room, fresh
from vie.errors import UnreachableError, VieError
from vie.video import Shards
from vie.video.pixels import Boxes

Pictures = TypeVar("Pictures", Tensor, npt.NDArray[np.uint8])


@dataclass(frozen=True)
class Pixels:
    """Frames of those clips that could be read.

    Attributes:
        frames: (B', T, H, W, 3) uint8.
        boxes: (B', 4) the crops, in pixels of ``frames``.
        kept: (B',) which of the clips asked for these are.
        failures: What was wrong with each of the others, by its position.
    """

    frames: Tensor
    boxes: Boxes
    kept: npt.NDArray[np.int64]
    failures: dict[int, str]


class ClipReader(Protocol):
    """Reads clips of videos."""

    def read(
        self, videos: npt.NDArray[np.int64], frames: npt.NDArray[np.int64], boxes: Boxes, room: Room = fresh
    ) -> Pixels:
        """Reads clips.

        Args:
            videos: (B,) row numbers in the corpus.
            frames: (B, T) frame numbers.
            boxes: (B, 4) the crop that will be cut out of each.
            room: For the frames, unless they lie somewhere already.
        """
        ...


class ShardReader:
    """Decodes from the shards and keeps the cropped part only; runs in worker processes."""

    def __init__(self, shards: Shards) -> None:
        self.shards = shards

    def read(
        self, videos: npt.NDArray[np.int64], frames: npt.NDArray[np.int64], boxes: Boxes, room: Room = fresh
    ) -> Pixels:
        clips: list[list[Tensor]] = []
        moved: list[npt.NDArray[np.float32]] = []
        kept: list[int] = []
        failures: dict[int, str] = {}
        for number, (video, wanted, box) in enumerate(zip(videos.tolist(), frames, boxes, strict=True)):
            top, left, bottom, right = reach(box)
            try:
                pictures = self.shards.decode(video, wanted)
            except UnreachableError:  # not damage: the clip of a later try would be another than that of this one
                raise
            except VieError as error:
                failures[number] = str(error)
                continue
            clips.append([picture[top:bottom, left:right] for picture in pictures])
            moved.append(box - np.array([top, left, 0, 0], dtype=np.float32))
            kept.append(number)
        if not clips:
            nothing = torch.empty((0, frames.shape[1], 1, 1, 3), dtype=torch.uint8)
            return Pixels(nothing, boxes[:0], np.empty(0, dtype=np.int64), failures)
        return Pixels(_stack_padded(clips, room), np.stack(moved), np.asarray(kept), failures)


class DeviceReader:
    """Decodes the given videos once and keeps their frames on a device, for corpora that fit there."""

    def __init__(
        self,
        shards: Shards,
        videos: npt.NDArray[np.int64],
        device: torch.device,
        workers: int = 0,
        kept: bool = False,
    ) -> None:
        """Decodes them.

        Args:
            shards: The corpus.
            videos: Row numbers, each once or more.
            device: Where the frames lie from now on.
            workers: Processes that decode.
            kept: Whether decoded frames are read from the cache of the corpus, and left there for others.

        Raises:
            VieError: The pictures have several sizes, or take more memory than the device or the cache has.
        """
        videos = np.unique(videos)
        sizes = np.unique(np.stack([shards.height[videos], shards.width[videos]]), axis=1)
        if sizes.shape[1] != 1:
            raise VieError(
                f"{shards.path} holds pictures of {sizes.shape[1]} sizes, which cannot be kept together on the device: "
                "set data.cache=none"
            )
        self.device = device
        counts = shards.num_frames[videos]
        self._first = dict(zip(videos.tolist(), (np.cumsum(counts) - counts).tolist(), strict=True))
        height, width = sizes[:, 0].tolist()
        try:
            self._store = torch.empty((int(counts.sum()), height, width, 3), dtype=torch.uint8, device=device)
        except RuntimeError as error:
            size = int(counts.sum()) * height * width * 3 / 2**30
            raise VieError(
                f"{shards.path} takes {size:.1f} GiB, more than {device} has: set data.cache=none"
            ) from error
        self.failures = (read_kept if kept else decode_into)(self._store, shards, videos, workers)

    def read(
        self, videos: npt.NDArray[np.int64], frames: npt.NDArray[np.int64], boxes: Boxes, room: Room = fresh
    ) -> Pixels:
        failures = {i: self.failures[video] for i, video in enumerate(videos.tolist()) if video in self.failures}
        kept = np.asarray([i for i in range(len(videos)) if i not in failures], dtype=np.int64)
        first = np.asarray([self._first[video] for video in videos[kept].tolist()], dtype=np.int64)
        index = torch.from_numpy(first[:, None] + frames[kept]).to(self.device, non_blocking=True)
        return Pixels(self._store[index], boxes[kept], kept, failures)


def reach(box: npt.NDArray[np.float32]) -> tuple[int, int, int, int]:
    """Top, left, bottom and right of the pixels that a crop (4,) is sampled from."""
    # Bilinear sampling reaches one pixel past the box; what lies outside the picture repeats its border.
    top, left = (max(0, int(np.floor(edge)) - 1) for edge in box[:2])
    bottom, right = (int(np.ceil(edge + side)) + 1 for edge, side in zip(box[:2], box[2:], strict=True))
    return top, left, bottom, right


def repeat_border(pictures: Pictures, rows: int, columns: int) -> None:
    """Fills pictures (..., H, W, 3), of which only rows and columns up to these are set, with the last of each."""
    if rows < pictures.shape[-3]:
        pictures[..., rows:, :columns, :] = pictures[..., rows - 1 : rows, :columns, :]
    if columns < pictures.shape[-2]:
        pictures[..., columns:, :] = pictures[..., columns - 1 : columns, :]


def _stack_padded(clips: list[list[Tensor]], room: Room) -> Tensor:
    """Stacks clips of pictures (h, w, 3), padding each to the largest by repeating its last row and column."""
    height, width = (max(clip[0].shape[axis] for clip in clips) for axis in (0, 1))
    stacked = room((len(clips), len(clips[0]), height, width, 3))
    # NumPy copies pieces of this size in half the time that PyTorch takes.
    for target, clip in zip(stacked.numpy(), clips, strict=True):
        rows, columns = clip[0].shape[:2]
        for place, picture in zip(target, clip, strict=True):
            place[:rows, :columns] = picture.numpy()
            repeat_border(place, rows, columns)
    return stacked
