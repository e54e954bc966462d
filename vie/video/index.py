"""The index of a prepared corpus: read into few flat arrays, and checked, for it may come from anybody."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vie.errors import VieError
from vie.files import write_atomically
from vie.video.cache import Cache
from vie.video.table import ROWS, TABLE_SCHEMA, VideoTable, write_table

INDEX_NAME = "index.parquet"
LABEL_PREFIX = "label."
SPLIT_PREFIX = "split."
INDEX_FIELDS = [
    pa.field("name", pa.string()),  # the video's own path, relative to the corpus it came from
    pa.field("split", pa.string()),
    pa.field("shard", pa.string()),  # file name of the tar, beside the index
    pa.field("offset", pa.int64()),  # first byte of the Motion-JPEG stream in the tar
    pa.field("frame_bytes", pa.list_(pa.int32())),
    pa.field("fps", pa.float32()),
    pa.field("height", pa.int32()),
    pa.field("width", pa.int32()),
]

IN_MEMORY = 512 * 2**20
"""Bytes of names and frame lengths up to which they are held in memory: some hundred thousand videos of ten seconds."""

_GROUP = 65_536  # rows of the file that are written together
_READ_AHEAD = 2**20  # the file is read in pieces of this size rather than a column of a million rows at once


@dataclass(frozen=True)
class Words:
    """A column of N words that repeat.

    Attributes:
        words: Those that occur, sorted.
        codes: (N,) which of them each row has; -1 where it has none.
    """

    words: pa.StringArray
    codes: npt.NDArray[np.signedinteger[Any]]

    def __getitem__(self, row: int) -> str | None:
        code = int(self.codes[row])
        return None if code < 0 else str(self.words[code])

    def rows(self, word: str) -> npt.NDArray[np.int64]:
        """The rows that have a word."""
        code = pc.index(self.words, word).as_py()
        return np.flatnonzero(self.codes == code) if code >= 0 else np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class Index:
    """N videos: where they lie, their sizes, splits and labels.

    Attributes:
        table: Names and frame lengths.
        offset, fps, height, width: (N,) numbers.
        split, shard: (N,) words.
        labels, splits: (N,) words of each label column, and of each further way to split.
    """

    table: VideoTable
    offset: npt.NDArray[np.int64]
    fps: npt.NDArray[np.float32]
    height: npt.NDArray[Any]
    width: npt.NDArray[Any]
    split: Words
    shard: Words
    labels: dict[str, Words]
    splits: dict[str, Words]


def read_index(path: object, source: Any, version: str, cache: Cache) -> Index:
    """Reads an index and checks what reading frames relies on.

    Args:
        path: What messages call it.
        source: Its path, or a seekable file.
        version: Another one for every state of the file: a table in the cache is found by it.
        cache: For the table of a large index.

    Raises:
        VieError: It is damaged, or must not be trusted.
    """
    with _damage(path), pq.ParquetFile(source, buffer_size=_READ_AHEAD) as file:
        schema = file.schema_arrow
        large = _unrolled_bytes(file.metadata) > IN_MEMORY
    columns = [name for name in schema.names if name.startswith((LABEL_PREFIX, SPLIT_PREFIX))]
    for field in (*INDEX_FIELDS, *(pa.field(column, pa.string()) for column in columns)):
        if schema.names.count(field.name) != 1 or schema.field(field.name).type != field.type:
            raise VieError(
                f"{path}: has no column `{field.name}` of type {field.type}, or several: prepare the corpus again"
            )
    words = {name: _read_words(path, source, name) for name in ("split", "shard", *columns)}
    for shard in words["shard"].words.to_pylist():
        if shard in ("", ".", "..") or os.path.basename(shard) != shard:
            raise VieError(f"{path}: shard {shard!r} is not a file in the corpus: do not trust this corpus")
    numbers = {name: _read_numbers(path, source, name) for name in ("offset", "fps", "height", "width")}
    for name, least in (("offset", 0), ("height", 1), ("width", 1)):
        _check_least(path, name, numbers[name].min(initial=least), least)
    table = _open_table(path, source, version, cache if large else None)
    wrong = ~(np.isfinite(numbers["fps"]) & (numbers["fps"] > 0))
    if wrong.any():
        name = table.names[int(wrong.argmax())]
        raise VieError(f"{path}: video {name!a} has no frame rate above 0: prepare the corpus again")
    pa.default_memory_pool().release_unused()  # several times what is kept was in use on the way
    further = {
        prefix: {name.removeprefix(prefix): words[name] for name in columns if name.startswith(prefix)}
        for prefix in (LABEL_PREFIX, SPLIT_PREFIX)
    }
    return Index(
        table,
        **numbers,
        split=words["split"],
        shard=words["shard"],
        labels=further[LABEL_PREFIX],
        splits=further[SPLIT_PREFIX],
    )


def write_index(
    path: Path, rows: list[dict[str, object]], label_columns: Sequence[str], split_columns: Sequence[str] = ()
) -> None:
    """Writes index rows as Parquet, atomically.

    Args:
        path: The file to write.
        rows: One mapping for each video with the keys of ``INDEX_FIELDS``, ``label.<column>`` and ``split.<column>``.
        label_columns: Names of the label columns; a row without one has no such label.
        split_columns: Names of the further ways to split the corpus; a row without one is in none of its splits.

    Raises:
        OSError: The file cannot be written; nothing is left behind.
    """
    further = [LABEL_PREFIX + column for column in label_columns] + [SPLIT_PREFIX + column for column in split_columns]
    schema = pa.schema([*INDEX_FIELDS, *(pa.field(column, pa.string()) for column in further)])
    table = pa.Table.from_pylist(rows, schema=schema)
    write_atomically(path, lambda partial: pq.write_table(table, partial, row_group_size=_GROUP))


@contextlib.contextmanager
def _damage(path: object) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        raise VieError(f"{path}: damaged ({cause}): prepare the corpus again") from error


def _unrolled_bytes(metadata: pq.FileMetaData) -> int:
    """About what names and frame lengths take in memory."""
    total = 0
    for group in range(metadata.num_row_groups):
        for number in range(metadata.num_columns):
            column = metadata.row_group(group).column(number)
            if column.path_in_schema == "name":
                total += column.total_uncompressed_size
            elif column.path_in_schema.startswith("frame_bytes."):
                total += 4 * column.num_values
    return total


def _read_column(path: object, source: Any, name: str, **options: Any) -> pa.ChunkedArray:
    with _damage(path), pq.ParquetFile(source, buffer_size=_READ_AHEAD, **options) as file:
        table = file.read(columns=[name])
        table.validate(full=True)
    return table[name]


def _read_numbers(path: object, source: Any, name: str) -> npt.NDArray[Any]:
    column = _read_column(path, source, name)
    _check_gaps(path, name, column.null_count)
    return column.to_numpy()


def _read_words(path: object, source: Any, name: str) -> Words:
    """A column of strings, without a string for each row at any time."""
    column = _read_column(path, source, name, read_dictionary=[name])
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    if not name.startswith((LABEL_PREFIX, SPLIT_PREFIX)):
        _check_gaps(path, name, column.null_count)
    whole = column.unify_dictionaries().combine_chunks()
    if isinstance(whole, pa.ChunkedArray):  # combining no chunks gives none
        whole = pa.array([], column.type)
    codes = whole.indices.fill_null(-1).to_numpy()
    # A file may name a word twice, or one that no row has.
    occurs = np.flatnonzero(np.bincount(codes + 1, minlength=len(whole.dictionary) + 1)[1:])
    distinct = whole.dictionary.take(pa.array(occurs)).dictionary_encode()
    order = pc.sort_indices(distinct.dictionary).to_numpy()
    small = np.int16 if len(order) < 2**15 else np.int32
    place = np.full(len(whole.dictionary) + 1, -1, dtype=small)  # the last is that of code -1
    place[occurs] = np.argsort(order)[distinct.indices.to_numpy()]
    return Words(distinct.dictionary.take(pa.array(order)), place[codes])


def _open_table(path: object, source: Any, version: str, cache: Cache | None) -> VideoTable:
    if cache is None:
        sink = pa.BufferOutputStream()
        write_table(_checked_batches(path, source), sink)
        return VideoTable(sink.getvalue())
    made = cache.make(f"table 1 {version}", lambda partial: write_table(_checked_batches(path, source), str(partial)))
    return VideoTable(pa.memory_map(str(made)))


def _checked_batches(path: object, source: Any) -> Iterator[pa.RecordBatch]:
    with contextlib.ExitStack() as stack:
        with _damage(path):
            file = stack.enter_context(pq.ParquetFile(source, buffer_size=_READ_AHEAD))
            batches = file.iter_batches(ROWS, columns=TABLE_SCHEMA.names)
        while True:
            with _damage(path):
                batch = next(batches, None)
                if batch is None:
                    return
                batch = batch.select(TABLE_SCHEMA.names)
                batch.validate(full=True)
            names, lengths = batch.columns
            _check_gaps(path, "name", names.null_count)
            _check_gaps(path, "frame_bytes", lengths.null_count or lengths.flatten().null_count)
            empty = pc.list_value_length(lengths).to_numpy() == 0
            if empty.any():
                name = names[int(empty.argmax())].as_py()
                raise VieError(f"{path}: video {name!a} has no frames: prepare the corpus again")
            _check_least(path, "frame_bytes", pc.min(lengths.flatten()).as_py() or 0, 0)
            yield pa.record_batch([names, lengths], schema=TABLE_SCHEMA)


def _check_gaps(path: object, column: str, gaps: int) -> None:
    if gaps:
        raise VieError(f"{path}: column `{column}` has gaps: prepare the corpus again")


def _check_least(path: object, column: str, lowest: int, least: int) -> None:
    if lowest < least:
        kind = "negative value" if least == 0 else "value"
        raise VieError(f"{path}: column `{column}` has the {kind} {lowest}: prepare the corpus again")
