"""Files that are either whole or absent, whatever happens while they are written; folders for one process at a time."""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from vie.distributed import Ranks
from vie.errors import VieError

_UMASK = os.umask(0o022)  # asked by setting it, so once, before there are threads
os.umask(_UMASK)


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Writes a file under a partial name beside it and renames it once it is on the disk.

    Args:
        path: The file to write; one that is there already is replaced.
        write: Writes the content to the path that it is given.

    Raises:
        Exception: Whatever ``write`` raises, or ``OSError``; the partial file is gone and ``path`` as it was.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        write(partial)
        give_usual_mode(partial)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def give_usual_mode(path: Path) -> None:
    """Gives a file the mode of any that this process writes: safetensors keeps its own to their owner."""
    path.chmod(0o666 & ~_UMASK)


def write_text_atomically(path: Path, text: str) -> None:
    """Writes a UTF-8 text file; see ``write_atomically``."""

    def write(partial: Path) -> None:
        partial.write_text(text, encoding="utf-8", newline="\n")

    write_atomically(path, write)


@contextlib.contextmanager
def locked(run: Path, ranks: Ranks) -> Iterator[None]:
    """Makes a run's folder and keeps a second job out of it; of several ranks the first does."""
    if ranks.rank > 0:
        yield
        return
    run.mkdir(parents=True, exist_ok=True)
    with (run / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise VieError(f"another process trains in {run}: wait for it, or give another run=FOLDER") from error
        yield
