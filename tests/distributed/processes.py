"""Runs a function or a command on several ranks, in processes of their own that talk over gloo."""

import faulthandler
import os
import socket
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

PATIENCE = 240
"""Seconds that ranks may take."""


def on_ranks(size: int, function: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    """What ``function(*arguments)`` returns on each of the ranks; it must be importable."""
    port = free_port()
    # One server imports the slow modules, and ranks are forked from it: they share no more with this process than
    # spawned ones, and are there in a moment.
    multiprocessing.set_forkserver_preload(["torch._dynamo", function.__module__])
    multiprocessing.start_processes(
        _run, (size, port, function, folder, arguments), nprocs=size, start_method="forkserver"
    )
    return [torch.load(folder / f"{size}-{rank}.pt", weights_only=True) for rank in range(size)]


def command_on_ranks(size: int, arguments: list[str], log: Path, environment: dict[str, str]) -> tuple[int, str]:
    """``runner.py`` on ranks as ``torchrun`` starts them: how it ended, and what it wrote to stderr.

    Forked, as ``on_ranks``: imports take a process of its own longer than the runs of the tests.
    """
    environment = {**environment, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(size)}
    multiprocessing.set_forkserver_preload(["torch._dynamo", "tests.distributed.runner"])
    context = multiprocessing.get_context("forkserver")
    log.touch()
    ranks = [context.Process(target=_command, args=(rank, arguments, log, environment)) for rank in range(size)]
    for rank in ranks:
        rank.start()
    left = ranks
    while left:
        assert wait([rank.sentinel for rank in left], PATIENCE), "ranks wait in vain"
        left = [rank for rank in left if rank.exitcode is None]
        # As torchrun does: where one has failed, the others are not waited for.
        if any(rank.exitcode for rank in ranks):
            for rank in left:
                rank.terminate()
    return max(abs(rank.exitcode or 0) for rank in ranks), log.read_text()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def _command(rank: int, arguments: list[str], log: Path, environment: dict[str, str]) -> None:
    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    os.environ.update(environment, RANK=str(rank), LOCAL_RANK=str(rank))
    with log.open("a") as stderr, open(os.devnull, "w") as stdout:
        os.dup2(stderr.fileno(), 2)
        os.dup2(stdout.fileno(), 1)
    from tests.distributed.runner import run

    run(arguments)


def _run(rank: int, size: int, port: int, function: Callable[..., Any], folder: Path, arguments: Any) -> None:
    # A rank that waits in vain ends with its stack, and the others with it.
    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(size))
    dist.init_process_group("gloo")
    try:
        torch.save(function(*arguments), folder / f"{size}-{rank}.pt")
    finally:
        dist.destroy_process_group()
