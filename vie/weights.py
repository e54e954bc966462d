"""The two files of a saved encoder: where they are, and how weights get into a network."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from vie.errors import VieError

WEIGHTS_NAME = "model.safetensors"
CARD_NAME = "card.json"


@dataclass(frozen=True)
class Match:
    """What became of the tensors of a network and of the weights that were offered to it, by name.

    Attributes:
        loaded: In both, of one shape: copied.
        missing: In the network alone: as they were.
        unexpected: Offered alone: not used.
        misshapen: In both, of different shapes: not used.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} tensors loaded"]
        for what in ("missing", "unexpected", "misshapen"):
            names: tuple[str, ...] = getattr(self, what)
            if names:
                more = f" and {len(names) - 5} more" if len(names) > 5 else ""
                parts.append(f"{len(names)} {what} ({', '.join(names[:5])}{more})")
        return "; ".join(parts)


def load_matching(model: nn.Module, weights: Mapping[str, Tensor], prefix: str = "") -> Match:
    """Copies those tensors of any state dict into a network that match by name and shape, and tells which did.

    Args:
        model: The network.
        weights: Its tensors, or another's, by name.
        prefix: Put before the offered names: ``"trunk."`` brings the weights of torchvision, PyTorchVideo or timm into
            the stream that holds such a network.

    Raises:
        VieError: None does.
    """
    weights = {prefix + name: value for name, value in weights.items()}
    own = model.state_dict()
    shared = [name for name in own if name in weights]
    loaded = [name for name in shared if own[name].shape == weights[name].shape]
    match = Match(
        tuple(loaded),
        tuple(name for name in own if name not in weights),
        tuple(name for name in weights if name not in own),
        tuple(name for name in shared if own[name].shape != weights[name].shape),
    )
    if not loaded:
        raise VieError(f"no tensor fits ({match}): rename the weights to the network's own names, or give a prefix")
    model.load_state_dict({name: weights[name] for name in loaded}, strict=False)
    return match


def read_weights(source: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The weights of a saved encoder; raises ``VieError`` if they cannot be read."""
    path = find_encoder(source) / WEIGHTS_NAME
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise VieError(f"{path} cannot be read ({error}): copy or save the encoder again") from error


def load_weights(model: nn.Module, source: str | os.PathLike[str]) -> None:
    """Copies the weights of a saved encoder into a network of the same shape; raises ``VieError`` if it differs."""
    weights = read_weights(source)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        path = find_encoder(source) / WEIGHTS_NAME
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
