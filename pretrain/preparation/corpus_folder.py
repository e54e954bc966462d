"""The folder of a prepared corpus: held by one run at a time, with its index and its description."""

import errno
import fcntl
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import numpy as np

from pretrain.preparation.listed import Video
from pretrain.preparation.shard_writer import SourceKey, Stored
from vie.errors import VieError
from vie.files import write_text_atomically
from vie.video.index import INDEX_NAME, LABEL_PREFIX, SPLIT_PREFIX, write_index

FORMAT = "mjpeg-1"
DATASET_NAME = "dataset.json"
LOCK_NAME = ".lock"
PACKAGES = ("vie", "torch", "torchvision", "decord2", "torchcodec")
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turns what goes wrong on the disk into a ``VieError`` that names the folder."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise VieError(
                f"{folder}: the disk is full ({error.strerror}): make room and run again; finished shards are kept"
            ) from error
        raise VieError(f"{folder}: cannot be written ({error}): choose another folder") from error


@contextmanager
def sole_run(folder: Path) -> Iterator[None]:
    """Holds the folder for this run; the system lets go of it however the run ends.

    Raises:
        VieError: The folder holds something other than a prepared corpus, or another run is at work in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # A run that was stopped at once, or starts at this moment, may have left these two and no more.
    foreign = {path.name for path in folder.iterdir()} - {LOCK_NAME, DATASET_NAME + ".partial"}
    if foreign and marked_settings(folder) is None:
        raise VieError(
            f"{folder}: holds files ({min(foreign)!a}) but no prepared corpus ({DATASET_NAME} is missing or not ours): "
            "choose another folder or an empty one"
        )
    with (folder / LOCK_NAME).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise VieError(f"{folder}: another run is preparing this corpus: wait for it, or stop it") from error
        yield


def marked_settings(folder: Path) -> dict[str, object] | None:
    """The settings that a prepared corpus was begun with; none where the folder is not one."""
    try:
        settings: dict[str, object] = json.loads((folder / DATASET_NAME).read_bytes())["settings"]
        return settings if str(settings["format"]).startswith("mjpeg-") else None
    except (FileNotFoundError, KeyError, TypeError, ValueError):
        return None


def write_corpus(
    folder: Path,
    videos: Sequence[Video],
    keys: Sequence[SourceKey],
    stored: dict[SourceKey, Stored],
    settings: dict[str, object],
) -> None:
    """Writes the index and the description over all listed videos that are stored.

    Args:
        folder: Where the shards lie.
        videos: All videos of the listing, with their splits and labels.
        keys: The state of the file of each.
        stored: Where the stored ones among them lie.
        settings: What the shards were written with.
    """
    present = [(video, stored[key]) for video, key in zip(videos, keys, strict=True) if key in stored]
    label_columns = list(dict.fromkeys(column for video in videos for column in video.labels))
    split_columns = list(dict.fromkeys(column for video in videos for column in video.splits))
    rows = [
        {"name": video.name, "split": video.split, **vars(place)}
        | {LABEL_PREFIX + column: label for column, label in video.labels.items()}
        | {SPLIT_PREFIX + column: word for column, word in video.splits.items()}
        for video, place in present
    ]
    write_index(folder / INDEX_NAME, rows, label_columns, split_columns)
    description = {
        "settings": settings,
        "videos": len(present),
        "failed": len(videos) - len(present),
        "splits": dict(Counter(video.split for video, _ in present)),
        "label_columns": label_columns,
        "split_columns": split_columns,
        "frames": sum(len(place.frame_bytes) for _, place in present),
        "bytes": sum(int(place.frame_bytes.sum(dtype=np.int64)) for _, place in present),
        "shards": len({place.shard for _, place in present}),
        "versions": package_versions(),
    }
    write_text_atomically(folder / DATASET_NAME, json.dumps(description, indent=2) + "\n")


def package_versions() -> dict[str, str | None]:
    """Versions of the packages that a corpus is made with; none for one that is absent."""
    return {package: _version(package) for package in PACKAGES}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
