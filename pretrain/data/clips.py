"""The clips of a step and the clips of a test, ready for the device."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pretrain.data.instances import Instances
from pretrain.data.order import batch_instances, steps_per_epoch
from pretrain.data.readers import ClipReader, DeviceReader, Pixels, reach
from pretrain.data.room import Room, fresh
from vie import VieError
from vie.bank import PADDING
from vie.distributed import ALONE, Ranks
from vie.video import Augmentation, Draw, Sampling, Shards, clip_frames, draw, even_positions
from vie.video.pixels import Boxes, centre_boxes


@dataclass(frozen=True)
class Shown:
    """What a step shows, before any pixel is read: V views of B instances, the first views of all of them first.

    Attributes:
        instances: (B,) their numbers.
        videos: (V x B,) rows of the corpus.
        frames: (V x B, T) frame numbers.
        drawn: The augmentation.
    """

    instances: npt.NDArray[np.int64]
    videos: npt.NDArray[np.int64]
    frames: npt.NDArray[np.int64]
    drawn: Draw


def frame_bytes(shown: Shown, count: int) -> int:
    """Bytes of the first clips of a step, as they are cut out, if all are as large as the largest of them."""
    if not count:
        return 0
    reached = np.array([reach(box) for box in shown.drawn.boxes[:count]])
    height, width = (reached[:, 2:] - reached[:, :2]).max(axis=0)
    return 3 * count * shown.frames.shape[1] * int(height) * int(width)


@dataclass(frozen=True)
class TrainBatch:
    """The clips of one step; those that could not be read are left out, and named.

    Attributes:
        instances: (B,) instance numbers, which are bank rows, or ``PADDING``.
        frames: (views x B, T, H, W, 3) uint8: the first views of all instances, then their second views.
        boxes: (views x B, 4) crops in pixels of ``frames``.
        drawn: The augmentation of these clips.
        failures: Reasons by instance number; an instance is left out whole if one of its views cannot be read.
    """

    instances: npt.NDArray[np.int64]
    frames: Tensor
    boxes: Boxes
    drawn: Draw
    failures: dict[int, str]

    @property
    def is_empty(self) -> bool:
        """Whether no clip could be read: its only instance is padding."""
        return len(self.failures) > 0 and self.instances[0] == PADDING

    def pin_memory(self) -> "TrainBatch":
        return self.with_frames(self.frames.pin_memory())

    def with_frames(self, frames: Tensor) -> "TrainBatch":
        """The same with its frames elsewhere."""
        return replace(self, frames=frames)

    def to(self, device: torch.device) -> "TrainBatch":
        """The same with its frames on a device."""
        return self.with_frames(self.frames.to(device, non_blocking=True))


class TrainClips:
    """The batch of any step, as a function of (seed, step) alone: resuming is asking for a later step."""

    def __init__(
        self,
        shards: Shards,
        instances: Instances,
        reader: ClipReader,
        sampling: Sampling,
        augmentation: Augmentation,
        *,
        batch_size: int,
        seed: int,
        steps: int,
        views: int = 1,
        ranks: Ranks = ALONE,
    ) -> None:
        """Plans the steps of a run.

        Args:
            shards: The prepared corpus.
            instances: What is shown.
            reader: Of the pixels.
            sampling: The clip.
            augmentation: Its strengths.
            batch_size: Instances in a step, over all ranks.
            seed: Of the run.
            steps: Of the run.
            views: Clips of each instance in a step, drawn independently.
            ranks: Each takes its share of every batch.

        Raises:
            VieError: The batch cannot be divided between the ranks.
        """
        if batch_size % ranks.size:
            raise VieError(f"data.batch_size={batch_size} cannot be divided between {ranks.size} ranks: change either")
        self.ranks = ranks
        self.part = ranks.share(batch_size)
        self.shards = shards
        self.instances = instances
        self.reader = reader
        self.sampling = sampling
        self.augmentation = augmentation
        self.batch_size = batch_size
        self.seed = seed
        self.steps = steps
        self.views = views
        self.steps_per_epoch = steps_per_epoch(len(instances), batch_size)

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> TrainBatch:
        return self.make(step)

    def make(self, step: int, room: Room = fresh) -> TrainBatch:
        """The batch of a step, with its frames in memory that ``room`` gives."""
        shown = self.show(step)
        return self.batch(shown, self.reader.read(shown.videos, shown.frames, shown.drawn.boxes, room))

    def show(self, step: int) -> Shown:
        """What a step shows."""
        whole = batch_instances(self.seed, step, len(self.instances), self.batch_size)
        instances = whole[self.part.start : self.part.stop]
        shown = np.tile(instances, self.views)
        videos = self.instances.videos[shown]
        drawn = draw(
            self.augmentation,
            self.sampling.size,
            self.shards.height[videos],
            self.shards.width[videos],
            seed=self.seed,
            epoch=step // self.steps_per_epoch,
            instances=shown,
            binned_frames=self.sampling.frames if self.sampling.binned else 0,
            view=np.repeat(np.arange(self.views), len(instances)),
        )
        frames = clip_frames(
            self.sampling,
            self.shards.num_frames[videos],
            self.shards.fps[videos],
            drawn.position,
            in_bin=drawn.in_bin,
            within=(self.instances.first[shown], self.instances.starts[shown]),
        )
        return Shown(instances, videos, frames, drawn)

    def frame_bytes(self, step: int) -> int:
        """Bytes of the frames of a step, if all are as large as the largest of them."""
        return frame_bytes(self.show(step), len(self.part) * self.views)

    def batch(self, step: Shown, pixels: Pixels) -> TrainBatch:
        """The batch of a step, of the pixels that could be read; raises ``VieError`` if nothing of it could be."""
        instances, drawn = step.instances, step.drawn
        shown = np.tile(instances, self.views)
        failures = {int(shown[position]): reason for position, reason in pixels.failures.items()}
        instances = instances[~np.isin(instances, list(failures))]
        if len(instances) == 0:
            return self._nothing(drawn, failures)
        readable = np.isin(shown[pixels.kept], instances)
        return TrainBatch(
            instances,
            # A copy only where a view of an instance was read in vain.
            pixels.frames if readable.all() else pixels.frames[torch.from_numpy(readable)],
            pixels.boxes[readable],
            drawn.take(pixels.kept[readable]),
            failures,
        )

    def _nothing(self, drawn: Draw, failures: dict[int, str]) -> TrainBatch:
        """What takes part in the steps of other ranks where this one can read nothing: black padding."""
        first = np.arange(self.views) * len(self.part)
        frames = torch.zeros((self.views, self.sampling.frames, 2, 2, 3), dtype=torch.uint8)
        boxes = np.tile(np.array([0, 0, 2, 2], dtype=np.float32), (self.views, 1))
        return TrainBatch(np.array([PADDING]), frames, boxes, drawn.take(first), failures)


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
        boxes = centre_boxes(shards.height[videos], shards.width[videos], self.sampling)
        pixels = self.reader.read(videos, frames, boxes)
        return EvalBatch(positions[pixels.kept], pixels.frames, pixels.boxes)


def workers_for(reader: ClipReader, workers: int) -> int:
    """Worker processes that help a reader: none where the pixels are on the device already."""
    return 0 if isinstance(reader, DeviceReader) else workers
