"""What a run learns from, by its content: when the run goes on it may lie elsewhere, and has to be the same."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rl_encoders.agents.perception import Eyes, Perception
from rl_encoders.training.storage import Stored
from vie.errors import VieError
from vie.files import write_text_atomically

INPUTS_NAME = "inputs.json"

NAMES = {"encoder": "encoder.source", "dataset": "dataset"}
"""The settings that say where it lies."""


def inputs_of(eyes: Perception, data: Sequence[Stored]) -> dict[str, str]:
    """Tells an encoder that has learned nothing yet, by weights and preprocessing, and the trajectories of a dataset.

    Of these actions, rewards and returns count, and numbers that are seen; pictures do not.
    """
    found = hashlib.sha256()
    for one in data:
        numbers = [] if isinstance(eyes, Eyes) else [one.kept[name].numpy() for name in sorted(one.kept)]
        for part in (one.action, one.reward, one.mc_return, *numbers):
            found.update(f"{part.shape}{one.terminal}".encode() + part.tobytes())
    return {"encoder": _told(eyes), "dataset": found.hexdigest()[:32] if data else ""}


def _told(eyes: Perception) -> str:
    if not isinstance(eyes, Eyes):
        return ""
    stream = eyes.encoder.trunk.stream
    facts = [asdict(eyes.encoder.sampling), asdict(stream.resize), stream.mean, stream.std]
    preprocessing = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:8]
    return f"{eyes.encoder.fingerprint()} {preprocessing}"


def check_inputs(run: Path, inputs: Mapping[str, str]) -> None:
    """Raises ``VieError`` if a run was begun with something else."""
    path = run / INPUTS_NAME
    if not path.exists():
        return
    try:
        before = json.loads(path.read_text())
        changed = [kind for kind in NAMES if before[kind] != inputs[kind]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise VieError(f"{path} cannot be read ({error}): delete it, and what it tells is not checked") from error
    for kind in changed:
        raise VieError(
            f"{run} was begun with another {kind} ({INPUTS_NAME}): give the one that it had as {NAMES[kind]}, or "
            "another run=FOLDER"
        )


def keep_inputs(run: Path, inputs: Mapping[str, str]) -> None:
    """Keeps what a run begins with."""
    write_text_atomically(run / INPUTS_NAME, json.dumps(dict(inputs), indent=2) + "\n")
