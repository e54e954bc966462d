"""A folder of bounded size for what can be made again: bytes fetched from afar, tables made out of large indexes.

All processes of a node may use it at once. A file in it is whole or absent. Where room is needed, the one that was used
longest ago goes; whoever has it open or mapped keeps it.
"""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

from vie.errors import VieError

DEFAULT_BYTES = 64 * 2**30
SUFFIX = ".vie"  # only files that end so are ever removed
KEPT = 0.9  # of the limit, where room is made for small files: looking through the folder is then rare


def default_folder() -> Path:
    """``$XDG_CACHE_HOME/vie``, or ``~/.cache/vie``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vie"


@dataclass(frozen=True)
class Cache:
    """Files by key, of ``limit`` bytes in all.

    Attributes:
        folder: Made when it is first used; best on a disk of the node itself.
        limit: In bytes; files that are being written count.
    """

    folder: Path = field(default_factory=default_folder)
    limit: int = DEFAULT_BYTES

    def read(self, key: str) -> bytes | None:
        """What is kept under a key, or None."""
        path = self._path(key)
        with self._errors(), contextlib.suppress(FileNotFoundError):
            content = path.read_bytes()
            os.utime(path)  # reading alone leaves no reliable mark: many disks are mounted without
            return content
        return None

    def write(self, key: str, content: bytes) -> None:
        """Keeps some bytes for as long as there is room.

        Raises:
            VieError: They are more than the cache may hold, or it cannot be written.
        """
        self.check_room(len(content))
        with self._errors():
            partial = self._reserve(len(content))
            # Missing only where the whole cache was used up by others while this was written.
            with contextlib.suppress(FileNotFoundError):
                try:
                    with partial.open("rb+") as file:
                        file.write(content)
                    with self._count():  # who counts the files meanwhile could miss it under both names
                        os.replace(partial, self._path(key))
                finally:
                    partial.unlink(missing_ok=True)

    def make(self, key: str, write: Callable[[Path], None]) -> Path:
        """The file of a key, written first if it is not there; other processes wait for the one that writes it.

        It counts as soon as it is whole.

        Raises:
            VieError: It is larger than the cache may be, or the cache cannot be written; and whatever ``write`` raises.
        """
        path = self._path(key)
        with self.alone(key), self._errors():
            if path.exists():
                os.utime(path)
                return path
            partial = self._new_file(0)
            try:
                write(partial)
                self.check_room(partial.stat().st_size)
                with self._count() as count:
                    os.utime(partial)
                    _write_count(count, self._evict(self.limit))
                    os.replace(partial, path)
            finally:
                partial.unlink(missing_ok=True)
        return path

    def check_room(self, size: int) -> None:
        """Raises ``VieError`` where a file of this size could never be kept."""
        if size > self.limit:
            raise VieError(
                f"the cache {self.folder} may hold {self.limit} bytes, less than the {size} of a single file: set "
                "data.cache_bytes to many times that"
            )

    @contextlib.contextmanager
    def alone(self, key: str) -> Iterator[None]:
        """Keeps other processes from making the same thing at the same time, which would be right but wasteful."""
        with self._errors():
            self.folder.mkdir(parents=True, exist_ok=True)
            file = (self.folder / "making.lock").open("ab")
            # One byte for each key, none of which is ever written: the lock of a process that dies is gone with it.
            fcntl.lockf(file, fcntl.LOCK_EX, 1, int.from_bytes(blake2b(key.encode(), digest_size=7).digest()))
        with file:
            yield

    def _path(self, key: str) -> Path:
        return self.folder / (blake2b(key.encode(), digest_size=20).hexdigest() + SUFFIX)

    def _new_file(self, size: int) -> Path:
        descriptor, path = tempfile.mkstemp(".partial" + SUFFIX, dir=self.folder)
        os.truncate(descriptor, size)
        os.close(descriptor)
        return Path(path)

    def _reserve(self, size: int) -> Path:
        """A new file that has its size already, so that no other process counts on that room."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._count() as count:
            known = count.read()
            used = int(known) if known.isdigit() else self.limit
            if used + size > self.limit:
                used = self._evict(min(int(KEPT * self.limit), self.limit - size))
            partial = self._new_file(size)
            _write_count(count, used + size)
        return partial

    @contextlib.contextmanager
    def _count(self) -> Iterator[BinaryIO]:
        """Holds the file that says how many bytes are used; at times too many, never too few."""
        with os.fdopen(os.open(self.folder / "used", os.O_RDWR | os.O_CREAT, 0o666), "rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file

    def _evict(self, goal: int) -> int:
        """Removes files until at most so many bytes are used; returns how many are."""
        found: list[tuple[int, int, str]] = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    if entry.name.endswith(SUFFIX):
                        found.append((entry.stat().st_mtime_ns, entry.stat().st_size, entry.path))
        used = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if used <= goal:
                break
            Path(path).unlink(missing_ok=True)
            used -= size
        return used

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise VieError(
                f"the cache {self.folder} cannot be used ({error.strerror or error}): set data.cache_dir to a folder "
                "on a local disk with room, or data.cache_bytes to less"
            ) from error


def _write_count(file: BinaryIO, used: int) -> None:
    file.seek(0)
    file.truncate()
    file.write(b"%d" % used)
    file.flush()
