"""Writes the tensors of a checkpoint to safetensors files, in a thread of its own beside the steps."""

import json
import os
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from vie.errors import VieError
from vie.files import give_usual_mode
from vie.weights import one_line


class Writer(dcp.HuggingFaceStorageWriter):
    """A file for each rank, from tensors in the host's memory that nothing else writes to.

    The one that it derives from copies the tensors once more in the thread that trains, and makes one string of bytes
    of them, during which no thread can train.
    """

    def __init__(self, folder: Path) -> None:
        """Writes into a folder that is there."""
        super().__init__(str(folder), save_distributed=True)
        self._folder = folder

    def stage(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """The tensors themselves."""
        return state_dict

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Writes the part of a rank.

        Raises:
            VieError: A tensor holds what is no number.
            OSError: The disk is full.
        """
        tensors: dict[str, Tensor] = {}
        offsets = {}
        for item in plan.items:
            assert item.tensor_data is not None  # a state holds nothing but tensors
            name = item.index.fqn
            tensors[name] = cast(Tensor, planner.resolve_data(item)).detach()
            offsets[name] = {"saved_offsets": list(item.tensor_data.chunk.offsets)}
        _check_numbers(tensors)
        if tensors:
            path = self._folder / f"shard-{plan.storage_data['shard_index']:05d}.safetensors"
            # As HuggingFaceStorageReader expects it.
            facts = {"DCP_SHARDING_INFO": json.dumps(offsets), "DCP_VERSION": "1.0", "format": "pt"}
            try:
                save_file(tensors, path, facts)
            except SafetensorError as error:
                raise OSError(one_line(error)) from None  # which any version can send to the other ranks
            give_usual_mode(path)
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        written: Future[list[WriteResult]] = Future()
        written.set_result([])  # of use to a file that lists the others, which this format lacks
        return written


def _check_numbers(tensors: dict[str, Tensor]) -> None:
    """A step may spoil the weights after its loss was still a number: nobody could go on from them."""
    for name, tensor in tensors.items():
        # Least and greatest take no memory, and are NaN where anything is.
        if tensor.is_floating_point() and tensor.numel() and not torch.stack(tensor.aminmax()).isfinite().all():
            raise VieError(
                f"{name} is no number, and no checkpoint is made of it: lower optim.lr, or set runtime.precision=fp32"
            )
