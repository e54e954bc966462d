"""The two long columns of an index, names and frame lengths, in Arrow buffers of which nothing need be resident.

A large index is unrolled once into a file of the cache, which every process of the node maps; a small one into memory.
"""

import bisect
from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

ROWS = 16_384
"""Rows of a batch: bounds what is in memory while a table is made."""

TABLE_SCHEMA = pa.schema([pa.field("name", pa.string()), pa.field("frame_bytes", pa.list_(pa.int32()))])


class Names(Sequence[str]):
    """Strings in Arrow buffers; each is made when it is asked for."""

    def __init__(self, chunks: Sequence[pa.StringArray]) -> None:
        self._chunks = list(chunks)
        self._first = [0, *np.cumsum([len(chunk) for chunk in chunks], dtype=np.int64).tolist()]

    def __len__(self) -> int:
        return int(self._first[-1])

    @overload
    def __getitem__(self, row: int) -> str: ...

    @overload
    def __getitem__(self, row: slice) -> list[str]: ...

    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self[one] for one in range(*row.indices(len(self)))]
        row = range(len(self))[row]
        chunk = bisect.bisect_right(self._first, row) - 1
        return str(self._chunks[chunk][row - self._first[chunk]].as_py())

    def __iter__(self) -> Iterator[str]:
        for chunk in self._chunks:
            yield from map(str, chunk)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(str.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]

    def joined(self, rows: npt.NDArray[np.int64], separator: str) -> Iterator[memoryview]:
        """The names of some rows, joined, in pieces of UTF-8; rows in ascending order take the least memory."""
        for begin in range(0, len(rows), ROWS):
            part = rows[begin : begin + ROWS]
            low, high = (bisect.bisect_right(self._first, row) - 1 for row in (part.min(), part.max()))
            names = pa.concat_arrays(self._chunks[low : high + 1]).take(pa.array(part - self._first[low]))
            if begin:
                yield memoryview(separator.encode())
            yield memoryview(pc.binary_join(pa.ListArray.from_arrays([0, len(part)], names), separator)[0].as_buffer())


class VideoTable:
    """Names and frame lengths of N videos.

    Attributes:
        names: (N,) strings.
        num_frames: (N,) frames in each.
    """

    def __init__(self, source: pa.Buffer | pa.NativeFile) -> None:
        """Reads what ``write_table`` has written; a mapped file stays on the disk."""
        reader = pa.ipc.open_file(source)
        batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        self.names = Names([batch.column(0) for batch in batches])
        self._first = [0, *np.cumsum([len(batch) for batch in batches], dtype=np.int64).tolist()]
        self._ends = [batch.column(1).offsets.to_numpy() for batch in batches]
        self._lengths = [batch.column(1).values.to_numpy() for batch in batches]
        counts = [np.diff(ends) for ends in self._ends]
        self.num_frames = np.concatenate([np.empty(0, dtype=np.int64), *counts], dtype=np.int64)

    def frame_bytes(self, video: int) -> npt.NDArray[np.int32]:
        """Length of every frame of a video in bytes."""
        video = range(len(self.num_frames))[video]
        batch = bisect.bisect_right(self._first, video) - 1
        first, end = self._ends[batch][video - self._first[batch] :][:2]
        lengths: npt.NDArray[np.int32] = self._lengths[batch][first:end]
        return lengths


def write_table(batches: Iterator[pa.RecordBatch], sink: Any) -> None:
    """Writes batches of names and frame lengths as an uncompressed Arrow file.

    Args:
        batches: Of ``TABLE_SCHEMA``; one is in memory at a time.
        sink: Path or stream.
    """
    with pa.ipc.new_file(sink, TABLE_SCHEMA) as writer:
        for batch in batches:
            writer.write_batch(batch)
