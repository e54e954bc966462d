"""The two files of a saved encoder: where they are, and how weights get into a network."""

import os
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from vie.errors import VieError

WEIGHTS_NAME = "model.safetensors"
CARD_NAME = "card.json"


def load_weights(model: nn.Module, source: str | os.PathLike[str]) -> None:
    """Copies the weights of a saved encoder into a network of the same shape; raises ``VieError`` if it differs."""
    path = find_encoder(source) / WEIGHTS_NAME
    try:
        model.load_state_dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise VieError(f"{path} cannot be read ({error}): copy or save the encoder again") from error
    except RuntimeError as error:
        name = getattr(model, "model_name", type(model).__name__)
        raise VieError(f"{path} does not fit {name}: {one_line(error)}") from error


def find_encoder(source: str | os.PathLike[str]) -> Path:
    """The folder of a saved encoder, fetched from the hub if it is a hub id; raises ``VieError`` if there is none."""
    folder = Path(source)
    if folder.is_dir():
        return folder
    if str(source).count("/") != 1 or str(source).startswith((".", "/")):
        raise VieError(f"{source} is no folder: give the folder of a saved encoder, or a hub id such as name/encoder")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise VieError(f"{source} is no folder, and hub ids need huggingface_hub: pip install 'vie[hub]'") from error
    try:
        return Path(snapshot_download(str(source), allow_patterns=[WEIGHTS_NAME, CARD_NAME]))
    except Exception as error:  # the hub's client raises errors of many libraries
        raise VieError(
            f"{source} is no folder, and the hub does not give it ({one_line(error)}): check the path or the hub id"
        ) from error


def one_line(error: Exception) -> str:
    """What an error says, fit for one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__
