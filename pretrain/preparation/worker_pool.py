"""Transcoding in worker processes that may hang or crash without harm to the rest."""

import multiprocessing
import os
import queue
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

from pebble import ProcessExpired, ProcessFuture, ProcessPool

from pretrain.preparation.frames import Transcoded
from pretrain.preparation.listed import Video
from pretrain.preparation.transcode import start_worker, transcode
from vie.errors import VieError
from vie.video.source import Decoder

STARTS = 3  # attempts to start the workers
IN_FLIGHT = 4  # unfinished videos handed out for each worker
HELD_BYTES = 2**30  # finished results that wait for an earlier video; beyond them nothing new is handed out


@dataclass(frozen=True)
class Job:
    """What the workers are asked for; see ``pretrain.preparation.transcode.transcode``.

    Attributes:
        timeout: Seconds that one video may take.
        workers: Number of processes.
    """

    short_side: int
    quality: int
    decoder: Decoder
    timeout: float
    workers: int


def transcode_all(videos: Sequence[Video], job: Job) -> Generator[Transcoded | str, None, None]:
    """Transcodes videos side by side.

    Yields:
        For each video, in the order given, its frames or the reason why there are none.

    Raises:
        VieError: Worker processes cannot start.
    """
    done, broken_at, futile_starts = 0, -1, 0
    while done < len(videos):
        try:
            for result in _run(videos[done:], job):
                yield result
                done += 1
                futile_starts = 0
        except _StartError as error:
            futile_starts += 1
            if futile_starts == STARTS:
                raise VieError(
                    "worker processes cannot start: call prepare() from a script's `if __name__ == '__main__':` block, "
                    "or see whether the system kills them for want of memory"
                ) from error
        except BrokenProcessPool:
            # A worker died between two videos, for want of memory for instance: everything in flight is lost and
            # done again. A video that is next in line both times is held to be the cause.
            if broken_at == done:
                yield "its worker process died twice: it may need more memory than there is"
                done += 1
            else:
                broken_at = done


class _StartError(Exception):
    """The workers of a pool died before they took up any work."""


def _run(videos: Sequence[Video], job: Job) -> Generator[Transcoded | str, None, None]:
    pool = ProcessPool(min(job.workers, len(videos)), initializer=start_worker, context=_context())
    waiting = iter(videos)
    in_flight: deque[tuple[Video, ProcessFuture[Transcoded]]] = deque()
    finished: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()
    held: dict[Future[Transcoded], int] = {}  # bytes of each finished result that waits for its turn
    held_bytes = 0
    try:
        try:
            _schedule(pool, os.getpid).add_done_callback(finished.put)
            _take(finished, pool).result()
        except BrokenProcessPool as error:
            raise _StartError from error
        while True:
            while len(in_flight) - len(held) < IN_FLIGHT * job.workers and held_bytes < HELD_BYTES:
                if (video := next(waiting, None)) is None:
                    break
                arguments = (video.path, job.short_side, job.quality, job.decoder)
                in_flight.append((video, _schedule(pool, transcode, arguments, job.timeout)))
                in_flight[-1][1].add_done_callback(finished.put)
            if not in_flight:
                return
            if in_flight[0][1] not in held or not finished.empty():
                latest = _take(finished, pool)
                held[latest] = 0 if latest.exception() else len(latest.result().stream)
                held_bytes += held[latest]
                continue
            video, future = in_flight.popleft()
            held_bytes -= held.pop(future)
            yield _outcome(video, future, job)
    finally:
        pool.stop()
        pool.join()


def _schedule(
    pool: ProcessPool, function: Callable[..., Any], arguments: Iterable[Any] = (), timeout: float | None = None
) -> ProcessFuture[Any]:
    try:
        return pool.schedule(function, arguments, timeout=timeout)
    except RuntimeError as error:  # a pool that broke meanwhile
        raise BrokenProcessPool from error


def _take(finished: queue.SimpleQueue[Future[Any]], pool: ProcessPool) -> Future[Any]:
    """The next finished one. What a pool is handed in the moment in which it breaks never finishes."""
    while True:
        try:
            return finished.get(timeout=1)
        except queue.Empty:
            if not pool.active:
                raise BrokenProcessPool from None


def _outcome(video: Video, future: ProcessFuture[Transcoded], job: Job) -> Transcoded | str:
    try:
        return future.result()
    except VieError as error:
        return str(error).removeprefix(f"{video.path}: ")
    except TimeoutError:
        return f"no result after {job.timeout:g} seconds: the decoder hangs, or the time limit is too short"
    except ProcessExpired as error:
        return f"the decoder crashed ({_spell_exit(error.exitcode)})"
    except BrokenProcessPool:
        raise
    except Exception as error:  # whatever a decoder does to one file must not stop the run
        return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _context() -> multiprocessing.context.BaseContext:
    """Processes that share nothing with this one, as decoders and CUDA do not survive a fork."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # The server imports the slow modules once; a worker that replaces a killed one is then there in milliseconds.
    context.set_forkserver_preload(["torch", "torchvision.transforms.v2.functional", "pretrain.preparation.transcode"])
    return context


def _spell_exit(status: int) -> str:
    if status < 0:
        return signal.Signals(-status).name
    return f"exit status {status}"
