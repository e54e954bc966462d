"""Files of a corpus behind any URL that fsspec knows, read by ranges through a cache on local disk.

What is fetched and kept are blocks, not whole shards: an epoch visits the shards in no order, so a cache smaller than
the corpus would otherwise fetch a shard for every clip.
"""

import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import quote

import fsspec
from fsspec.asyn import AsyncFileSystem

from vie.errors import UnreachableError, VieError
from vie.video.cache import Cache

BLOCK = 2**20
"""Bytes fetched and kept together: several clips' worth."""

RUN = 16
"""Blocks fetched by one request, where a reader wants many side by side."""

WAITS = (0.5, 2.0, 8.0)
"""Seconds before each further try to fetch something."""

CONNECTING = 10.0
"""Seconds in which a web server takes a connection."""

SILENCE = 20.0
"""Seconds for which a web server may be silent: a bound on all of an answer would also end whole shards that are still
coming, from servers without ranges. All tries, of two requests each, must take well less than
``pretrain.data.prefetch.TIMEOUT``: beyond it the worker that waits would be held to hang, not the server."""

ANSWER = 45.0
"""Seconds in which any other server that is asked asynchronously (s3, gs, abfs) answers with up to ``RUN`` blocks,
however often its own package tries: s3fs by itself waits for seven minutes. For all tries, as ``SILENCE``."""

_VERSIONS = (
    "ETag",
    "etag",
    "md5Hash",
    "generation",
    "mtime",
    "LastModified",
    "last_modified",
    "Last-Modified",
    "created",
)
_ABSENT = (404, 410)

Found = TypeVar("Found")


@dataclass(frozen=True)
class RemotePath:
    """A file or a folder behind a URL.

    Attributes:
        url: As fsspec takes it. Credentials are fsspec's business, by its configuration or the environment.
        cache: For what is read of it.
        name: Of the file in the folder ``url``; empty for the folder itself.
    """

    url: str
    cache: Cache
    name: str = ""

    def __truediv__(self, name: str) -> "RemotePath":
        return RemotePath(self.url, self.cache, name)

    def __str__(self) -> str:
        return f"{self.url.rstrip('/')}/{self.name}".rstrip("/")


def is_url(path: str) -> bool:
    """Whether a path is for fsspec rather than the file system."""
    return "://" in path


