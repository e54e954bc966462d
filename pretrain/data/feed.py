"""Training batches on the device before their step asks for them."""

import contextlib
import itertools
import queue
import threading
from collections.abc import Callable, Generator, Iterator
from typing import TypeVar

import torch

from pretrain.config import DataConfig
from pretrain.data.clips import TrainBatch, TrainClips
from pretrain.data.late import LateClips
from pretrain.data.prefetch import stream
from pretrain.data.readers import DeviceReader
from pretrain.data.slots import Clips, Framed, Slots

Item = TypeVar("Item")
Batch = TypeVar("Batch", bound=Framed)

AHEAD = 2
"""Batches that wait on the device: one for the step to come, one for a moment in which the next is late."""

LOOK_EVERY = 0.1
"""Seconds after which a thread that waits for room looks whether anybody still takes its items."""


def feed(
    clips: TrainClips, steps: range, config: DataConfig, device: torch.device
) -> Generator[TrainBatch, None, None]:
    """Yields the batches of steps, in order, with their frames on the device; to be closed by whoever leaves early."""
    if isinstance(clips.reader, DeviceReader):  # what lies there already gains nothing by a thread
        yield from stream(clips, steps, workers=0)
        return
    if config.device_decode:
        late = LateClips(clips, config.device_decode)
        yield from _fed(late, lambda batch: late.finish(batch, device), steps, config.workers, device)
    else:
        yield from _fed(clips, lambda batch: batch.to(device), steps, config.workers, device)


def _fed(
    clips: Clips[Batch], finish: Callable[[Batch], TrainBatch], steps: range, workers: int, device: torch.device
) -> Iterator[TrainBatch]:
    if device.type == "cpu":  # where nothing is copied, so that memory would be used again too early
        return map(finish, stream(clips, steps, workers))
    return _beside_the_steps(Slots(clips, steps, workers), finish, device)


def _beside_the_steps(
    slots: Slots[Batch], finish: Callable[[Batch], TrainBatch], device: torch.device
) -> Iterator[TrainBatch]:
    """Finishes batches in a thread and on a stream of their own: copies and decoding overlap with the steps."""
    own, steps, made = torch.cuda.Stream(device), torch.cuda.current_stream(device), slots.stream()
    first = list(itertools.islice(made, 1))  # it starts the workers, which no other thread should do: they are forks

    def marked() -> Generator[tuple[TrainBatch, torch.cuda.Event], None, None]:
        with torch.cuda.device(device), torch.cuda.stream(own), slots.page_locked():
            before = own.record_event()
            for batch in itertools.chain(first, made):
                finished = finish(batch)
                done = own.record_event()
                yield finished, done
                before.synchronize()  # the slot of the batch before is filled again from now on
                before = done

    with contextlib.closing(in_thread(marked(), AHEAD)) as ready:
        for batch, done in ready:
            steps.wait_event(done)
            # The memory is the other stream's, to be used again only after the steps that read it.
            batch.frames.record_stream(steps)
            yield batch


def in_thread(items: Generator[Item, None, None], ahead: int) -> Generator[Item, None, None]:
    """Yields items that a thread takes ahead of time, in order; what they raise is raised here.

    Args:
        items: Used and closed by the thread alone.
        ahead: How many may wait.
    """
    waiting: queue.Queue[tuple[Item] | BaseException | None] = queue.Queue(ahead)
    left = threading.Event()

    def put(item: tuple[Item] | BaseException | None) -> None:
        while not left.is_set():
            with contextlib.suppress(queue.Full):
                return waiting.put(item, timeout=LOOK_EVERY)

    def work() -> None:
        try:
            with contextlib.closing(items):
                for item in items:
                    put((item,))
                    if left.is_set():
                        return
            put(None)
        except BaseException as error:  # whatever it is, it belongs to whoever waits for the item
            put(error)

    thread = threading.Thread(target=work, name="feed", daemon=True)
    thread.start()
    try:
        while (item := waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item[0]
    finally:
        left.set()
        thread.join()
