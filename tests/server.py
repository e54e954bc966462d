"""A web server on this machine, with the faults that a test asks for."""

import contextlib
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

Fault = Callable[["Handler", str], bool]


class Server(ThreadingHTTPServer):
    """Serves the files of a folder.

    Attributes:
        ranges: Whether it knows ranges.
        fault: Called for every GET; true where it has answered itself.
        asked: How often each (name, range) was fetched.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, folder: Path, ranges: bool, fault: Fault | None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.ranges, self.fault = folder, ranges, fault
        self.asked: Counter[tuple[str, str | None]] = Counter()
        self.sent = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/corpus"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are no news."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        with self.server.lock:
            self.server.asked[name, self.headers.get("Range")] += 1
            if self.server.fault is not None and self.server.fault(self, name):
                return
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = self.server.folder / self.path.rpartition("/")[2]
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        asked = self.headers.get("Range")
        if asked and self.server.ranges:
            first, last = map(int, asked.removeprefix("bytes=").split("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{min(last, len(content) - 1)}/{len(content)}")
            content = content[first : last + 1]
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Last-Modified", self.date_time_string(path.stat().st_mtime))
        self.end_headers()
        if body:
            self.wfile.write(content)
            with self.server.lock:
                self.server.sent += len(content)

    def cut_short(self, name: str) -> bool:
        """Promises a whole answer and hangs up in the middle of it."""
        size = (self.server.folder / name).stat().st_size
        self.send_response(206 if self.server.ranges else 200)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        self.wfile.write(b"x" * (size // 2))
        self.close_connection = True
        return True

    def refuse(self, status: int = 503) -> bool:
        self.send_error(status)
        return True

    def stay_silent(self, seconds: float) -> bool:
        time.sleep(seconds)
        self.close_connection = True
        return True

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@contextlib.contextmanager
def serving(folder: Path, ranges: bool = True, fault: Fault | None = None) -> Iterator[Server]:
    """A server of the files of a folder, at ``url``, for as long as the context lasts."""
    with Server(folder, ranges, fault) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def silent() -> Iterator[int]:
    """The port of a server that is connected to, by the system in its place, and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as server:
        yield server.getsockname()[1]