class RemoteFile:
    """One file as it was when it was opened.

    Attributes:
        size: In bytes.
        version: Another one for every state of every file.
    """

    def __init__(self, path: RemotePath) -> None:
        """Asks for the size of a file.

        Raises:
            FileNotFoundError: There is none.
            UnreachableError: It cannot be asked for.
        """
        self._path = path
        self._cache = path.cache
        about = self._try(lambda files, name, limit: files.info(name, **limit))
        if about.get("size") is None:
            raise VieError(f"{path}: the server does not say how large it is: copy the corpus to another, or to disk")
        self.size = int(about["size"])
        self.version = repr((str(path), self.size, [str(about[key]) for key in _VERSIONS if key in about]))
        self._ranges = True

    def read(self, begin: int, length: int) -> bytes:
        """Bytes of the file.

        Raises:
            OSError: It ends early.
            UnreachableError: They cannot be fetched.
        """
        if begin + length > self.size:  # before that much memory is asked for
            raise OSError(f"the file ends {begin + length - self.size} bytes early")
        first, end = begin // BLOCK, -(-(begin + length) // BLOCK)
        blocks: list[bytes] = []
        while first + len(blocks) < end:
            number = first + len(blocks)
            block = self._kept(number)
            blocks += [block] if block is not None else self._fetch(number, min(end, number + RUN))
        skipped = begin - first * BLOCK
        return b"".join(blocks)[skipped : skipped + length]

    def _kept(self, number: int) -> bytes | None:
        block = self._cache.read(f"{self.version} {number}")
        # After the machine's power has failed, a disk may hold less than was written to it.
        return block if block is not None and len(block) == min(BLOCK, self.size - number * BLOCK) else None

    def _fetch(self, first: int, end: int) -> list[bytes]:
        """Blocks from ``first`` to before ``end``, at least one, which are kept as well."""
        with self._cache.alone(f"{self.version} {first if self._ranges else ''}"):
            block = self._kept(first)  # by another process meanwhile
            if block is not None:
                return [block]
            begin, stop = first * BLOCK, min(end * BLOCK, self.size)
            self._cache.check_room(min(BLOCK, self.size))

            def fetched(files: fsspec.AbstractFileSystem, name: str, limit: dict[str, float]) -> bytes:
                # By name: s3fs has the version of an object first.
                content = files.cat_file(name, start=begin, end=stop, **limit)
                return _exactly(content, stop - begin, self.size)

            content = self._try(fetched)
            if len(content) > stop - begin:  # a server without ranges sends all of it
                self._ranges = False
                self._cache.check_room(self.size)
                self._keep(0, content)
                content = content[begin:stop]
            else:
                self._keep(first, content)
        return [content[place : place + BLOCK] for place in range(0, len(content), BLOCK)]

    def _keep(self, first: int, content: bytes) -> None:
        for number in range(-(-len(content) // BLOCK)):
            self._cache.write(f"{self.version} {first + number}", content[number * BLOCK : (number + 1) * BLOCK])

    def _try(self, ask: "Callable[[fsspec.AbstractFileSystem, str, dict[str, float]], Found]") -> Found:
        for wait in (*WAITS, None):
            try:
                # Asked for anew each time, from fsspec's own store: one made before a fork is of no use after it.
                files, root, limit = _open(self._path.url)
                return ask(files, _inside(files, root, self._path.name), limit)
            except ImportError as error:
                raise VieError(
                    f"{self._path}: a package is missing ({error}): pip install 'vie[remote]' for http, s3fs for s3, "
                    "gcsfs for gs"
                ) from error
            except Exception as error:  # each file system has its own
                if isinstance(error, FileNotFoundError) and _is_absent(error):
                    raise FileNotFoundError("there is no such file") from error
                cause = " ".join(str(error.__cause__ or error).split()) or type(error).__name__
                if wait is None or isinstance(error, PermissionError) or "Protocol not known" in cause:
                    raise UnreachableError(
                        f"{self._path} cannot be fetched ({cause}): look after the network, the server and the "
                        "credentials, and give the same command again"
                    ) from error
            time.sleep(wait)  # without a word: workers that are forked while another thread logs must not log
        raise AssertionError


class SeekableFile(io.RawIOBase):
    """A remote file for a reader that seeks."""

    def __init__(self, file: RemoteFile) -> None:
        super().__init__()
        self._file = file
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._file.size}[whence]
        self._place = base + offset
        return self._place

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._file.size - self._place)
        content = self._file.read(self._place, left if size is None or size < 0 else min(size, left))
        self._place += len(content)
        return content


def _open(url: str) -> tuple[fsspec.AbstractFileSystem, str, dict[str, float]]:
    """The file system, its name of the folder, and what every call of it is given, so that none waits for ever."""
    if url.startswith(("http://", "https://")):
        from aiohttp import ClientTimeout

        # An option of every request: those of the client stay as fsspec is configured, as credentials may be there.
        timeout = ClientTimeout(total=300, connect=CONNECTING, sock_read=SILENCE)  # in total as aiohttp has it
        return *fsspec.url_to_fs(url, timeout=timeout), {}
    files, root = fsspec.url_to_fs(url)
    return files, root, {"timeout": ANSWER} if isinstance(files, AsyncFileSystem) else {}


def _inside(files: fsspec.AbstractFileSystem, root: str, name: str) -> str:
    protocols = (files.protocol,) if isinstance(files.protocol, str) else files.protocol
    return root.rstrip("/") + "/" + (quote(name) if "http" in protocols else name)


def _exactly(content: bytes, length: int, size: int) -> bytes:
    if len(content) not in (length, size):
        raise ConnectionError(f"{len(content)} bytes came in place of {length}")
    return content


def _is_absent(error: FileNotFoundError) -> bool:
    """Whether the file is not there; fsspec's http says so of every failure, with the true one as its cause."""
    return error.__cause__ is None or getattr(error.__cause__, "status", None) in _ABSENT
