"""The processes of a job: one alone, or the ranks that torchrun started."""

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist

from vie.distributed import Ranks
from vie.stopping import StoppedError

PATIENCE = timedelta(hours=2)
"""How long ranks wait for each other: the first alone tests the network meanwhile.

It is not how long they wait for a dead one. torchrun ends the ranks of its own node when one of them dies. Those of
other nodes end at their next exchange over gloo, whose connection is closed. Over NCCL, of which no test knows it,
whatever started the nodes should end them all (``srun --kill-on-bad-exit``).
"""


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Joins the ranks that torchrun started, if it did: over NCCL what is on GPUs, over gloo what is not."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "LOCAL_RANK" not in os.environ:
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"
    else:
        backend = "gloo"
    dist.init_process_group(backend, timeout=PATIENCE)
    try:
        yield
    except StoppedError:
        # All stop after the same step, but the first alone puts the checkpoint in its place: a node that ended before
        # could have the others killed. Where a rank has failed at it, that one says why.
        with contextlib.suppress(RuntimeError):
            Ranks.of_job().largest(torch.zeros(()))
        raise
    # Not where a rank has failed: the others wait for it elsewhere, and its end is what tells torchrun.
    dist.destroy_process_group()
