"""A prepared corpus: WebDataset tar shards of JPEG frames, and a Parquet index for random access into them.

Each video is one WebDataset sample of two members: ``<key>.mjpeg``, its frames as JPEG files one after another (which
is also an ordinary Motion-JPEG stream), and ``<key>.json``, its name, rate, size and labels. The index holds one row
for each video with the byte offset of its stream and the byte length of every frame, so any frame of any video is one
read. Both lie in a folder or behind a URL.
"""

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import simplejpeg
import torch
from torch import Tensor

from vie.errors import VieError
from vie.video.cache import DEFAULT_BYTES, Cache, default_folder
from vie.video.index import INDEX_NAME, Index, Words, read_index
from vie.video.remote import RemoteFile, RemotePath, SeekableFile, is_url


@dataclass(frozen=True)
class Location:
    """Where the frames of one video lie: a file, the first byte of each frame and its length."""

    path: Path | RemotePath
    offsets: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]


class Shards:
    """Random access to the videos of a prepared corpus.

    Pickled, it is its path alone: whoever receives it opens the corpus again. Forked processes share its arrays.

    Attributes:
        path: Folder of the corpus, or its URL.
        names: One string for each video.
        num_frames, fps, height, width: One number for each video; height and width of the stored frames, in pixels.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        cache_dir: str | os.PathLike[str] | None = None,
        cache_bytes: int = DEFAULT_BYTES,
    ) -> None:
        """Opens the index of a corpus.

        Args:
            path: Folder, or URL of any file system that fsspec knows.
            cache_dir: Folder for what is fetched from a URL, and for what is made out of a corpus: tables of a large
                index, decoded frames; ``$XDG_CACHE_HOME/vie`` where left out.
            cache_bytes: That it may hold at most.

        Raises:
            VieError: There is no index, it is damaged or must not be trusted, or the cache cannot be used.
        """
        path = os.fspath(path)
        self._cache = Cache(default_folder() if cache_dir is None else Path(cache_dir), cache_bytes)
        self.path = RemotePath(path, self._cache) if is_url(path) else Path(path)
        self._version, self._index = _open_index(self.path, self._cache)
        self.names = self._index.table.names
        self.num_frames = self._index.table.num_frames
        self.fps = self._index.fps
        self.height = self._index.height
        self.width = self._index.width

    def __len__(self) -> int:
        return len(self.names)

    def __reduce__(self) -> tuple[type["Shards"], tuple[str, Path, int]]:
        url = self.path.url if isinstance(self.path, RemotePath) else str(self.path)
        return Shards, (url, self._cache.folder, self._cache.limit)

    @property
    def name(self) -> str:
        """The last part of its path."""
        return Path(str(self.path)).name

    @property
    def label_columns(self) -> list[str]:
        """Names of the label columns, in the order of the corpus."""
        return list(self._index.labels)

    def classes(self, column: str) -> list[str]:
        """Sorted class names of a label column."""
        classes: list[str] = self._column(column).words.to_pylist()
        return classes

    def labels(self, column: str) -> npt.NDArray[np.int64]:
        """Class number of every video, as positions in ``classes(column)``; -1 where the label is missing."""
        return self._column(column).codes.astype(np.int64)

    @property
    def split_names(self) -> list[str]:
        """The splits that there are, sorted."""
        names: list[str] = self._index.split.words.to_pylist()
        return names

    @property
    def splits(self) -> npt.NDArray[np.str_]:
        """The split of every video, spelt out; ``split`` finds the videos of one without."""
        return np.asarray(self.split_names, dtype=np.str_)[self._index.split.codes]

    @property
    def split_columns(self) -> list[str]:
        """Names of the further ways to split this corpus, where it has several; ``splits`` is the usual one."""
        return list(self._index.splits)

    def split(self, name: str, of: str | None = None) -> npt.NDArray[np.int64]:
        """Row numbers of the videos of one split, in the order of the corpus.

        Args:
            name: ``train``, ``val``, ``test`` or the source's own word; no rows where there is no such split.
            of: One of ``split_columns``; the usual way to split where left out.

        Raises:
            VieError: The corpus is not split in that way.
        """
        if of is not None and of not in self._index.splits:
            known = ", ".join(self._index.splits)
            cure = (
                f"set data.split to one of its split columns, {known}" if known else "it has none: leave data.split out"
            )
            raise VieError(
                f"{self.path} has no split column {of!r}: {cure}, or prepare it from a listing with a column split.NAME"
            )
        return (self._index.split if of is None else self._index.splits[of]).rows(name)

    def locate(self, video: int, frames: Sequence[int] | npt.NDArray[np.int64]) -> Location:
        """Where the given frames of a video lie."""
        lengths = self._index.table.frame_bytes(video).astype(np.int64)
        starts = self._index.offset[video] + np.concatenate([[0], np.cumsum(lengths)[:-1]])
        frames = np.asarray(frames)
        return Location(self.path / str(self._index.shard[video]), starts[frames], lengths[frames])

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
            UnreachableError: It could not be fetched; nothing is known of it.
        """
        distinct, inverse = np.unique(np.asarray(frames), return_inverse=True)
        location = self.locate(video, distinct)
        try:
            size = int(self.height[video]), int(self.width[video])
            pictures = [decode_picture(file, size) for file in _read_ranges(location)]
        except (OSError, ValueError) as error:
            raise VieError(
                f"{self.names[video]}: its frames in {location.path} cannot be read ({error}): prepare the corpus again"
            ) from error
        return [pictures[place] for place in inverse.tolist()]

    def jpegs(self, video: int, frames: npt.NDArray[np.int64]) -> list[Tensor]:
        """The JPEG files of frames, for a caller that decodes them elsewhere.

        Args:
            video: Row number.
            frames: Frame numbers, ascending, none twice.

        Returns:
            T uint8 vectors.

        Raises:
            VieError: The shard is missing, or ends early.
            UnreachableError: It could not be fetched.
        """
        location = self.locate(video, frames)
        try:
            return _read_ranges(location)
        except OSError as error:
            raise VieError(
                f"{self.names[video]}: its frames in {location.path} cannot be read ({error}): prepare the corpus again"
            ) from error

    def cached(self, what: str, size: int, write: Callable[[Path], None]) -> Path:
        """A file made out of this corpus as it is now, in its cache; whoever finds none there writes it.

        Args:
            what: Tells it from other such files.
            size: In bytes, about.
            write: Writes it over an empty file.

        Raises:
            VieError: The cache has no room for it or cannot be written; and whatever ``write`` raises.
        """
        return self._cache.make(f"{what} {self._version}", write, size)

    def _column(self, column: str) -> Words:
        if column not in self._index.labels:
            known = ", ".join(self._index.labels) or "none"
            raise VieError(f"{self.path} has no label column {column!r}: its label columns are {known}")
        return self._index.labels[column]


