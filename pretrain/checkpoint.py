"""Checkpoints: everything that a run needs to go on as if it had never stopped, written while it goes on.

One is a folder of safetensors files, by torch.distributed.checkpoint, and of ``facts.json``. Each rank writes its own
part of what is divided, and any number of ranks may read it. Nothing in it can run code.
"""

import json
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from pretrain.checkpoint_writer import Writer
from pretrain.launch import PATIENCE
from vie.distributed import Ranks
from vie.errors import VieError
from vie.files import write_text_atomically

FOLDER_NAME = "checkpoints"
FACTS_NAME = "facts.json"
FORMAT = 3
PARTIAL = ".partial"
warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized", UserWarning)
"""A process alone writes alone, as it should."""

FAULTS = (OSError, RuntimeError, CheckpointException)


@dataclass(frozen=True)
class Divided:
    """A tensor that is divided between ranks along one axis, as ``Ranks.share`` divides it.

    Attributes:
        part: This rank's part.
        axis: Number of the axis.
        length: Of the whole along it.
    """

    part: Tensor
    axis: int
    length: int


State = Mapping[str, Tensor | Divided]


class Checkpoints:
    """The checkpoints of a run: the last ones, in ``checkpoints/step-N``."""

    def __init__(self, run: Path, ranks: Ranks, device: torch.device, keep: int) -> None:
        """Looks at the folder of a run; every rank must, as they write together.

        Args:
            run: The folder.
            ranks: Of the job.
            device: Of the tensors.
            keep: How many are kept.
        """
        self.folder = run / FOLDER_NAME
        self.ranks = ranks
        self.keep = keep
        alone = ranks.size == 1
        self._saving = None if alone else init_device_mesh("cpu", (ranks.size,))
        self._loading = None if alone else init_device_mesh(device.type, (ranks.size,))
        # Of its own, as checkpoints are written beside the steps, which exchange in their own order.
        self._group = None if alone else cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=PATIENCE))
        self._writing: tuple[Path, dict[str, Any], Future[Any]] | None = None
        self._host: dict[str, Tensor] = {}
        self._removing: Thread | None = None

    def __enter__(self) -> None:
        """For the time in which checkpoints are written: what ends it, well or not, waits for the last one."""
        if self.ranks.rank == 0:
            for left in self.folder.glob(f"*{PARTIAL}"):  # by a run that was killed
                shutil.rmtree(left)

    def __exit__(self, *_: object) -> None:
        try:
            self.finish()
        finally:
            if self._removing is not None:
                self._removing.join()

    def latest(self) -> Path | None:
        """The newest complete checkpoint, as the first rank sees it: a shared file system may show others less."""
        found = _complete(self.folder)
        newest = torch.tensor(_step_of(found[-1]) if found else -1)
        self.ranks.take_first([newest])
        return self._of_step(int(newest)) if newest >= 0 else None

    def save(self, step: int, state: State, facts: dict[str, Any]) -> None:
        """Begins to write a checkpoint; the tensors may change as soon as this returns.

        Raises:
            VieError: The one before could not be written, or this one cannot be begun.
        """
        self.finish()
        target = self._of_step(step)
        partial = target.with_name(target.name + PARTIAL)
        tensors = {name: _whole(self._copied(name, value), self._saving) for name, value in state.items()}
        try:
            if self.ranks.rank == 0:
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True, exist_ok=True)
            writing = dcp.async_save(tensors, storage_writer=Writer(partial), process_group=self._group)
        except FAULTS as error:
            self._give_up(partial, error)
        self._writing = (target, {"format": FORMAT, "step": step, **facts}, cast("Future[Any]", writing))

    def finish(self) -> None:
        """Waits for the checkpoint that is being written, and puts it in its place.

        Raises:
            VieError: It could not be written; those before are as they were.
        """
        if self._writing is None:
            return
        (target, facts, writing), self._writing = self._writing, None
        partial = target.with_name(target.name + PARTIAL)
        try:
            writing.result()
            if self.ranks.rank == 0:
                write_text_atomically(partial / FACTS_NAME, json.dumps(facts))
                _sync_folder(partial)
                partial.rename(target)
                _sync_folder(self.folder)
                self._remove_old()
        except FAULTS as error:
            self._give_up(partial, error)

    def poll(self) -> None:
        """Puts a checkpoint in its place if it has been written by now."""
        if self._writing is not None and self._writing[2].done():
            self.finish()

    def _remove_old(self) -> None:
        """In a thread, as large files take their time; what a killed process leaves of them is no checkpoint."""
        for old in _complete(self.folder)[: -self.keep]:
            gone = old.rename(old.with_name(old.name + PARTIAL))
            if self._removing is not None:
                self._removing.join()
            self._removing = Thread(target=shutil.rmtree, args=(gone,), kwargs={"ignore_errors": True})
            self._removing.start()

    def _of_step(self, step: int) -> Path:
        return self.folder / f"step-{step:09d}"

    def _copied(self, name: str, value: Tensor | Divided) -> Tensor | Divided:
        """A copy in the host's memory, which the next checkpoint takes again: fresh memory costs more than the copy."""
        tensor = value.part if isinstance(value, Divided) else value
        kept = self._host.get(name)
        if kept is None or (kept.shape, kept.dtype) != (tensor.shape, tensor.dtype):
            kept = self._host[name] = torch.empty(tensor.shape, dtype=tensor.dtype)
        kept.copy_(tensor.detach())
        return replace(value, part=kept) if isinstance(value, Divided) else kept

    def _give_up(self, partial: Path, error: BaseException) -> None:
        if self.ranks.rank == 0:
            shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, CheckpointException):
            for fault, _ in error.failures.values():
                if isinstance(fault, VieError):
                    raise fault from error
        cause = (str(error) or type(error).__name__).strip().splitlines()[-1]
        raise VieError(
            f"the checkpoint cannot be written to {self.folder} ({cause}): "
            "free some space and start the same command again"
        ) from error

    def load(self, checkpoint: Path, state: State) -> None:
        """Reads a checkpoint into tensors, in place.

        Raises:
            VieError: It is damaged, or holds other tensors.
        """
        tensors = {name: _whole(value, self._loading) for name, value in state.items()}
        try:
            dcp.load(
                tensors,
                storage_reader=dcp.HuggingFaceStorageReader(str(checkpoint)),
                process_group=self._group,
                no_dist=self._group is None,
            )
        except (*FAULTS, ValueError, KeyError, AssertionError) as error:
            raise _unreadable(checkpoint, error) from error


def read_facts(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint says of itself.

    Raises:
        VieError: It is damaged, or of another version.
    """
    path = checkpoint / FACTS_NAME
    try:
        facts = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise VieError(
            f"{path} was written by another version: continue the run with that one, or start in a new folder"
        )
    return facts


def _unreadable(path: Path, error: BaseException) -> VieError:
    cause = (str(error) or type(error).__name__).strip().splitlines()[-1]
    return VieError(
        f"{path} cannot be read ({cause}): delete it to go on from the one before, or start in a new folder"
    )


def _complete(folder: Path) -> list[Path]:
    """The checkpoints of a folder, oldest first."""
    found = folder.iterdir() if folder.is_dir() else iter(())
    return sorted(path for path in found if re.fullmatch(r"step-\d+", path.name))


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _whole(value: Tensor | Divided, mesh: DeviceMesh | None) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if mesh is None:
        return value.part
    shape = list(value.part.shape)
    shape[value.axis] = value.length
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(
        value.part, mesh, [Shard(value.axis)], run_check=False, shape=torch.Size(shape), stride=stride
    )
