"""Runs a function on several ranks, in processes of their own that talk over gloo."""

import faulthandler
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

PATIENCE = 240
"""Seconds that ranks may take."""


def on_ranks(size: int, function: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    """What ``function(*arguments)`` returns on each of the ranks; it must be importable."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # One server imports the slow modules, and ranks are forked from it: they share no more with this process than
    # spawned ones, and are there in a moment.
    multiprocessing.set_forkserver_preload(["torch._dynamo", function.__module__])
    multiprocessing.start_processes(
        _run, (size, port, function, folder, arguments), nprocs=size, start_method="forkserver"
    )
    return [torch.load(folder / f"{size}-{rank}.pt", weights_only=True) for rank in range(size)]


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
