"""Items made ahead of time by worker processes, in order, whatever becomes of the workers."""

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from typing import Protocol, TypeVar

from torch.utils.data import DataLoader, Dataset

from vie.errors import VieError

logger = logging.getLogger(__name__)

Item = TypeVar("Item", covariant=True)

TIMEOUT = 300.0
"""Seconds after which workers are held to hang: a step's clips take less than one. A server that does not answer is
given up before, by ``vie.video.remote``, and named."""

LOOK_EVERY = 5.0
"""Seconds after which whoever waits for an item looks whether its worker is alive."""

STARTS = 3
"""Times that workers are started for one item before it is given up."""

EACH_AHEAD = 4
"""Items that a worker is ahead at most."""

CURE = "set data.workers to fewer if memory is short, or to 0 to see why"

LOST = (RuntimeError, EOFError, OSError)
"""What waiting for an item raises when a worker has died or hangs, or died with an item half handed over."""


class Items(Protocol[Item]):
    """Anything that makes an item from its number, in any process."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> Item: ...


def stream(
    items: Items[Item], numbers: Sequence[int], workers: int, pin_memory: bool = False, cure: str = CURE
) -> Generator[Item, None, None]:
    """Yields items in the order of their numbers; with 0 workers it makes each when it is asked for.

    Workers that die or hang are started again at the item that is next: each is a function of its number alone. Closed,
    it has none any more.

    Args:
        items: What workers make.
        numbers: Of those that are wanted.
        workers: Processes.
        pin_memory: Whether tensors are copied to page-locked memory.
        cure: What helps where workers end again and again.

    Raises:
        VieError: What the items raise, or an item's workers have died or hung every time.
    """
    if workers == 0:
        return (items[number] for number in numbers)
    return _unguarded(_restarted(_Guarded(items), numbers, workers, pin_memory, cure))


def _restarted(
    items: "_Guarded[Item]", numbers: Sequence[int], workers: int, pin_memory: bool, cure: str
) -> Generator[Item | VieError, None, None]:
    done, starts, started_at = 0, 0, 0
    while done < len(numbers):
        starts = starts + 1 if started_at == done else 1
        started_at = done
        loader = DataLoader(
            items,
            batch_size=None,
            sampler=numbers[done:],
            num_workers=workers,
            pin_memory=pin_memory,
            prefetch_factor=EACH_AHEAD,
            timeout=LOOK_EVERY,
            worker_init_fn=_give_way,
            multiprocessing_context="fork",  # whatever others have made the default, as TorchRL does
        )
        iterator = _begin(loader)
        try:
            while done < len(numbers):
                yield _wait_for(iterator)
                done += 1
        except LOST as error:
            del iterator  # with its workers, and what they hold, before there are new ones
            cause = (str(error) or type(error).__name__).splitlines()[0]
            if cause.startswith("Caught "):  # the worker lives, and this is what an item raised
                raise
            if starts == STARTS:
                raise VieError(f"the workers that read ahead end again and again ({cause}): {cure}") from error
            logger.warning("workers are started again: %s", cause)


def _give_way(worker: int) -> None:
    """Where workers take every core, the process that starts the device's work comes first."""
    os.nice(10)


def _begin(loader: "DataLoader[Item | VieError]") -> Iterator[Item | VieError]:
    """Starts the workers, without the handler by which a dead one would raise wherever the main thread is just then.

    It is noticed all the same: by whoever waits for the next item, within some seconds.
    """
    before = signal.getsignal(signal.SIGCHLD)
    iterator: Iterator[Item | VieError] = iter(loader)
    if before is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, before)
    return iterator


def _wait_for(iterator: Iterator[Item | VieError]) -> Item | VieError:
    began = time.monotonic()
    while True:
        try:
            return next(iterator)
        except RuntimeError as error:
            if "timed out" not in str(error) or time.monotonic() - began > TIMEOUT:
                raise


class _Guarded(Dataset[Item | VieError]):
    """Hands a fault over as a value: as an exception it would leave its process as a trace of many lines."""

    def __init__(self, items: Items[Item]) -> None:
        self._items = items

    def __getitem__(self, number: int) -> Item | VieError:
        try:
            return self._items[number]
        except VieError as error:
            # Some libraries (tblib) have an error sent with its causes, which need not be fit to be sent.
            error.__cause__ = error.__context__ = error.__traceback__ = None
            return error


def _unguarded(results: Generator[Item | VieError, None, None]) -> Generator[Item, None, None]:
    with contextlib.closing(results):
        for result in results:
            if isinstance(result, VieError):
                raise result
            yield result
