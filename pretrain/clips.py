"""The clips of a step and the clips of a test, ready for the device."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pretrain.order import batch_instances, steps_per_epoch
from pretrain.readers import ClipReader, DeviceReader
from vie import VieError
from vie.video import Augmentation, Draw, Sampling, Shards, clip_frames, draw, even_positions
from vie.video.pixels import Boxes, centre_boxes


@dataclass(frozen=True)
class TrainBatch:
    """The clips of one step; those that could not be read are left out, and named.

    Attributes:
        instances: (B,) instance numbers, which are bank rows.
        frames: (B, T, H, W, 3) uint8.
        boxes: (B, 4) crops in pixels of ``frames``.
        drawn: The augmentation of these clips.
        failures: Reasons by instance number.
    """

    instances: npt.NDArray[np.int64]
    frames: Tensor
    boxes: Boxes
    drawn: Draw
    failures: dict[int, str]

    def pin_memory(self) -> "TrainBatch":
        return replace(self, frames=self.frames.pin_memory())


class TrainClips:
    """The batch of any step, as a function of (seed, step) alone: resuming is asking for a later step."""

    def __init__(
        self,
        shards: Shards,
        videos: npt.NDArray[np.int64],
        reader: ClipReader,
        sampling: Sampling,
        augmentation: Augmentation,
        *,
        batch_size: int,
        seed: int,
        steps: int,
    ) -> None:
        """Plans the steps of a run; ``videos`` are the rows of the corpus that are instances 0 to N - 1."""
        self.shards = shards
        self.videos = videos
        self.reader = reader
        self.sampling = sampling
        self.augmentation = augmentation
        self.batch_size = batch_size
        self.seed = seed
        self.steps = steps
        self.steps_per_epoch = steps_per_epoch(len(videos), batch_size)

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> TrainBatch:
        instances = batch_instances(self.seed, step, len(self.videos), self.batch_size)
        videos = self.videos[instances]
        drawn = draw(
            self.augmentation,
            self.sampling.size,
            self.shards.height[videos],
            self.shards.width[videos],
            seed=self.seed,
            epoch=step // self.steps_per_epoch,
            instances=instances,
            binned_frames=self.sampling.frames if self.sampling.binned else 0,
        )
        frames = clip_frames(
            self.sampling,
            self.shards.num_frames[videos],
            self.shards.fps[videos],
            drawn.position,
            in_bin=drawn.in_bin,
        )
        pixels = self.reader.read(videos, frames, drawn.boxes)
        if len(pixels.kept) == 0:
            raise VieError(f"none of {len(videos)} clips can be read, the first because: {pixels.failures[0]}")
        return TrainBatch(
            instances[pixels.kept],
            pixels.frames,
            pixels.boxes,
            drawn.take(pixels.kept),
            {int(instances[position]): reason for position, reason in pixels.failures.items()},
        )


@dataclass(frozen=True)
class EvalBatch:
    """Test clips.

    Attributes:
        positions: (B,) which of the videos asked for each clip shows.
        frames: (B, T, H, W, 3) uint8.
        boxes: (B, 4) centre crops.
    """

    positions: npt.NDArray[np.int64]
    frames: Tensor
    boxes: Boxes

    def pin_memory(self) -> "EvalBatch":
        return replace(self, frames=self.frames.pin_memory())


class EvalClips:
    """Evenly spread, centre-cropped clips of given videos, in batches of whole clips."""

    def __init__(
        self,
        shards: Shards,
        videos: npt.NDArray[np.int64],
        reader: ClipReader,
        sampling: Sampling,
        *,
        clips: int,
        batch_size: int,
    ) -> None:
        self.shards = shards
        self.reader = reader
        self.sampling = sampling
        self.videos = videos
        self.clip_position = np.repeat(np.arange(len(videos)), clips)
        self.clip_start = np.tile(even_positions(clips), len(videos))
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.clip_position) // self.batch_size)

    def __getitem__(self, number: int) -> EvalBatch:
        part = slice(number * self.batch_size, (number + 1) * self.batch_size)
        positions = self.clip_position[part]
        videos = self.videos[positions]
        shards = self.shards
        frames = clip_frames(self.sampling, shards.num_frames[videos], shards.fps[videos], self.clip_start[part])
        boxes = centre_boxes(shards.height[videos], shards.width[videos], self.sampling.size)
        pixels = self.reader.read(videos, frames, boxes)
        return EvalBatch(positions[pixels.kept], pixels.frames, pixels.boxes)


def workers_for(reader: ClipReader, workers: int) -> int:
    """Worker processes that help a reader: none where the pixels are on the device already."""
    return 0 if isinstance(reader, DeviceReader) else workers
