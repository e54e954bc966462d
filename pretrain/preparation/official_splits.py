"""The split files that come with UCF101 and HMDB51: three ways to split each, by number.

UCF101 has ``trainlist01.txt`` (``Class/file.avi 1`` on a line), ``testlist01.txt`` (``Class/file.avi``) and
``classInd.txt`` (``1 Class``); HMDB51 has ``<class>_test_split1.txt`` (``file.avi 0|1|2``, for unused, train, test).
"""

import os
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path, PurePosixPath

from pretrain.preparation.folders import by_key, refuse_unreadable
from pretrain.preparation.listed import LABEL, Video, read_text
from vie.errors import VieError

UCF101_LIST = re.compile(r"(train|test)list0*(\d+)\.txt")
UCF101_CLASSES = "classInd.txt"
HMDB51_LIST = re.compile(r"(.+)_test_split(\d+)\.txt")
HMDB51_SPLITS = {"0": "unused", "1": "train", "2": "test"}


def is_official(source: Path) -> bool:
    """Whether this is a folder that holds split files of UCF101 or HMDB51; raises ``VieError`` where it is locked."""
    try:
        return source.is_dir() and any(
            UCF101_LIST.fullmatch(name) or HMDB51_LIST.fullmatch(name) for name in os.listdir(source)
        )
    except OSError as error:
        refuse_unreadable(error)


def list_official(source: Path, root: Path) -> list[Video]:
    """Lists the videos that split files name, in all their splits.

    Args:
        source: Folder of the split files.
        root: Folder of the videos; a file is found below the folder of its class, or else anywhere outside the folders
            of the other classes.

    Returns:
        Videos sorted by class and name, with their splits under ``"1"``, ``"2"``, …; ``split`` is the first of these.
        A video that one of the ways to split leaves out is ``unused`` in it. Files that are not there stay in the list.

    Raises:
        VieError: A line or a set of files is not as in the official ones.
    """
    entries: dict[tuple[str, str], dict[str, str]] = {}
    filled: set[tuple[str, str, str]] = set()
    for label, file, number, split in (*_ucf101(source), *_hmdb51(source)):
        filled.add((number, split, label))
        splits = entries.setdefault((label, file), {})
        if splits.setdefault(number, split) != split:
            raise VieError(
                f"{source}: split {number} names {label}/{file} in both train and test: fetch the files again"
            )
    numbers = sorted({number for number, _, _ in filled}, key=int)
    classes = {label for label, _ in entries}
    for number, split, label in product(numbers, ("train", "test"), sorted(classes)):
        if (number, split, label) not in filled:
            raise VieError(f"{source}: split {number} has no {split} video of {label}: fetch the split files again")

    def owned(place: PurePosixPath) -> str:
        """Class, if the file lies below the folder of one, and stem."""
        return f"{next((part for part in reversed(place.parts[:-1]) if part in classes), '')}/{place.stem}"

    found = by_key(root, owned)
    videos = []
    for (label, file), given in sorted(entries.items()):
        stem = PurePosixPath(file).stem
        name = found.get(f"{label}/{stem}") or found.get(f"/{stem}") or f"{label}/{file}"
        splits = {number: given.get(number, "unused") for number in numbers}
        videos.append(Video(name, root / name, next(iter(splits.values())), {LABEL: label}, splits))
    return videos


def _ucf101(source: Path) -> Iterator[tuple[str, str, str, str]]:
    """Class, file, number of the way to split, and split."""
    lists = {match.groups(): path for path in source.iterdir() if (match := UCF101_LIST.fullmatch(path.name))}
    if not lists:
        return
    if not (source / UCF101_CLASSES).is_file():
        raise VieError(f"{source}: {UCF101_CLASSES} is missing: fetch the split files of UCF101 again")
    numbered = dict(line for _, line in _fields(source / UCF101_CLASSES, (2,)))
    classes = set(numbered.values())
    for (split, number), path in lists.items():
        for line, (place, *given) in _fields(path, (1, 2)):
            label, _, file = place.partition("/")
            if label not in classes or not file or (given and numbered.get(given[0]) != label):
                raise VieError(
                    f"{path}: line {line} does not fit {UCF101_CLASSES} ({' '.join([place, *given])!a}): fetch the "
                    "split files of UCF101 again"
                )
            yield label, file, number, split


def _hmdb51(source: Path) -> Iterator[tuple[str, str, str, str]]:
    """Class, file, number of the way to split, and split."""
    for path in source.iterdir():
        if not (match := HMDB51_LIST.fullmatch(path.name)):
            continue
        for line, (file, given) in _fields(path, (2,)):
            if given not in HMDB51_SPLITS:
                raise VieError(f"{path}: line {line} ends in {given!a}, not 0, 1 or 2: fetch the split files again")
            yield match[1], file, match[2], HMDB51_SPLITS[given]


def _fields(path: Path, counts: tuple[int, ...]) -> Iterator[tuple[int, list[str]]]:
    """Number and words of every line that is not empty."""
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        words = line.split()
        if words and len(words) not in counts:
            raise VieError(f"{path}: line {number} is not as in the official file ({line.strip()!a}): fetch it again")
        if words:
            yield number, words
