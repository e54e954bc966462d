"""A prepared corpus: WebDataset tar shards of JPEG frames, and a Parquet index for random access into them.

Each video is one WebDataset sample of two members: ``<key>.mjpeg``, its frames as JPEG files one after another (which
is also an ordinary Motion-JPEG stream), and ``<key>.json``, its name, rate, size and labels. The index holds one row
for each video with the byte offset of its stream and the byte length of every frame, so any frame of any video is one
read.
"""

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from vie.errors import VieError
from vie.files import write_atomically

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


@dataclass(frozen=True)
class Location:
    """Where the frames of one video lie: a file, the first byte of each frame and its length."""

    path: Path
    offsets: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]


class Shards:
    """Random access to the videos of a prepared corpus.

    Attributes:
        path: Folder of the corpus.
        names, splits: One string for each video.
        num_frames, fps, height, width: One number for each video; height and width of the stored frames, in pixels.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Opens the index in ``path``; raises ``VieError`` if there is none, or it is damaged."""
        self.path = Path(path)
        index = self.path / INDEX_NAME
        if not index.is_file():
            raise VieError(
                f"{self.path} holds no prepared corpus ({INDEX_NAME} is missing): run `vie-pretrain prepare` first"
            )
        table = _read_index(index)
        self.names: list[str] = table["name"].to_pylist()
        self.splits = np.asarray(table["split"].to_pylist(), dtype=np.str_)
        self.fps = table["fps"].to_numpy()
        self.height = table["height"].to_numpy()
        self.width = table["width"].to_numpy()
        self._shards = table["shard"].to_pylist()
        self._offsets = table["offset"].to_numpy()
        frame_bytes = table["frame_bytes"].combine_chunks()
        self._frame_bytes = frame_bytes.flatten().to_numpy()  # int32: 72 million of them in Kinetics-400
        self.num_frames = np.asarray(frame_bytes.value_lengths().to_numpy(), dtype=np.int64)
        self._first_frame = np.concatenate([[0], np.cumsum(self.num_frames)])
        self._labels: dict[str, list[str | None]] = {
            column.removeprefix(LABEL_PREFIX): table[column].to_pylist()
            for column in table.column_names
            if column.startswith(LABEL_PREFIX)
        }
        self._more_splits: dict[str, npt.NDArray[np.str_]] = {
            column.removeprefix(SPLIT_PREFIX): np.asarray([word or "" for word in table[column].to_pylist()], np.str_)
            for column in table.column_names
            if column.startswith(SPLIT_PREFIX)
        }

    def __len__(self) -> int:
        return len(self.names)

    @property
    def label_columns(self) -> list[str]:
        """Names of the label columns, in the order of the corpus."""
        return list(self._labels)

    def classes(self, column: str) -> list[str]:
        """Sorted class names of a label column."""
        return sorted({label for label in self._column(column) if label is not None})

    def labels(self, column: str) -> npt.NDArray[np.int64]:
        """Class number of every video, as positions in ``classes(column)``; -1 where the label is missing."""
        number: dict[str | None, int] = {name: i for i, name in enumerate(self.classes(column))}
        return np.asarray([number.get(label, -1) for label in self._column(column)], dtype=np.int64)

    @property
    def split_columns(self) -> list[str]:
        """Names of the further ways to split this corpus, where it has several; ``splits`` is the usual one."""
        return list(self._more_splits)

    def split(self, name: str, of: str | None = None) -> npt.NDArray[np.int64]:
        """Row numbers of the videos of one split, in the order of the corpus.

        Args:
            name: ``train``, ``val``, ``test`` or the source's own word; no rows where there is no such split.
            of: One of ``split_columns``; the usual way to split where left out.

        Raises:
            VieError: The corpus is not split in that way.
        """
        if of is not None and of not in self._more_splits:
            known = ", ".join(self._more_splits) or "none"
            raise VieError(f"{self.path} has no split column {of!r}: its split columns are {known}")
        return np.flatnonzero((self.splits if of is None else self._more_splits[of]) == name)

    def locate(self, video: int, frames: Sequence[int] | npt.NDArray[np.int64]) -> Location:
        """Where the given frames of a video lie."""
        first = self._first_frame[video]
        lengths = self._frame_bytes[first : first + self.num_frames[video]].astype(np.int64)
        starts = self._offsets[video] + np.concatenate([[0], np.cumsum(lengths)[:-1]])
        frames = np.asarray(frames)
        return Location(self.path / self._shards[video], starts[frames], lengths[frames])

    def read(self, video: int, frames: Sequence[int] | npt.NDArray[np.int64]) -> Tensor:
        """Decodes frames of a video as one tensor, uint8 (T, H, W, 3); see ``decode``."""
        return torch.stack(self.decode(video, frames))

    def decode(self, video: int, frames: Sequence[int] | npt.NDArray[np.int64]) -> list[Tensor]:
        """Decodes frames of a video one by one, for a caller that keeps a part of each.

        Args:
            video: Row number.
            frames: Frame numbers, each in [0, num_frames[video]); repeats and any order are allowed.

        Returns:
            T pictures, uint8 (H, W, 3); those of a repeated frame share memory.

        Raises:
            VieError: The shard is missing or damaged at these frames.
        """
        distinct, inverse = np.unique(np.asarray(frames), return_inverse=True)
        location = self.locate(video, distinct)
        try:
            pictures = decode_jpeg(_read_ranges(location), mode=ImageReadMode.RGB)
            size = int(self.height[video]), int(self.width[video])
            for picture in pictures:
                if tuple(picture.shape[1:]) != size:
                    raise ValueError(f"a picture is {tuple(picture.shape[1:])}, not {size} as the index says")
        except (OSError, RuntimeError, ValueError) as error:
            cause = str(error).split("\n")[0]  # torch appends a trace of its own
            raise VieError(
                f"{self.names[video]}: its frames in {location.path} cannot be read ({cause}): prepare the corpus again"
            ) from error
        # The decoder's memory is laid out (H, W, 3) already.
        return [pictures[place].permute(1, 2, 0) for place in inverse.tolist()]

    def jpegs(self, video: int, frames: npt.NDArray[np.int64]) -> list[Tensor]:
        """The JPEG files of frames, for a caller that decodes them elsewhere.

        Args:
            video: Row number.
            frames: Frame numbers, ascending, none twice.

        Returns:
            T uint8 vectors.

        Raises:
            VieError: The shard is missing, or ends early.
        """
        location = self.locate(video, frames)
        try:
            return _read_ranges(location)
        except OSError as error:
            raise VieError(
                f"{self.names[video]}: its frames in {location.path} cannot be read ({error}): prepare the corpus again"
            ) from error

    def _column(self, column: str) -> list[str | None]:
        if column not in self._labels:
            known = ", ".join(self._labels) or "none"
            raise VieError(f"{self.path} has no label column {column!r}: its label columns are {known}")
        return self._labels[column]


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
    write_atomically(path, lambda partial: pq.write_table(table, partial))


