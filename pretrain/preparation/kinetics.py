"""Kinetics' official lists (``label,youtube_id,time_start,time_end``): one CSV, or a folder of one for each split."""

import csv
from collections.abc import Sequence
from pathlib import Path

from pretrain.preparation.folders import by_key, walk
from pretrain.preparation.listed import LABEL, SPLITS, Row, Video, read_csv, split_word
from vie.errors import VieError

COLUMNS = ("youtube_id", "time_start", "time_end")


def kinetics_files(source: Path) -> list[Path]:
    """The lists that a file or folder is, such as ``train.csv`` and ``validate.csv``; none where it is none.

    Raises:
        VieError: A folder holds such lists and nothing else, and one of them is not Kinetics'.
    """
    if source.suffix.lower() == ".csv":
        return [source] if _is_kinetics(source) else []
    if not source.is_dir() or any(True for _ in walk(source)):  # lists may also lie beside the videos
        return []
    files = sorted(file for file in source.glob("*.csv") if file.stem.lower() in SPLITS)
    if others := [file for file in files if not _is_kinetics(file)]:
        raise VieError(
            f"{others[0]} is no list of Kinetics', whose columns are {', '.join(COLUMNS)}: mend its header or take it "
            "out of the folder; of lists with a column path give one, with a column split"
        )
    return files


def list_kinetics(files: Sequence[Path], root: Path) -> tuple[list[str], list[Video]]:
    """Lists the videos of some lists; files that are not there stay in the list.

    Args:
        files: From ``kinetics_files``; of several, one without a column ``split`` is of the split that its name says.
        root: Folder below which the files ``{youtube_id}_{start:06d}_{end:06d}.mp4`` lie.

    Returns:
        The label columns, and the videos in the order of the lists.

    Raises:
        VieError: A list cannot be read, or its times are no numbers.
    """
    found = by_key(root, lambda place: place.stem)
    listed = [(file, *read_csv(file)) for file in files]
    videos = [
        _video(row, found, root, file, number, SPLITS.get(file.stem.lower(), "") if len(files) > 1 else "")
        for file, _, rows in listed
        for number, row in enumerate(rows, start=2)
    ]
    return [LABEL] if any(LABEL in columns for _, columns, _ in listed) else [], videos


def _is_kinetics(file: Path) -> bool:
    try:
        with file.open(encoding="utf-8-sig", errors="replace", newline="") as text:
            columns = next(csv.reader(text, skipinitialspace=True), [])
    except (OSError, csv.Error):
        return False
    return all(column in columns for column in COLUMNS)


def _video(row: Row, found: dict[str, str], root: Path, file: Path, number: int, named: str) -> Video:
    try:
        start, end = (int(float(row[column])) for column in ("time_start", "time_end"))
    except (ValueError, OverflowError) as error:
        raise VieError(f"{file}: line {number} has no valid times ({error}): mend or delete the line") from error
    stem = f"{row['youtube_id']}_{start:06d}_{end:06d}"
    name = found.get(stem, stem + ".mp4")
    split = row.get("split") or named
    return Video(name, root / name, split_word(split), {LABEL: row[LABEL]} if row.get(LABEL) else {})
