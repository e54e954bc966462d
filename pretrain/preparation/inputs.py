"""What a corpus is made of: the files, their splits and their labels, from whichever listing the user has."""

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from pretrain.preparation.folders import EXTENSIONS, misplaced, places, walk
from pretrain.preparation.kinetics import kinetics_files, list_kinetics
from pretrain.preparation.listed import LABEL, Video, held_out, read_csv, read_text, split_word
from pretrain.preparation.official_splits import is_official, list_official
from vie.errors import VieError
from vie.video.index import SPLIT_PREFIX
from vie.video.picture import is_picture

logger = logging.getLogger(__name__)


def list_videos(
    source: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    labels: Sequence[str] | None = None,
    val_fraction: float = 0.0,
) -> list[Video]:
    """Lists the videos of a corpus, or its pictures; none is opened.

    Args:
        source: One of

            - a folder ``{train,val,test}/{class}/*``, or ``{class}/*``: one label column, ``label``;
            - any other folder: every video below it, without labels; links are followed, to each folder once. A warning
              names the file but for which there were labels or splits. Pictures are listed where there is no video; no
              more of them than videos are thumbnails, and left out with a warning;
            - Kinetics' CSV (``label,youtube_id,time_start,time_end,split``), or the folder of ``train.csv``,
              ``validate.csv`` and the like, whose files ``{youtube_id}_{start:06d}_{end:06d}.mp4`` lie anywhere below
              ``root``; absent files stay in the list;
            - the folder of the official split files of UCF101 (``trainlist01.txt``, …, and ``classInd.txt``) or HMDB51
              (``<class>_test_split1.txt``, …), whose files lie anywhere below ``root``: every split is kept under its
              number, and the first is the usual one; absent files stay in the list;
            - a CSV with a column ``path``, if wanted ``split`` and further ways to split ``split.NAME``, and label
              columns;
            - a ``.txt`` list of files, one on a line.
        root: Folder of the files that a CSV, a list or official split files name; its own folder where left out.
        labels: Label columns to keep; all where left out.
        val_fraction: Share of the videos without a split of their own that is held out as ``val``, picked by a hash of
            the name: adding videos never moves another one across.

    Returns:
        Videos in the order of the source; a folder is sorted by name.

    Raises:
        VieError: The source is missing, unreadable, empty or malformed, holds videos among more pictures, names a file
            twice or not in UTF-8, or has no such label column.
    """
    source = Path(source)
    if not 0 <= val_fraction < 1:
        raise VieError(f"val_fraction {val_fraction} is out of range: give a share in [0, 1)")
    if not os.path.exists(source):  # unlike Path.exists, this also takes a locked folder
        raise VieError(f"{source}: no such file or folder: give a folder of videos, a .csv or a .txt list")
    base = Path(root) if root is not None else (source if source.is_dir() else source.parent)
    if not os.path.isdir(base):
        raise VieError(f"{base}: no such folder: `root` is the folder of the files that {source} names")
    if is_official(source):
        columns, videos = [LABEL], list_official(source, base)
    elif lists := kinetics_files(source):
        columns, videos = list_kinetics(lists, base)
    elif source.is_dir():
        columns, videos = _from_folder(source)
    elif source.suffix.lower() == ".csv":
        columns, videos = _from_csv(source, base)
    elif source.suffix.lower() == ".txt":
        columns, videos = _from_list(source, base)
    else:
        raise VieError(f"{source}: not a listing of videos: give a folder, a .csv or a .txt list")
    if not videos:
        raise VieError(f"{source}: no video in it: known formats are {' '.join(EXTENSIONS)}")
    _check_names(source, videos)
    kept = _select(source, columns, labels)
    return [
        replace(
            video,
            split=video.split or held_out(video.name, val_fraction),
            labels={column: video.labels[column] for column in kept if video.labels.get(column)},
        )
        for video in videos
    ]


def _from_folder(root: Path) -> tuple[list[str], list[Video]]:
    names = _of_one_kind(root, sorted(walk(root)))
    if fault := misplaced(names):
        logger.warning("%s: splits or classes cannot be read from its folders, as %s", root, fault)
    found = places(names)
    videos = [
        Video(name, root / name, place.split, {LABEL: place.label} if place.label else {})
        for name, place in zip(names, found, strict=True)
    ]
    return ([LABEL] if any(place.label for place in found) else []), videos


def _of_one_kind(root: Path, names: list[str]) -> list[str]:
    """The videos without their thumbnails, or the pictures."""
    pictures = [name for name in names if is_picture(name)]
    videos = [name for name in names if not is_picture(name)]
    if not pictures or not videos:
        return names
    both = f"videos ({len(videos)}, first {videos[0]!a}) and pictures ({len(pictures)}, first {pictures[0]!a})"
    if len(pictures) > len(videos):
        raise VieError(f"{root}: holds both {both}: move one kind away, or list the wanted files in a .csv")
    logger.warning("%s: holds both %s: the pictures are left out, as thumbnails of the videos", root, both)
    return videos


def _from_csv(source: Path, base: Path) -> tuple[list[str], list[Video]]:
    columns, rows = read_csv(source)
    if "path" not in columns:
        raise VieError(
            f"{source}: no column `path` (its columns are {', '.join(columns) or 'none'}): add one with the files' "
            "paths, or use the columns of Kinetics"
        )
    split_columns = {column.removeprefix(SPLIT_PREFIX): column for column in columns if column.startswith(SPLIT_PREFIX)}
    label_columns = [column for column in columns if column not in ("path", "split", *split_columns.values())]
    videos = []
    for number, row in enumerate(rows, start=2):
        if not row["path"]:
            raise VieError(f"{source}: line {number} has no path: fill it in or delete the line")
        labels = {column: row[column] for column in label_columns if row.get(column)}
        splits = {name: split_word(row[column]) for name, column in split_columns.items() if row.get(column)}
        videos.append(replace(_listed(row["path"], base, row.get("split", ""), labels), splits=splits))
    return label_columns, videos


def _from_list(source: Path, base: Path) -> tuple[list[str], list[Video]]:
    lines = (line.strip() for line in read_text(source).splitlines())
    return [], [_listed(line, base, "", {}) for line in lines if line]


def _listed(given: str, base: Path, split: str, labels: dict[str, str]) -> Video:
    path = base / given
    name = os.path.normpath(os.path.relpath(path, base) if os.path.isabs(given) else given)
    return Video(PurePosixPath(*Path(name).parts).as_posix(), path, split_word(split), labels)


def _select(source: Path, columns: list[str], labels: Sequence[str] | None) -> list[str]:
    wanted = columns if labels is None else list(labels)
    for column in wanted:
        if column not in columns:
            raise VieError(
                f"{source}: no label column {column!r}: its label columns are {', '.join(columns) or 'none'}"
            )
    return wanted


def _check_names(source: Path, videos: list[Video]) -> None:
    seen: set[str] = set()
    for video in videos:
        try:
            f"{video.path}{video.name}{video.labels}".encode()
        except UnicodeEncodeError as error:
            raise VieError(f"{str(source)!a}: file name {video.name!a} is not UTF-8: rename the file") from error
        if video.name in seen:
            raise VieError(f"{source}: {video.name} is listed twice: keep one line for each video")
        seen.add(video.name)
