"""Records by key in one memory-mapped file of fixed size, which the processes of a machine share.

Three parts: a page that names the format and says how far has been written; an index, in buckets; a ring of records.
New records are written on end, over the oldest. Nothing in the file is believed: a record carries its key and a
checksum of all of it, and one that does not prove itself is not there. So an index that is out of date, a process that
was killed half-way, a writer that overtakes a reader, and damage on the disk all cost a record, and never yield a wrong
one.
"""

import contextlib
import fcntl
import functools
import mmap
import os
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vie.errors import VieError
from vie.files import write_atomically

Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Words = NDArray[np.uint64]

NAME = "features.vie"
MAGIC = b"VIE features 1\n"
PAGE = 4096
LEAST = 2**20
KEY = 16
HEAD = 2 * KEY  # of a record: the checksum of all that follows, and the key
UNIT = 64  # records begin at multiples of this
WAYS = 64  # so many that a bucket practically never overflows while the ring still has room
SLOT_COVERS = 512  # bytes of the ring for each slot of the index: half the record of 512 numbers of two bytes
FADING = 16  # what is used in this last fraction of its life is written anew


def size_of(folder: Path) -> int:
    """Of a folder's file in bytes; 0 where there is none."""
    file = folder / NAME
    return file.stat().st_size if file.exists() else 0


