"""Where weights are: the files of a saved encoder, or anyone's; and how they get into a network."""

import os
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from vie.errors import VieError

WEIGHTS_NAME = "model.safetensors"
CARD_NAME = "card.json"

FILES = (".safetensors", ".pth", ".pt")
"""Names that end so are of files of weights, not of folders or of encoders on the hub."""

WRAPPERS = ("state_dict", "model_state", "model")
"""Where training frameworks put the weights in their checkpoints (Lightning, PyTorchVideo, timm and torchvision)."""

WRAPPED = re.compile(r"^((module|_orig_mod)\.)+")
"""What wrappers put before the names of weights."""


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
                parts.append(f"{len(names)} {what} ({list_names(names)})")
        return "; ".join(parts)


def list_names(names: Sequence[str]) -> str:
    """The first five of some names, and how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def load_matching(model: nn.Module, weights: Mapping[str, Tensor], prefix: str = "", within: str = "") -> Match:
    """Copies those tensors of any state dict into a network that match by name and shape, and tells which did.

    Args:
        model: The network.
        weights: Its tensors, or another's, by name.
        prefix: Put before the offered names: ``"trunk."`` brings the weights of torchvision, PyTorchVideo or timm into
            the stream that holds such a network.
        within: Taken off the offered names first, and those that do not begin with it are not used: ``"backbone."``
            finds that network within a larger one.

    Raises:
        VieError: None does but scalars and vectors: a norm's or a bias's length fits many networks and carries little.
    """
    inner = {name.removeprefix(within): value for name, value in weights.items() if name.startswith(within)}
    if not inner:
        raise VieError(f"no weights begin with {within!r}, but {list_names(list(weights))}: give what they begin with")
    weights = {prefix + name: value for name, value in inner.items()}
    own = model.state_dict()
    shared = [name for name in own if name in weights]
    loaded = [name for name in shared if own[name].shape == weights[name].shape]
    match = Match(
        tuple(loaded),
        tuple(name for name in own if name not in weights),
        tuple(name for name in weights if name not in own),
        tuple(name for name in shared if own[name].shape != weights[name].shape),
    )
    if not any(own[name].ndim > 1 for name in loaded):
        raise VieError(f"no weights fit ({match}): rename the weights to the network's own names, or give a prefix")
    model.load_state_dict({name: weights[name] for name in loaded}, strict=False)
    return match


def read_state_dict(source: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Weights by name, on the CPU.

    Of a checkpoint that holds them as ``state_dict``, ``model_state`` or ``model``, or under any other name if it holds
    no others, these are taken. What PyTorch's wrappers for several devices and its compiler put before names
    (``module.``, ``_orig_mod.``) is taken off.

    Args:
        source: A saved encoder (its folder or its id on the hub), a ``.safetensors`` file, or a file of ``torch.save``
            (``.pth``, ``.pt``), of which nothing but tensors and plain containers is unpickled.

    Raises:
        VieError: There is no such file, it cannot be read or would run code, or it holds something else than tensors.
    """
    path = _weights_file(source)
    try:
        content: Any = load_file(path) if path.suffix == ".safetensors" else _unpickle(path)
    except Exception as error:  # damaged and hostile files raise errors of many kinds
        raise VieError(
            f"{path} cannot be read as weights ({one_line(error)}): copy it again, or save a state dict alone"
        ) from error
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise VieError(f"{path} holds no weights by name: save a network's state_dict() there")
    nested = [name for name, value in content.items() if _is_weights(value)]
    if len(nested) > 1:
        raise VieError(f"{path} holds weights as {list_names(list(map(str, nested)))}: save those of one of them alone")
    if nested and not any(isinstance(value, Tensor) and value.ndim for value in content.values()):
        content = content[nested[0]]
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise VieError(f"{path} holds a {type(value).__name__} as {name!r}, no tensor: save the state dict alone")
    return {WRAPPED.sub("", name): value for name, value in content.items()}


def _is_weights(value: Any) -> bool:
    if not isinstance(value, Mapping) or not value:
        return False
    return all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items())


def load_weights(model: nn.Module, source: str | os.PathLike[str]) -> None:
    """Copies saved weights into a network of the same shape; raises ``VieError`` if it differs."""
    weights = read_state_dict(source)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        name = getattr(model, "model_name", type(model).__name__)
        raise VieError(f"{_weights_file(source)} does not fit {name}: {one_line(error)}") from error


def _weights_file(source: str | os.PathLike[str]) -> Path:
    path = Path(source)
    named = path.suffix in FILES and not path.is_dir()
    return path if named or path.is_file() else find_encoder(source) / WEIGHTS_NAME


def _unpickle(path: Path) -> Any:
    # Files in PyTorch's format before 1.6 are no archives, and cannot be mapped.
    return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))


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
