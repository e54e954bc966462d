"""Items made ahead of time by worker processes, in order."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

from torch.utils.data import DataLoader, Dataset

from vie.errors import VieError

Item = TypeVar("Item", covariant=True)


class Items(Protocol[Item]):
    """Anything that makes an item from its number, in any process."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> Item: ...


def stream(items: Items[Item], numbers: Sequence[int], workers: int, pin_memory: bool = False) -> Iterator[Item]:
    """Yields items in the order of their numbers; with 0 workers it makes each when it is asked for."""
    if workers == 0:
        return (items[number] for number in numbers)
    loader = DataLoader(
        _Guarded(items), batch_size=None, sampler=numbers, num_workers=workers, pin_memory=pin_memory, prefetch_factor=4
    )
    return _unguarded(loader)


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
