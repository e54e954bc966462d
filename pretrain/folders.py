"""Files below a folder, and what the folders that they lie in say about split and class."""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pretrain.listed import SPLITS
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
    """Relative paths, with forward slashes, of all such files below a folder; a folder reached twice is listed once."""
    visited: set[tuple[int, int]] = set()
    for folder, inner, files in os.walk(root, followlinks=True):
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
    return name.startswith(".") or name == "__MACOSX"


def places(names: Sequence[str]) -> list[Place]:
    """Reads split and class from the folders of all files of a corpus, named relative to it.

    Args:
        names: ``{train,val,test}/{class}/*`` or ``{class}/*``, if all are; of other layouts at most the split is read.
    """
    parts = [name.split("/") for name in names]
    has_splits = bool(parts) and all(len(part) > 1 and part[0].lower() in SPLITS for part in parts)
    inner = [part[1:] if has_splits else part for part in parts]
    # A lone folder says nothing about its videos, and deeper trees give no hint which level is the class.
    has_classes = all(len(part) == 2 for part in inner) and len({part[0] for part in inner}) > 1
    return [
        Place(SPLITS[part[0].lower()] if has_splits else "", rest[0] if has_classes else "")
        for part, rest in zip(parts, inner, strict=True)
    ]


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
