"""Training batches on the device before their step asks for them."""

import contextlib
import itertools
import queue
import threading
from collections.abc import Generator, Iterator
from typing import TypeVar

import torch

from pretrain.config import DataConfig
from pretrain.data.clips import TrainBatch, TrainClips
from pretrain.data.late import LateClips
from pretrain.data.prefetch import stream
from pretrain.data.readers import DeviceReader

Item = TypeVar("Item")

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
    workers, pin_memory = config.workers, device.type == "cuda"
    made: Iterator[TrainBatch]
    if config.device_decode:
        late = LateClips(clips, config.device_decode)
        made = (late.finish(batch, device) for batch in stream(late, steps, workers, pin_memory))
    else:
        made = (batch.to(device) for batch in stream(clips, steps, workers, pin_memory))
    yield from made if device.type == "cpu" else _beside_the_steps(made, device)


def _beside_the_steps(made: Iterator[TrainBatch], device: torch.device) -> Iterator[TrainBatch]:
    """Makes batches in a thread and on a stream of their own: copies and decoding overlap with the steps."""
    first = list(itertools.islice(made, 1))  # it starts the workers, which no other thread should do: they are forks
    own, steps = torch.cuda.Stream(device), torch.cuda.current_stream(device)
    own.wait_stream(steps)  # for the first batch, and the corpus if it is kept on the device

    def marked() -> Generator[tuple[TrainBatch, torch.cuda.Event], None, None]:
        with torch.cuda.device(device), torch.cuda.stream(own):
            for batch in itertools.chain(first, made):
                yield batch, own.record_event()

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
