"""A corpus that is computed: its videos, and the folder that holds it whole or not at all."""

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from torch import Tensor
from tqdm import tqdm

from pretrain.data.prefetch import stream
from vie.errors import VieError

CHUNK = 16  # videos rendered at once: more of them no longer fit the processor's caches


class Rendered(NamedTuple):
    """One video of a corpus that is computed.

    Attributes:
        name: Path relative to the corpus, ending in ``.mp4``.
        frames: uint8 (T, H, W, 3).
        labels: Class name by label column.
        split: ``train`` or ``val``.
    """

    name: str
    frames: Tensor
    labels: dict[str, str]
    split: str


CURE = "give fewer workers if memory is short"

Chunk = Callable[[], list[Rendered]]
"""Renders some videos, in any process."""

Item = TypeVar("Item")
Made = TypeVar("Made")


def check_settings(settings: Mapping[str, int], workers: int | None) -> None:
    """Raises ``VieError`` for settings that no corpus can have."""
    least = {"size": 8, "frames": 2, "seed": 0}
    if settings["size"] % 2 or any(number < least.get(name, 1) for name, number in settings.items()):
        given = ", ".join(f"{name}={value}" for name, value in settings.items())
        raise VieError(
            f"{given} is out of range: the size is even and at least 8, frames at least 2, the seed not negative, "
            "the others at least 1"
        )
    if workers is not None and workers < 1:
        raise VieError(f"workers={workers} is out of range: give at least 1, or none for one per processor")


def write_once(folder: Path, kind: str, settings: Mapping[str, object], write: Callable[[Path], None]) -> None:
    """Fills a folder with a corpus, unless it holds the same one already.

    Args:
        folder: The folder; it appears only when it is complete.
        kind: What the corpus is called, in words.
        settings: What its content depends on; kept in a JSON file of that name.
        write: Writes the corpus into an empty folder that it is given.

    Raises:
        VieError: The folder holds something else or cannot be written.
    """
    settings_name = kind.replace(" ", "_") + ".json"
    if _is_complete(folder, kind, settings_name, settings):
        return
    place = Path(os.path.abspath(folder))
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name}-") as temporary:
            partial = Path(temporary) / "corpus"  # a folder within, as the temporary one is closed to other users
            partial.mkdir()
            write(partial)
            (partial / settings_name).write_text(json.dumps(settings) + "\n")
            partial.rename(place)
    except OSError as error:
        raise VieError(f"{folder}: cannot be written ({error.strerror or error}): choose another folder") from error


def in_processes(
    kind: str, items: Sequence[Item], make: Callable[[Item], Made], workers: int | None, each: int = 1
) -> Iterator[Made]:
    """Makes something of every item in processes, in order; a terminal shows a progress bar.

    Args:
        kind: What the progress bar says.
        items: What something is made of.
        make: Is called in a fork of this process.
        workers: Number of processes; as many as there are processors where left out.
        each: Videos in an item.

    Raises:
        VieError: What ``make`` raises, or the processes end again and again.
    """
    made = stream(_Makes(kind, items, make), range(len(items)), workers or os.cpu_count() or 1, cure=CURE)
    bar = tqdm(total=len(items), desc=kind, unit="video", unit_scale=each, disable=None)
    with contextlib.closing(made), bar:
        for result in made:
            yield result
            bar.update()


class _Makes(Generic[Item, Made]):
    def __init__(self, kind: str, items: Sequence[Item], make: Callable[[Item], Made]) -> None:
        self.kind, self.items, self.make = kind, items, make

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> Made:
        try:
            return self.make(self.items[number])
        except OSError as error:  # which would come out of another process as a trace
            cause = error.strerror or error
            raise VieError(f"{self.kind}: cannot be written ({cause}): make room, or choose another folder") from error


def in_chunks(
    kind: str, chunks: Sequence[Chunk], store: Callable[[Rendered], Made], workers: int | None
) -> Iterator[Made]:
    """Renders and stores the videos of chunks in processes; yields what ``store`` made of each, in order."""

    def make(chunk: Chunk) -> list[Made]:
        return [store(video) for video in chunk()]

    for made in in_processes(kind, chunks, make, workers, CHUNK):
        yield from made


def _is_complete(folder: Path, kind: str, settings_name: str, settings: Mapping[str, object]) -> bool:
    """Whether the folder holds this corpus; raises ``VieError`` if it holds anything else."""
    try:
        if not os.path.lexists(folder) or (folder.is_dir() and not any(folder.iterdir())):
            return False
        found = json.loads((folder / settings_name).read_text())
    except (OSError, ValueError) as error:
        raise VieError(f"{folder}: holds something other than {kind}: choose another folder") from error
    if found != settings:
        raise VieError(f"{folder}: holds {kind} with {found}, not {settings}: choose another folder")
    return True