def _read_index(path: Path) -> pa.Table:
    """Reads an index and checks what reading frames relies on; the corpus may come from anybody."""
    try:
        with pq.ParquetFile(path) as file:
            table = file.read()
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        raise VieError(f"{path}: damaged ({cause}): prepare the corpus again") from error
    further = [column for column in table.column_names if column.startswith((LABEL_PREFIX, SPLIT_PREFIX))]
    for field in (*INDEX_FIELDS, *(pa.field(column, pa.string()) for column in further)):
        if table.column_names.count(field.name) != 1 or table.schema.field(field.name).type != field.type:
            raise VieError(
                f"{path}: has no column `{field.name}` of type {field.type}, or several: prepare the corpus again"
            )
    for field in INDEX_FIELDS:
        if table[field.name].null_count or (field.name == "frame_bytes" and _values(table, field.name).null_count):
            raise VieError(f"{path}: column `{field.name}` has gaps: prepare the corpus again")
    for shard in table["shard"].unique().to_pylist():
        if shard in ("", ".", "..") or os.path.basename(shard) != shard:
            raise VieError(f"{path}: shard {shard!r} is not a file in the corpus: do not trust this corpus")
    for column in ("offset", "frame_bytes"):
        lowest = pc.min(_values(table, column)).as_py()
        if lowest is not None and lowest < 0:
            raise VieError(f"{path}: column `{column}` has the negative value {lowest}: prepare the corpus again")
    for column in ("height", "width"):
        lowest = pc.min(table[column]).as_py()
        if lowest is not None and lowest < 1:
            raise VieError(f"{path}: column `{column}` has the value {lowest}: prepare the corpus again")
    fps = table["fps"].to_numpy()
    empty = pc.list_value_length(table["frame_bytes"]).to_numpy() == 0
    for wrong, fault in ((~(np.isfinite(fps) & (fps > 0)), "no frame rate above 0"), (empty, "no frames")):
        if wrong.any():
            name = table["name"][int(wrong.argmax())].as_py()
            raise VieError(f"{path}: video {name!a} has {fault}: prepare the corpus again")
    return table


def _values(table: pa.Table, column: str) -> pa.ChunkedArray:
    return pc.list_flatten(table[column]) if column == "frame_bytes" else table[column]


class _File:
    """An open shard, closed when the cache has dropped it and no thread reads it any more."""

    def __init__(self, path: Path) -> None:
        self.descriptor = -1
        # A named pipe would be waited for without end; of a file it makes no difference.
        self.descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self.size = os.fstat(self.descriptor).st_size

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)

    def read(self, begin: int, length: int) -> Tensor:
        """Bytes as a uint8 vector; raises ``OSError`` where the file ends early."""
        missing = begin + length - self.size
        if missing > 0:  # before that much memory is asked for
            raise OSError(f"the file ends {missing} bytes early")
        block = os.pread(self.descriptor, length, begin)
        if len(block) < length:
            raise OSError(f"the file ends {length - len(block)} bytes early")
        return torch.frombuffer(bytearray(block), dtype=torch.uint8)


@functools.lru_cache(maxsize=256)
def _open(path: Path) -> _File:
    return _File(path)


def _read_ranges(location: Location) -> list[Tensor]:
    """Reads byte ranges with one system call where they lie side by side."""
    file = _open(location.path)
    starts, lengths = location.offsets, location.lengths
    begin, end = int(starts[0]), int(starts[-1] + lengths[-1])
    if end - begin <= 2 * int(lengths.sum()):
        block = file.read(begin, end - begin)
        return [block[s : s + n] for s, n in zip((starts - begin).tolist(), lengths.tolist(), strict=True)]
    return [file.read(s, n) for s, n in zip(starts.tolist(), lengths.tolist(), strict=True)]
