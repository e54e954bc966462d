"""A folder of bounded size for what can be made again: bytes from afar, tables of large indexes, decoded frames.

All processes of a node may use it at once. A file in it is whole or absent. Where room is needed, the one that was used
longest ago goes; whoever has it open or mapped keeps it.
"""

import contextlib
import fcntl
import os
import struct
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

from vie.errors import VieError

DEFAULT_BYTES = 64 * 2**30
SUFFIX = ".vie"  # only files that end so are ever removed
PARTIAL = ".partial" + SUFFIX  # of those that are being written, and of those whose writer was killed
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
        with self._errors(), self._new_file(len(content)) as (file, partial):
            file.write(content)
            file.flush()
            with self._count():  # who counts the files meanwhile could miss it under both names
                os.replace(partial, self._path(key))

    def make(self, key: str, write: Callable[[Path], None], size: int = 0) -> Path:
        """The file of a key, written first if it is not there; others wait for the one that writes it.

        Args:
            key: Of the file.
            write: Writes it over an empty one.
            size: In bytes, as far as it is known; room is made for so many before it is written.

        Raises:
            VieError: It is larger than the cache may be, or the cache cannot be written; and whatever ``write`` raises.
        """
        path = self._path(key)
        with self.alone(key), self._errors():
            if path.exists():
                os.utime(path)
                return path
            self.check_room(size)
            with self._new_file(size) as (file, partial):
                write(partial)
                self.check_room(partial.stat().st_size)
                os.fsync(file.fileno())  # or a machine that loses power keeps a file of the right size and no content
                with self._count() as count:
                    os.utime(partial)
                    _write_count(count, self._evict(self.limit))
                    os.replace(partial, path)
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
        """Keeps others from making the same thing at the same time, which would be right but wasteful."""
        with self._errors():
            self.folder.mkdir(parents=True, exist_ok=True)
            file = (self.folder / "making.lock").open("ab")
            # One byte for each key, none of which is ever written: the lock of a process that dies is gone with it.
            _lock(file, int.from_bytes(blake2b(key.encode(), digest_size=7).digest()))
        with file:
            yield

    def _path(self, key: str) -> Path:
        return self.folder / (blake2b(key.encode(), digest_size=20).hexdigest() + SUFFIX)

    @contextlib.contextmanager
    def _new_file(self, size: int) -> Iterator[tuple[BinaryIO, Path]]:
        """A file that has its size already, so that no other process counts on that room; removed unless renamed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as counting:
            count = counting.enter_context(self._count())
            known = count.read()
            used = int(known) if known.isdigit() else self.limit
            if used + size > self.limit:
                used = self._evict(min(int(KEPT * self.limit), self.limit - size))
            descriptor, name = tempfile.mkstemp(PARTIAL, dir=self.folder)
            try:
                with os.fdopen(descriptor, "rb+") as file:
                    fcntl.flock(file, fcntl.LOCK_EX)  # by which others see that its writer lives
                    file.truncate(size)
                    _write_count(count, used + size)
                    counting.close()
                    yield file, Path(name)
            finally:
                Path(name).unlink(missing_ok=True)

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
                    if entry.name.endswith(PARTIAL) and not _is_held(entry.path):
                        Path(entry.path).unlink()
                    elif entry.name.endswith(SUFFIX):
                        found.append((entry.stat().st_mtime_ns, entry.stat().st_size, entry.path))
        used = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if used <= goal:
                break
            if path.endswith(PARTIAL):
                continue
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


def _lock(file: BinaryIO, place: int) -> None:
    """Waits for one byte of a file, which is held until the file is closed, or this process ends."""
    if hasattr(fcntl, "F_OFD_SETLKW"):
        # Of the open file and not of the process, whose other threads and other locks would share it.
        fcntl.fcntl(file, fcntl.F_OFD_SETLKW, struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, place, 1, 0))
    else:
        fcntl.lockf(file, fcntl.LOCK_EX, 1, place)


def _is_held(path: str) -> bool:
    """Whether a process is writing a file; nobody can tell of another user's."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return True
    return False


def _write_count(file: BinaryIO, used: int) -> None:
    file.seek(0)
    file.truncate()
    file.write(b"%d" % used)
    file.flush()
