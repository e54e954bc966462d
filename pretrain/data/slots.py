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

import torch
from torch import Tensor

from pretrain.data.prefetch import EACH_AHEAD
from pretrain.data.prefetch import stream as made_ahead
from pretrain.data.room import Room, fresh
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

    def frame_bytes(self, step: int) -> int: ...

    def make(self, step: int, room: Room = fresh) -> Made: ...


class Slots(Generic[Batch]):
    """The slots of a run, which the batches of its steps take in turns."""

    def __init__(self, clips: Clips[Batch], steps: range, workers: int, largest: int | None = None) -> None:
        """Makes them, for workers that are forked later.

        Args:
            clips: That make the batches.
            steps: Theirs.
            workers: How many there will be.
            largest: Bytes of the frames of the largest batch; null takes those of the first, and some more.

        Raises:
            VieError: The system has no room for them.
        """
        self.clips, self.steps, self.workers = clips, steps, workers
        # Besides those that workers fill ahead: one is being used, and one may still be copied from.
        count = workers * EACH_AHEAD + 2
        size = max(1, round(MARGIN * clips.frame_bytes(steps.start)) if largest is None else largest)
        logger.debug("%d slots for batches take %.1f GiB", count, count * size / 2**30)
        try:
            memory = mmap.mmap(-1, count * size)
        except OSError as error:
            raise VieError(
                f"there is no room for the batches of {workers} workers, {count * size / 2**30:.1f} GiB: set "
                "data.workers or data.batch_size to fewer"
            ) from error
        self._memory = torch.frombuffer(memory, dtype=torch.uint8).view(count, size)
        self._told = False

    def stream(self) -> Generator[Batch, None, None]:
        """Yields the batches; the frames of one may be overwritten from when the next but one is asked for."""
        handed = made_ahead(_Handing(self), self.steps, self.workers)
        return (self._taken(batch, step) for step, batch in zip(self.steps, handed, strict=True))

    def _taken(self, handed: "_Handed[Batch]", step: int) -> Batch:
        if handed.shape is not None:
            return handed.batch.with_frames(self.room(step)(handed.shape))
        if handed.batch.frames.nbytes > self._memory.shape[1] and not self._told:
            self._told = True
            logger.warning(
                "batches of larger pictures than step %d has take a slower way to the GPU: vie-pretrain prepare "
                "--short-side makes pictures more alike",
                self.steps.start,
            )
        return handed.batch

    def room(self, step: int) -> Room:
        """The slot of a step, for frames that fit in."""
        slot = self._memory[step % len(self._memory)]

        def within(shape: tuple[int, ...]) -> Tensor:
            size = math.prod(shape)
            return slot[:size].view(shape) if size <= len(slot) else fresh(shape)

        return within

    def holds(self, frames: Tensor, step: int) -> bool:
        """Whether all of the slot of a step is these frames, from its beginning on."""
        slot = self._memory[step % len(self._memory)]
        return frames.data_ptr() == slot.data_ptr() and frames.is_contiguous()

    @contextlib.contextmanager
    def page_locked(self) -> Iterator[None]:
        """For as long as the current stream of a GPU copies out of the slots: then nothing else waits for it."""
        runtime, place = torch.cuda.cudart(), self._memory.data_ptr()
        locked = runtime.cudaHostRegister(place, self._memory.nbytes, 0) == runtime.cudaError.success
        if not locked:
            with contextlib.suppress(RuntimeError):
                torch.zeros(1, device="cuda") + 1  # or whatever comes next would be told of the refusal
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


class _Handing(Generic[Batch]):
    def __init__(self, slots: Slots[Batch]) -> None:
        self.slots = slots

    def __len__(self) -> int:
        return len(self.slots.clips)

    def __getitem__(self, step: int) -> _Handed[Batch]:
        batch = self.slots.clips.make(step, self.slots.room(step))
        if not self.slots.holds(batch.frames, step):
            return _Handed(batch, None)
        return _Handed(batch.with_frames(torch.empty(0, dtype=torch.uint8)), tuple(batch.frames.shape))