def decode_picture(file: Tensor, size: tuple[int, int]) -> Tensor:
    """A JPEG file as uint8 (H, W, 3); raises ``ValueError`` for damage, and before it decodes for another size."""
    content = file.numpy()
    try:
        found = simplejpeg.decode_jpeg_header(content)[:2]
    except ValueError as error:
        raise ValueError(f"a picture is no JPEG file, or its beginning is damaged: {error}") from error
    if found != size:
        raise ValueError(f"a picture is {found}, not {size} as the index says")
    return torch.from_numpy(simplejpeg.decode_jpeg(content, "RGB"))


def _open_index(path: Path | RemotePath, cache: Cache) -> tuple[str, Index]:
    index = path / INDEX_NAME
    try:
        if isinstance(index, RemotePath):
            file = RemoteFile(index)
            return file.version, read_index(index, SeekableFile(file), file.version, cache)
        if index.is_file():
            state = index.stat()
            version = repr((str(index.resolve()), state.st_size, state.st_mtime_ns, state.st_ino))
            return version, read_index(index, str(index), version, cache)
    except FileNotFoundError:
        pass
    raise VieError(f"{path} holds no prepared corpus ({INDEX_NAME} is missing): run `vie-pretrain prepare` first")


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

    def read(self, begin: int, length: int) -> bytes:
        """Bytes of the file; raises ``OSError`` where it ends early."""
        missing = begin + length - self.size
        if missing > 0:  # before that much memory is asked for
            raise OSError(f"the file ends {missing} bytes early")
        block = os.pread(self.descriptor, length, begin)
        if len(block) < length:
            raise OSError(f"the file ends {length - len(block)} bytes early")
        return block


@functools.lru_cache(maxsize=256)
def _open(path: Path | RemotePath) -> _File | RemoteFile:
    return RemoteFile(path) if isinstance(path, RemotePath) else _File(path)


def _read_bytes(file: _File | RemoteFile, begin: int, length: int) -> Tensor:
    """Bytes as a uint8 vector."""
    return torch.frombuffer(bytearray(file.read(begin, length)), dtype=torch.uint8)


def _read_ranges(location: Location) -> list[Tensor]:
    """Reads byte ranges with one system call where they lie side by side."""
    file = _open(location.path)
    starts, lengths = location.offsets, location.lengths
    begin, end = int(starts[0]), int(starts[-1] + lengths[-1])
    if end - begin <= 2 * int(lengths.sum()):
        block = _read_bytes(file, begin, end - begin)
        return [block[s : s + n] for s, n in zip((starts - begin).tolist(), lengths.tolist(), strict=True)]
    return [_read_bytes(file, s, n) for s, n in zip(starts.tolist(), lengths.tolist(), strict=True)]
