"""Rows that take long to make ready, as by compilation: made ready side by side, timed one after another."""

import itertools
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import TypeVar

from benchmarks.speed.record import Row
from vie.errors import VieError

Task = TypeVar("Task")
Ready = Callable[[Task], Callable[[], Row]]
READY, DIED = "ready", "its process has died"


def side_by_side(make_ready: Ready[Task], tasks: Iterable[Task], at_once: int) -> Iterator[tuple[Task, Row | str]]:
    """Yields what each task measures, or why it could not.

    Each has a process of its own, which leaves nothing behind on the device. None is timed before all that are at work
    are ready, and then the others wait.

    Args:
        make_ready: Of a module, as it is sent to the processes: gives what measures.
        tasks: Taken when there is room for them.
        at_once: Processes at a time.
    """
    left = iter(tasks)
    while group := list(itertools.islice(left, at_once)):
        begun = [_begin(make_ready, task) for task in group]
        try:
            states = [_receive(connection) for _, connection in begun]
            for task, state, (process, connection) in zip(group, states, begun, strict=True):
                yield task, _answer(connection) if state == READY else state
                process.join()
        finally:
            for process, _ in begun:
                process.terminate()


def _begin(make_ready: Ready[Task], task: Task) -> tuple[BaseProcess, Connection]:
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_work, args=(make_ready, task, theirs))
    process.start()
    theirs.close()
    return process, ours


def _receive(connection: Connection) -> Row | str:
    try:
        received: Row | str = connection.recv()
    except (EOFError, OSError):
        return DIED
    return received


def _answer(connection: Connection) -> Row | str:
    try:
        connection.send(READY)
    except OSError:
        return DIED
    return _receive(connection)


def _work(make_ready: Ready[Task], task: Task, connection: Connection) -> None:
    try:
        measure = make_ready(task)
        connection.send(READY)
        connection.recv()
        connection.send(measure())
    except (RuntimeError, VieError) as error:
        connection.send((str(error).splitlines() or [type(error).__name__])[0])
