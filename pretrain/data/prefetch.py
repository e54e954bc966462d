"""Items made ahead of time by worker processes, in order, whatever becomes of the workers."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

from torch.utils.data import DataLoader, Dataset

from vie.errors import VieError

logger = logging.getLogger(__name__)

Item = TypeVar("Item", covariant=True)

TIMEOUT = 300.0
"""Seconds after which workers are held to hang: a step's clips take less than one."""

STARTS = 3
"""Times that workers are started for one item before it is given up."""


class Items(Protocol[Item]):
    """Anything that makes an item from its number, in any process."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> Item: ...


def stream(items: Items[Item], numbers: Sequence[int], workers: int, pin_memory: bool = False) -> Iterator[Item]:
    """Yields items in the order of their numbers; with 0 workers it makes each when it is asked for.

    Workers that die or hang are started again at the item that is next: each is a function of its number alone.

    Raises:
        VieError: What the items raise, or an item's workers have died or hung every time.
    """
    if workers == 0:
        return (items[number] for number in numbers)
    return _unguarded(_restarted(_Guarded(items), numbers, workers, pin_memory))


def _restarted(
    items: "_Guarded[Item]", numbers: Sequence[int], workers: int, pin_memory: bool
) -> Iterator[Item | VieError]:
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
            prefetch_factor=4,
            timeout=TIMEOUT,
        )
        try:
            for item in loader:
                yield item
                done += 1
        except RuntimeError as error:  # this is all that the loader says when a worker has died or hangs
            cause = str(error).splitlines()[0]
            if starts == STARTS:
                raise VieError(
                    f"the workers that read ahead end again and again ({cause}): set data.workers to fewer if memory "
                    "is short, or to 0 to see why"
                ) from error
            logger.warning("workers are started again: %s", cause)


class _Guarded(Dataset[Item | VieError]):
    """Hands a fault over as a value: as an exception it would leave its process as a trace of many lines."""

    def __init__(self, items: Items[Item]) -> None:
        self._items = items

    def __getitem__(self, number: int) -> Item | VieError:
        try:
            return self._items[number]
        except VieError as error:
            return error


def _unguarded(results: Iterable[Item | VieError]) -> Iterator[Item]:
    for result in results:
        if isinstance(result, VieError):
            raise result
        yield result
