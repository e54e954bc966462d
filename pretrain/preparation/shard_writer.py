"""Shards on disk: each is written whole or not at all, with a table beside it of the videos in it."""

import contextlib
import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import webdataset as wds

from pretrain.preparation.frames import Transcoded
from pretrain.preparation.listed import Video
from vie.errors import VieError
from vie.files import write_atomically
from vie.video.index import INDEX_FIELDS

PARTIAL = ".partial"
SHARD_VIDEOS = 256  # few files for a million videos, and little to do again where a run was stopped
SHARD = re.compile(r"shard-(\d{6,})\.tar")
LEFTOVER = re.compile(r"(shard-\d{6,}\.(tar|parquet)|index\.parquet|failed\.csv|dataset\.json)\.partial")
UNPLACED = ".unplaced-"  # begins the name of a folder in which the machines of a cluster make shards
SETTINGS_KEY = b"vie.settings"
SHARD_FIELDS = [
    *(column for column in INDEX_FIELDS if column.name != "split"),  # splits and labels belong to the listing
    pa.field("source_size", pa.int64()),
    pa.field("source_mtime_ns", pa.int64()),
]


class SourceKey(NamedTuple):
    """What tells one state of a source file from another; a size of -1 stands for a missing file."""

    name: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Stored:
    """Where a prepared video lies; the fields are those of the index."""

    shard: str
    offset: int
    frame_bytes: npt.NDArray[np.int32]
    fps: float
    height: int
    width: int


def source_key(video: Video) -> SourceKey:
    """Looks up the state of a video's file."""
    try:
        state = video.path.stat()
    except (OSError, ValueError):  # the latter for a name that no file can have
        return SourceKey(video.name, -1, -1)
    return SourceKey(video.name, state.st_size, state.st_mtime_ns)


def read_finished(folder: Path, settings: Mapping[str, object]) -> dict[SourceKey, Stored]:
    """Collects the videos of all finished shards, then removes what an interrupted run left behind.

    The folder must be a prepared corpus: what is named like a shard is taken for one.

    Raises:
        VieError: The shards were written with other settings, or a table is damaged.
    """
    leftovers = [path for path in folder.iterdir() if LEFTOVER.fullmatch(path.name)]
    finished: dict[SourceKey, Stored] = {}
    for tar in _tars(folder):
        table_path = tar.with_suffix(".parquet")
        if not table_path.exists():
            leftovers.append(tar)  # the run was stopped between the two files
            continue
        try:
            table = pq.read_table(table_path)
            found = json.loads((table.schema.metadata or {})[SETTINGS_KEY])
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            raise VieError(f"{table_path}: damaged ({error}): delete it and {tar.name}, and run again") from error
        if found != settings:
            raise VieError(
                f"{folder}: was prepared with {_spell(found)}, not {_spell(settings)}: "
                "ask for the same settings or choose another folder"
            )
        finished.update(_entries(table))
    for leftover in leftovers:
        leftover.unlink()
    for unplaced in folder.glob(UNPLACED + "*"):
        shutil.rmtree(unplaced, ignore_errors=True)
    return finished


def next_number(folder: Path) -> int:
    """The number after that of the last shard in a folder."""
    return max((int(tar.stem.removeprefix("shard-")) for tar in _tars(folder)), default=-1) + 1


def place_shard(made: Path, folder: Path) -> dict[SourceKey, Stored]:
    """Moves the shard that was made in a folder of its own into the corpus, on the same file system.

    Args:
        made: Where one shard and its table lie, or nothing where none of its videos could be stored. It is removed.
        folder: The corpus.

    Returns:
        The videos in it.

    Raises:
        FileNotFoundError: ``made`` is not there.
    """
    finished: dict[SourceKey, Stored] = {}
    for tar in _tars(made):
        table = folder / tar.with_suffix(".parquet").name
        os.replace(tar, folder / tar.name)
        os.replace(made / table.name, table)  # last, as always: it declares the shard finished
        finished.update(_entries(pq.read_table(table)))
    shutil.rmtree(made, ignore_errors=True)
    return finished


