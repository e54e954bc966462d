"""Batches handed over by worker processes in memory that is used over and over.

Memory that is fresh for each batch costs a worker more than filling it: the system clears it page by page, and page by
page the training process is given it, to copy it to where a GPU can read. Slots are cleared once, and the GPU reads
them where they are.
"""

import contextlib
import logging
import math
import mmap
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from pretrain.data.clips import Shown
from pretrain.data.prefetch import AHEAD, stream
from pretrain.data.readers import Room, fresh, reach
from vie.errors import VieError

logger = logging.getLogger(__name__)

MARGIN = 1.25
"""How much larger than the frames of the first step a slot is; what does not fit in goes the usual way."""


class Framed(Protocol):
    """A batch, most of whose bytes are frames."""

    @property
    def frames(self) -> Tensor: ...

    def with_frames(self, frames: Tensor) -> Self: ...


Batch = TypeVar("Batch", bound=Framed)
Made = TypeVar("Made", bound=Framed, covariant=True)


class Clips(Protocol[Made]):
    """Makes the batch of any step, its frames in memory that it is given."""

    def __len__(self) -> int: ...

    def __getitem__(self, step: int) -> Made: ...

    def show(self, step: int) -> Shown: ...

    def make(self, step: int, room: Room = fresh) -> Made: ...


class Slots(Generic[Batch]):
    """The slots of a run, which the batches of its steps take in turns."""

    def __init__(self, clips: Clips[Batch], steps: range, workers: int) -> None:
        """Makes them, for workers that are forked later; raises ``VieError`` where there is too little memory."""
        self.clips, self.steps, self.workers = clips, steps, workers
        # Workers fill those of the batches that they are ahead with; one is the user's and one was the user's.
        count, size = workers * AHEAD + 2, round(MARGIN * _frame_bytes(clips.show(steps.start)))
        try:
            memory = mmap.mmap(-1, count * size)
        except OSError as error:
            raise VieError(
                f"there is no room for the batches of {workers} workers, {count * size / 2**30:.1f} GiB: set "
                "data.workers or data.batch_size to fewer"
            ) from error
        self._memory = torch.frombuffer(memory, dtype=torch.uint8).view(count, size)

    def stream(self) -> Generator[Batch, None, None]:
        """Yields the batches; the frames of one may be overwritten from when the next but one is asked for."""
        handed = stream(_Handing(self), self.steps, self.workers)
        return (batch.taken(self, step) for step, batch in zip(self.steps, handed, strict=True))

    def room(self, step: int) -> Room:
        """The slot of a step, for frames that fit in."""
        slot = self._memory[step % len(self._memory)]

        def room(shape: tuple[int, ...]) -> Tensor:
            size = math.prod(shape)
            return slot[:size].view(shape) if size <= len(slot) else fresh(shape)

        return room

    def holds(self, frames: Tensor) -> bool:
        """Whether frames lie in a slot."""
        return frames.untyped_storage().data_ptr() == self._memory.untyped_storage().data_ptr()

    @contextlib.contextmanager
    def page_locked(self) -> Iterator[None]:
        """For as long as the current stream of a GPU copies out of the slots: then nothing else waits for it."""
        runtime, place = torch.cuda.cudart(), self._memory.data_ptr()
        locked = runtime.cudaHostRegister(place, self._memory.nbytes, 0) == runtime.cudaError.success
        if not locked:
            size = self._memory.nbytes / 2**30
            logger.warning("%.1f GiB of memory cannot be locked: copies to the GPU are slower", size)
        try:
            yield
        finally:
            torch.cuda.current_stream().synchronize()
            if locked:
                runtime.cudaHostUnregister(place)


@dataclass(frozen=True)
class _Handed(Generic[Batch]):
    """A batch on its way between processes, and the shape of its frames where they have stayed in their slot."""

    batch: Batch
    shape: tuple[int, ...] | None

    def taken(self, slots: Slots[Batch], step: int) -> Batch:
        return self.batch if self.shape is None else self.batch.with_frames(slots.room(step)(self.shape))


class _Handing(Generic[Batch]):
    def __init__(self, slots: Slots[Batch]) -> None:
        self.slots = slots

    def __len__(self) -> int:
        return len(self.slots.clips)

    def __getitem__(self, step: int) -> _Handed[Batch]:
        batch = self.slots.clips.make(step, self.slots.room(step))
        if not self.slots.holds(batch.frames):
            return _Handed(batch, None)
        return _Handed(batch.with_frames(torch.empty(0, dtype=torch.uint8)), tuple(batch.frames.shape))


def _frame_bytes(shown: Shown) -> int:
    """Bytes of the frames that a step shows, all as large as the largest of them."""
    reached = np.array([reach(box) for box in shown.drawn.boxes])
    height, width = (reached[:, 2:] - reached[:, :2]).max(axis=0)
    return 3 * shown.frames.size * int(height) * int(width)