class RecordStore:
    """Records of any size by keys of 16 bytes, which must be as good as random.

    The oldest record goes first; but one that is read shortly before its turn is written anew.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        """Opens the file of a folder, or makes it.

        Args:
            folder: Made where it is missing.
            limit: Size of the file in bytes. The disk's room is taken as the ring fills up; the index's, a
                thirty-third, at once.

        Raises:
            VieError: The limit is too small or another one than the file's, the file is damaged, or it cannot be
                made.
        """
        _hasher()  # says at once where it is missing
        self.path = folder / NAME
        self.limit = limit
        if limit < LEAST:
            raise VieError(f"limit_bytes={limit} is too small for the feature cache {folder}: give at least {LEAST}")
        buckets = (limit - PAGE) // (WAYS * (16 + SLOT_COVERS))
        self._start = PAGE + buckets * WAYS * 16
        self._units = (limit - self._start) // UNIT
        with self._errors():
            file = self._open()
            weakref.finalize(self, os.close, file)
            self._file = file
            self._check()
            memory = mmap.mmap(file, limit)
        if memory[: len(MAGIC)] != MAGIC:
            raise VieError(f"{self.path} is damaged or no feature cache of this version: delete it to begin a new one")
        self._memory = memory
        # A bucket is its tags and then its positions, a position the number of units written before the record.
        self._index: Words = np.frombuffer(memory, np.uint64, buckets * WAYS * 2, PAGE).reshape(buckets, 2, WAYS)
        self._written: Words = np.frombuffer(memory, np.uint64, 1, len(MAGIC) + 1)

    def read(self, keys: Bytes, size: int) -> tuple[Bytes, Mask]:
        """What is kept under some keys.

        Args:
            keys: (N, 16).
            size: Of each of these records, in bytes.

        Returns:
            The records (N, size), and which of them were found (N,). The others are arbitrary.

        Raises:
            VieError: The file was cut short, or cannot be written where records are to be written anew.
        """
        self._check()
        content, found, fading = self._look(keys, size)
        if fading.any():
            with self._alone() as file:
                self._append(file, keys[fading], content[fading])
        return content, found

    def keep(self, keys: Bytes, content: Bytes) -> Bytes:
        """Writes records that are not there yet; of two processes that write one, the first decides what it is.

        Args:
            keys: (N, 16), each once.
            content: (N, size).

        Returns:
            The records as they are kept (N, size).

        Raises:
            VieError: A record is larger than the file, or the file cannot be written.
        """
        size = content.shape[1]
        if _units(size) >= self._units:
            raise VieError(
                f"features of {size} bytes do not fit into the cache {self.path} of {self.limit} bytes: delete it and "
                "give a larger limit_bytes"
            )
        with self._alone() as file:
            kept, found, _ = self._look(keys, size)
            self._append(file, keys[~found], content[~found])
        return np.where(found[:, None], kept, content)

    def count(self) -> tuple[int, int]:
        """Number of records that the index leads to, and bytes of the file that are in use."""
        tail = self._tail()
        records = sum(int(self._live(bucket[:, 1], tail).sum()) for bucket in np.array_split(self._index, 64))
        return records, self._start + min(tail, self._units) * UNIT

    def _look(self, keys: Bytes, size: int) -> tuple[Bytes, Mask, Mask]:
        """The records, which of them were found, and which of these are soon written over."""
        bucket, tag = self._hash(keys)
        same = self._index[bucket, 0] == tag[:, None]
        position = self._index[bucket, 1, same.argmax(axis=1)]
        tail, units = self._tail(), _units(size)
        place = position % self._units
        found = same.any(axis=1) & self._live(position, tail) & (place + units <= self._units)
        # Items of some units that begin at every unit: numpy copies one in one go.
        items: NDArray[np.void] = np.ndarray(
            (max(0, self._units - units + 1),), f"V{units * UNIT}", self._memory, self._start, (UNIT,)
        )
        record = items[place[found]].view(np.uint8).reshape(-1, units * UNIT)
        whole = (record[:, KEY:HEAD] == keys[found]).all(axis=1)
        whole &= (record[:, :KEY] == hashes(record[:, KEY : HEAD + size])).all(axis=1)
        content = np.empty((len(keys), size), np.uint8)
        content[found] = record[:, HEAD : HEAD + size]
        found[found] = whole
        return content, found, found & (tail - position > self._units - self._units // FADING)

    def _append(self, file: int, keys: Bytes, content: Bytes) -> None:
        size = content.shape[1]
        units = _units(size)
        record = np.zeros((len(keys), units * UNIT), np.uint8)
        record[:, KEY:HEAD] = keys
        record[:, HEAD : HEAD + size] = content
        record[:, :KEY] = hashes(record[:, KEY : HEAD + size])
        while len(record):
            tail = self._tail()
            place = tail % self._units
            part = record[: (self._units - place) // units]
            # In this order: whoever is killed half-way leaves nothing that leads to what is not whole.
            self._written[0] = tail + len(part) * units if len(part) else tail + self._units - place
            _write_all(file, part, self._start + place * UNIT)
            self._enter(keys[: len(part)], tail + units * np.arange(len(part), dtype=np.uint64))
            record, keys = record[len(part) :], keys[len(part) :]

    def _enter(self, keys: Bytes, position: Words) -> None:
        bucket, tag = self._hash(keys)
        rest = np.arange(len(keys))
        while len(rest):
            _, one_each = np.unique(bucket[rest], return_index=True)
            now = rest[one_each]
            tags, positions = self._index[bucket[now], 0], self._index[bucket[now], 1]
            same = tags == tag[now, None]
            oldest = np.where(self._live(positions, self._tail()), positions, 0).argmin(axis=1)
            way = np.where(same.any(axis=1), same.argmax(axis=1), oldest)
            self._index[bucket[now], 0, way] = tag[now]
            self._index[bucket[now], 1, way] = position[now]
            rest = np.delete(rest, one_each)

    def _hash(self, keys: Bytes) -> tuple[Words, Words]:
        words = np.ascontiguousarray(keys).view(np.uint64)
        return words[:, 0] % len(self._index), words[:, 1]

    def _live(self, position: Words, tail: int) -> Mask:
        """Whether these positions were written (an empty slot says 0) and not yet written over."""
        return (position > 0) & (position < tail) & (tail - position <= self._units)

    def _tail(self) -> int:
        """Units written so far; a new file's zero, and nonsense, are where a ring begins."""
        tail = int(self._written[0])
        return tail if 0 < tail < 2**62 else 1

    def _open(self) -> int:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(self.path.parent, os.O_RDONLY):
            if not self.path.exists():
                write_atomically(self.path, self._make)
        return os.open(self.path, os.O_RDWR)

    def _make(self, path: Path) -> None:
        with path.open("wb") as file:
            file.write(MAGIC)
            file.truncate(self.limit)
            # The index is written through memory, where a full disk would end the process.
            os.posix_fallocate(file.fileno(), 0, self._start)

    def _check(self) -> None:
        size = os.fstat(self._file).st_size
        if size != self.limit:
            raise VieError(
                f"the feature cache {self.path} has {size} bytes, not {self.limit}: give limit_bytes={size} if it was "
                "made so, or delete it once no process uses it"
            )

    @contextlib.contextmanager
    def _alone(self) -> Iterator[int]:
        """Holds the file against all writers, threads and forked processes included; yields it."""
        # Opened anew, as a forked process would share the lock of what it inherits.
        with self._errors(), _lock(Path(f"/proc/self/fd/{self._file}"), os.O_RDWR) as file:
            self._check()
            yield file

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise VieError(
                f"the feature cache {self.path} cannot be used ({error.strerror or error}): give a folder on a local "
                "disk with room that you may write"
            ) from error


@contextlib.contextmanager
def _lock(path: Path, flags: int) -> Iterator[int]:
    file = os.open(path, flags)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)  # closing is not enough where another thread has forked meanwhile
        os.close(file)


def hashes(rows: Iterable[Any]) -> Bytes:
    """128 bits of XXH3 of each of several buffers (N, 16): fast, and fit against chance but not against malice."""
    hasher = _hasher()
    return np.frombuffer(b"".join([hasher(row) for row in rows]), np.uint8).reshape(-1, KEY)


@functools.cache
def _hasher() -> Callable[[Any], bytes]:
    try:
        from xxhash import xxh3_128_digest
    except ImportError as error:
        raise VieError(f"the feature cache needs xxhash ({error}): pip install 'vie[rl]'") from error
    return xxh3_128_digest


def _units(size: int) -> int:
    return -(-(HEAD + size) // UNIT)


def _write_all(file: int, content: Bytes, offset: int) -> None:
    rest = memoryview(content.tobytes())
    while rest:
        done = os.pwrite(file, rest, offset)
        rest, offset = rest[done:], offset + done
