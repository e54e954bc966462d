"""Saving and loading of finished encoders: safetensors and a JSON card, so that nothing is ever unpickled."""

import json
import math
import os
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from vie.errors import VieError
from vie.files import write_atomically, write_text_atomically
from vie.models import Stream, create_model
from vie.video.clips import Sampling
from vie.video.pixels import MEAN, STD, Channels, normalise
from vie.video.resize import VIE_RESIZE, Resize
from vie.weights import CARD_NAME, WEIGHTS_NAME, find_encoder, one_line


class Encoder(nn.Module):
    """A stream with its preprocessing inside: it takes uint8 pixels of any resolution.

    Attributes:
        model: The stream.
        sampling: The clip that it was trained on.
        card: Where the weights come from: data, steps, metrics with their protocol, licence.
    """

    def __init__(self, model: Stream, sampling: Sampling, card: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.model = model
        self.sampling = sampling
        self.card = card or {}

    def preprocess(self, frames: Tensor) -> Tensor:
        """Resizes and crops as the model's ``resize`` says, and normalises by its mean and std.

        Args:
            frames: (B, T, H, W, 3) uint8.

        Returns:
            (B, 3, T, size, size) float32.
        """
        if frames.dtype != torch.uint8 or frames.ndim != 5 or frames.shape[-1] != 3:
            raise VieError(
                f"frames are {frames.dtype} {tuple(frames.shape)}: give uint8 pixels of shape (B, T, H, W, 3)"
            )
        clip = self.model.resize(frames, self.sampling)
        return normalise(clip, self.model.mean, self.model.std)

    def forward_features(self, frames: Tensor) -> dict[str, Tensor]:
        """Taps conv1 to conv5 of uint8 frames (B, T, H, W, 3): each (B, C, T', H', W')."""
        return self.model.forward_features(self.preprocess(frames))

    def pooled(self, frames: Tensor) -> Tensor:
        """Pooled features (B, num_features) of uint8 frames (B, T, H, W, 3)."""
        return self.model.pooled(self.preprocess(frames))

    def forward(self, frames: Tensor) -> Tensor:
        """Unit vectors (B, embed_dim) of uint8 frames (B, T, H, W, 3)."""
        return self.model(self.preprocess(frames))


def save_pretrained(
    model: Stream,
    path: str | os.PathLike[str],
    sampling: Sampling,
    card: dict[str, Any] | None = None,
    half: bool = False,
) -> None:
    """Writes ``model.safetensors`` and ``card.json`` into a folder, each whole or not at all.

    Args:
        model: Made by ``create_model``.
        path: The folder; made if absent.
        sampling: The clip that the weights were trained on.
        card: Provenance: data, steps, metrics and their protocol, licence. Anything that JSON holds.
        half: Writes float16, half the bytes, to give away; ``load`` computes in float32 either way.

    Raises:
        VieError: ``create_model`` did not make the model, so nothing could load it; a weight is too large for float16;
            or the folder cannot be written.
    """
    if not model.model_name:
        raise VieError(f"this {type(model).__name__} could not be loaded again: make it by create_model to save it")
    folder = Path(path)
    # Cloned, because safetensors refuses networks that hold one tensor under several names.
    weights = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
    if half:
        weights = {name: _halved(name, tensor) for name, tensor in weights.items()}
    content = {
        **({"licence": model.licence} if model.licence else {}),
        **(card or {}),
        "model": {"name": model.model_name, "arguments": model.arguments, "sampling": vars(sampling)},
        "preprocessing": {
            "mean": model.mean,
            "std": model.std,
            "short_side_ratio": sampling.short_side,
            "crop": "centre",
            **({} if model.resize == VIE_RESIZE else {"resize": vars(model.resize)}),
        },
    }
    text = json.dumps(content, indent=2) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / WEIGHTS_NAME, partial(save_file, weights))
        write_text_atomically(folder / CARD_NAME, text)
    except (OSError, SafetensorError) as error:
        raise VieError(
            f"the encoder cannot be written to {folder} ({one_line(error)}): free some space or give another folder"
        ) from error


def _halved(name: str, tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    if not torch.isfinite(small := tensor.half()).all():
        raise VieError(f"{name} holds values beyond float16's 65,504: save it without half")
    return small


@torch.inference_mode(False)  # or it could never be trained
def load(source: str | os.PathLike[str]) -> Encoder:
    """Loads an encoder, in eval mode.

    Args:
        source: A folder written by ``save_pretrained``, or the id of a Hugging Face Hub repository that holds the same
            two files (this needs the extra ``hub``).

    Raises:
        VieError: There is no such folder, or its files are damaged.
    """
    folder = find_encoder(source)
    card = _read_card(folder)
    try:
        described = card["model"]
        model = create_model(described["name"], pretrained=folder, **described["arguments"])
        # The first cards told no preprocessing: it was ImageNet's for every model.
        statistics = card.get("preprocessing", {"mean": MEAN, "std": STD})
        model.mean, model.std = _channels(statistics["mean"]), _channels(statistics["std"], above=0)
        model.resize = Resize(**statistics.get("resize", {}))
        model.licence = str(card.get("licence") or "")
        sampling = Sampling(**described["sampling"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise VieError(f"{folder / CARD_NAME} does not describe a model ({error!r}): save the encoder again") from error
    return Encoder(model, sampling, card).eval()


def _channels(values: Any, above: float = -math.inf) -> Channels:
    """Three finite numbers of a card; raises ``TypeError`` or ``ValueError`` if there is anything else."""
    red, green, blue = (float(value) for value in values)
    if not all(above < value < math.inf for value in (red, green, blue)):
        raise ValueError(f"{values} are no channel statistics")
    return red, green, blue


def _read_card(folder: Path) -> dict[str, Any]:
    path = folder / CARD_NAME
    try:
        card = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise VieError(f"{path} cannot be read ({error}): give the folder of a saved encoder") from error
    if not isinstance(card, dict):
        raise VieError(f"{path} is not a model card: give the folder of a saved encoder")
    return card
