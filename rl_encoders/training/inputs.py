"""What a run learns from, by its content: when the run goes on it may lie elsewhere, and has to be the same."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from rl_encoders.agents.perception import Eyes, Perception
from rl_encoders.training.storage import Stored
from vie.errors import VieError
from vie.files import write_text_atomically

INPUTS_NAME = "inputs.json"

NAMES = {"encoder": "encoder.source", "dataset": "dataset"}
"""The settings that say where it lies."""


def inputs_of(eyes: Perception, data: Sequence[Stored]) -> dict[str, str]:
    """Tells an encoder that has learned nothing yet, and the trajectories of a dataset: what changes them changes this.

    Pictures count by what has been kept of the encoder that saw them, which is told by itself.
    """
    found = hashlib.sha256()
    for one in data:
        for part in (one.action, one.reward, one.mc_return):
            found.update(f"{part.shape}{one.terminal}".encode() + part.tobytes())
    encoder = eyes.encoder.fingerprint() if isinstance(eyes, Eyes) else ""
    return {"encoder": encoder, "dataset": found.hexdigest()[:32] if data else ""}


def keep_inputs(run: Path, inputs: dict[str, str]) -> None:
    """Keeps what a run begins with; raises ``VieError`` if it was begun with something else."""
    path = run / INPUTS_NAME
    before = json.loads(path.read_text()) if path.exists() else inputs
    for kind, setting in NAMES.items():
        if before[kind] != inputs[kind]:
            raise VieError(
                f"{run} was begun with another {kind} ({INPUTS_NAME}): give the one that it had as {setting}, or "
                "another run=FOLDER"
            )
    write_text_atomically(path, json.dumps(inputs, indent=2) + "\n")
