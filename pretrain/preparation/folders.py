"""Files below a folder, and what the folders that they lie in say about split and class."""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple, NoReturn

from pretrain.preparation.listed import SPLITS
from vie.errors import VieError
from vie.video.picture import PICTURE_EXTENSIONS

# In order of preference where one video exists in several formats.
VIDEO_EXTENSIONS = (
    ".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ogv", ".ts",
)  # fmt: skip
EXTENSIONS = VIDEO_EXTENSIONS + PICTURE_EXTENSIONS


class Place(NamedTuple):
    """What the folders of a file tell: its split and its class, each empty where they tell none."""

    split: str
    label: str


def walk(root: Path, extensions: Sequence[str] = EXTENSIONS) -> Iterable[str]:
    """Relative paths, with forward slashes, of all such files below a folder; a folder reached twice is listed once.

    Raises:
        VieError: One of the folders cannot be read.
    """
    visited: set[tuple[int, int]] = set()
    for folder, inner, files in os.walk(root, onerror=refuse_unreadable, followlinks=True):
        state = os.stat(folder)
        if (state.st_dev, state.st_ino) in visited:
            inner.clear()
            continue
        visited.add((state.st_dev, state.st_ino))
        inner[:] = sorted(name for name in inner if not is_hidden(name))
        below = PurePosixPath(Path(folder).relative_to(root).as_posix())
        for name in files:
            if not is_hidden(name) and os.path.splitext(name)[1].lower() in extensions:
                yield str(below / name)


def is_hidden(name: str) -> bool:
    """Whether a file or folder holds what a system or a tool keeps for itself."""
    return name.startswith(".") or name in ("__MACOSX", "lost+found")


def refuse_unreadable(error: OSError) -> NoReturn:
    """Raises ``VieError`` for a folder that cannot be listed: its files would be missing without a word."""
    raise VieError(
        f"{error.filename}: cannot be read ({error.strerror}): check its permissions, or list the files in a .csv"
    ) from error


def places(names: Sequence[str]) -> list[Place]:
    """Reads split and class from the folders of all files of a corpus, named relative to it.

    Args:
        names: ``{train,val,test}/{class}/*`` or ``{class}/*``, if all are; of other layouts at most the split is read.
    """
    has_classes, has_splits = _told(names)
    parts = [name.split("/") for name in names]
    return [
        Place(SPLITS[part[0].lower()] if has_splits else "", part[has_splits] if has_classes else "") for part in parts
    ]


def misplaced(names: Sequence[str]) -> str:
    """Which file keeps ``places`` from reading classes or splits that others' folders tell; empty where none does.

    Args:
        names: All files of a corpus, named relative to it.

    Returns:
        The first such file, one that lies as the others do, and what to do.
    """
    alike: dict[tuple[bool, int], list[str]] = {}
    for name in names:
        top, *rest = name.split("/")
        alike.setdefault((top.lower() in SPLITS, len(rest)), []).append(name)
    if len(alike) < 2:
        return ""
    best = max(alike.values(), key=lambda group: (_told(group), len(group)))
    if _told(best) <= _told(names):
        return ""
    fitting = set(best)
    odd = next(name for name in names if name not in fitting)
    return (
        f"{odd!a} does not lie as {len(best)} of {len(names)} files do (such as {best[0]!a}): bring all into "
        "{train,val,test}/{class}/*, or all into {class}/* (a flat val/ must be sorted into class folders), or list "
        "them in a .csv"
    )


def _told(names: Sequence[str]) -> tuple[bool, bool]:
    """Whether the folders of all these files tell their class, and their split."""
    parts = [name.split("/") for name in names]
    has_splits = bool(parts) and all(len(part) > 1 and part[0].lower() in SPLITS for part in parts)
    inner = [part[has_splits:] for part in parts]
    # A lone folder says nothing about its videos, and deeper trees give no hint which level is the class.
    return all(len(part) == 2 for part in inner) and len({part[0] for part in inner}) > 1, has_splits


def by_key(root: Path, key: Callable[[PurePosixPath], str]) -> dict[str, str]:
    """The best video file for each key: preferred format first, then the shallowest place.

    Args:
        root: Folder that is searched to its bottom.
        key: What a listing calls a file, made from its path below ``root``.
    """

    def rank(name: str) -> tuple[int, int, str]:
        place = PurePosixPath(name)
        return VIDEO_EXTENSIONS.index(place.suffix.lower()), len(place.parts), name

    found: dict[str, str] = {}
    for name in walk(root, VIDEO_EXTENSIONS):
        called = key(PurePosixPath(name))
        if called not in found or rank(name) < rank(found[called]):
            found[called] = name
    return found
