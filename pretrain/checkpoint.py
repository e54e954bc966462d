"""Checkpoints: everything that a run needs to go on as if it had never stopped."""

import pickle
from pathlib import Path
from typing import Any

import torch

from vie.errors import VieError
from vie.files import write_atomically

CHECKPOINT_NAME = "checkpoint.pt"
FORMAT = 2


def save_checkpoint(run: Path, state: dict[str, Any]) -> None:
    """Writes a checkpoint whole or not at all."""
    try:
        write_atomically(run / CHECKPOINT_NAME, lambda partial: torch.save({"format": FORMAT, **state}, partial))
    except (OSError, RuntimeError) as error:
        cause = str(error).splitlines()[0]
        raise VieError(
            f"the checkpoint cannot be written to {run} ({cause}): free some space and start the same command again"
        ) from error


def load_checkpoint(run: Path) -> dict[str, Any] | None:
    """The run's checkpoint with its tensors on the CPU, or None if it has none yet."""
    path = run / CHECKPOINT_NAME
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        cause = (str(error) or type(error).__name__).splitlines()[0]
        raise VieError(f"{path} cannot be read ({cause}): restore it from a copy, or start in a new folder") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise VieError(
            f"{path} was written by another version: continue the run with that one, or start in a new folder"
        )
    return state
