"""Nested states in two files that can run no code: tensors in safetensors, all else in JSON."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from vie.errors import VieError
from vie.files import write_atomically, write_text_atomically

FACTS = "state.json"
TENSOR = "tensor:"


def save_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Writes nested mappings, lists, numbers, words and tensors; what was there before stays whole until the end.

    The facts name the file of tensors that belongs to them, so the two are never of different states.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    facts = _split(state, "", tensors)
    number = 1 + max((int(path.stem.rpartition("-")[2]) for path in folder.glob("state-*.safetensors")), default=0)
    name = f"state-{number}.safetensors"
    contents = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()}
    write_atomically(folder / name, lambda path: save_file(contents, path))
    write_text_atomically(folder / FACTS, json.dumps({"tensors": name, "state": facts}))
    for path in folder.glob("state-*.safetensors"):
        if path.name != name:
            path.unlink()


def load_state(folder: Path) -> dict[str, Any] | None:
    """What ``save_state`` wrote, on the CPU; None where there is nothing.

    Raises:
        VieError: It is damaged.
    """
    if not (folder / FACTS).exists():
        return None
    try:
        content = json.loads((folder / FACTS).read_text())
        tensors = load_file(folder / content["tensors"])
        state: dict[str, Any] = _join(content["state"], tensors)
    except Exception as error:  # safetensors raises errors of its own
        raise VieError(
            f"the checkpoint in {folder} cannot be read ({error}): delete the folder to begin anew"
        ) from error
    return state


def _split(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[path] = value
        return TENSOR + path
    if isinstance(value, Mapping):
        # JSON knows words alone as keys, and optimizers count.
        return [[key, _split(item, f"{path}/{key}", tensors)] for key, item in value.items()]
    if isinstance(value, list | tuple):
        return {"list": [_split(item, f"{path}/{number}", tensors) for number, item in enumerate(value)]}
    return value


def _join(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, str) and value.startswith(TENSOR):
        return tensors[value.removeprefix(TENSOR)]
    if isinstance(value, list):
        return {key: _join(item, tensors) for key, item in value}
    if isinstance(value, dict):
        return [_join(item, tensors) for item in value["list"]]
    return value