class ShardWriter:
    """Writes videos into shards of a fixed number of videos; a context manager that drops an unfinished shard."""

    def __init__(
        self,
        folder: Path,
        videos_per_shard: int,
        settings: Mapping[str, object],
        on_finish: Callable[[], None],
        number: int | None = None,
    ) -> None:
        """Begins with shard ``number``, or after the last in ``folder``; ``on_finish`` is called for each in place."""
        self._folder, self._size, self._settings, self._on_finish = folder, videos_per_shard, settings, on_finish
        self._number = next_number(folder) if number is None else number
        self._rows: list[dict[str, Any]] = []
        self._file: IO[bytes] | None = None
        self._tar: wds.TarWriter | None = None
        self.finished: dict[SourceKey, Stored] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            self._drop()

    def add(self, video: Video, key: SourceKey, result: Transcoded) -> None:
        """Appends a video; the shard is put in its place when it is full."""
        if self._tar is None:
            self._file = self._partial.open("wb")
            self._tar = wds.TarWriter(self._file, mtime=0, encoder=False)
        sample = f"{self._number:06d}-{len(self._rows):06d}"
        description = {
            "name": video.name,
            "split": video.split,
            "labels": video.labels,
            "fps": result.fps,
            "height": result.height,
            "width": result.width,
            "frame_bytes": result.frame_bytes,
        }
        self._tar.write({"__key__": sample, "mjpeg": result.stream, "json": json.dumps(description).encode()})
        self._rows.append(
            {
                "name": video.name,
                "shard": self._path.name,
                "offset": sample,  # replaced by the position once the tar is closed
                "frame_bytes": np.asarray(result.frame_bytes, dtype=np.int32),
                "fps": result.fps,
                "height": result.height,
                "width": result.width,
                "source_size": key.size,
                "source_mtime_ns": key.mtime_ns,
            }
        )
        if len(self._rows) == self._size:
            self.finish()

    def finish(self) -> None:
        """Puts the current shard and its table in their places."""
        if self._tar is None or self._file is None:
            return
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        with tarfile.open(self._partial) as tar:
            offsets = {member.name: member.offset_data for member in tar}
        for row in self._rows:
            row["offset"] = offsets[f"{row['offset']}.mjpeg"]
        schema = pa.schema(SHARD_FIELDS, metadata={SETTINGS_KEY: json.dumps(self._settings).encode()})
        table = pa.Table.from_pylist(self._rows, schema=schema)
        os.replace(self._partial, self._path)
        # The table comes last: it is what declares the shard finished.
        write_atomically(self._path.with_suffix(".parquet"), lambda partial: pq.write_table(table, partial))
        self.finished.update(_entries(table))
        self._file, self._tar, self._rows = None, None, []
        self._number += 1
        self._on_finish()

    def _drop(self) -> None:
        """Removes what there is of a shard without its table."""
        if self._tar is None or self._file is None:
            return
        for file in (self._tar, self._file):
            with contextlib.suppress(OSError, ValueError):  # closing flushes, which fails once more on a full disk
                file.close()
        self._partial.unlink(missing_ok=True)
        self._path.unlink(missing_ok=True)

    @property
    def _path(self) -> Path:
        return self._folder / f"shard-{self._number:06d}.tar"

    @property
    def _partial(self) -> Path:
        return self._path.with_name(self._path.name + PARTIAL)


def _tars(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if SHARD.fullmatch(path.name))


def _entries(table: pa.Table) -> dict[SourceKey, Stored]:
    """Rows by source file, with the frame lengths as views of one array rather than as Python numbers."""
    frame_bytes = table["frame_bytes"].combine_chunks()
    numbers = frame_bytes.flatten().to_numpy()
    counts = frame_bytes.value_lengths().to_numpy()
    ends = np.cumsum(counts)
    entries = {}
    rows = table.drop_columns("frame_bytes").to_pylist()
    for row, begin, end in zip(rows, (ends - counts).tolist(), ends.tolist(), strict=True):
        key = SourceKey(row["name"], row["source_size"], row["source_mtime_ns"])
        place = {column: row[column] for column in ("shard", "offset", "fps", "height", "width")}
        entries[key] = Stored(frame_bytes=numbers[begin:end], **place)
    return entries


def _spell(settings: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items())
