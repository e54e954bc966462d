"""The processes of a job: one alone, or the ranks that torchrun started."""

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist

PATIENCE = timedelta(hours=2)
"""How long ranks wait for each other: the first alone tests the network meanwhile. torchrun ends all when one ends."""


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
    yield
    # Not where a rank has failed: the others wait for it elsewhere, and its end is what tells torchrun.
    dist.destroy_process_group()
