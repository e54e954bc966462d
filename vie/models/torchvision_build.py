"""Building a network of torchvision, with random weights, torchvision's own, or those of a file."""

import difflib
import re
from typing import Any

from torch import Tensor

from vie.errors import VieError
from vie.models.fetched import DEFAULT, is_file, no_such_weights, not_loaded
from vie.weights import read_state_dict


def build(name: str, weights: str | None = None, size: int | None = None, video: bool = False) -> tuple[Any, Any]:
    """A network of torchvision with its classifier.

    Args:
        name: In torchvision.
        weights: "default", a name such as "IMAGENET1K_V1", or a file; None begins at random.
        size: Side of the pictures in pixels, for a network that is built for one; None is that of its weights.
        video: Whether the name is that of a video network.

    Returns:
        The network, and the entry of torchvision's list of weights that tells its pixels: those that were asked for, or
        else its first choice.

    Raises:
        VieError: torchvision knows no such network or weights, or these cannot be had.
    """
    # Here, as torchvision's models bring its video readers along.
    from torchvision import models

    known = models.list_models(module=models.video if video else models)
    if name not in known:
        near = ", ".join(difflib.get_close_matches(name, known, n=3))
        raise VieError(
            f"torchvision knows no image network {name!r}: "
            + (f"did you mean {near}?" if near else "torchvision.models.list_models() names them")
        )
    listed = models.get_model_weights(name)
    entry = listed.DEFAULT
    if weights is not None and not is_file(weights) and weights.lower() != DEFAULT:
        if weights not in listed.__members__:
            raise no_such_weights(f"torchvision_{name}", weights, listed.__members__)
        entry = listed[weights]
    arguments: dict[str, Any] = {}
    if name.startswith("vit_"):
        arguments["image_size"] = size or entry.meta["min_size"][0]
    if name in ("googlenet", "inception_v3"):
        # Their weights hold the classifiers of training too; torchvision warns where the initialisation is not named.
        arguments |= {"aux_logits": weights is not None, "init_weights": True}
    network = models.get_model(name, weights=None, **arguments)
    if weights is not None:
        _load(network, name, weights, entry)
    return network, entry


def origin(weights: str, entry: Any) -> str:
    """Where loaded weights are from."""
    return weights if is_file(weights) else f"torchvision {entry}"


def licence(weights: str, entry: Any) -> str:
    """What torchvision says of the licence of its weights, which for most is nothing."""
    if is_file(weights):
        return ""
    return str(entry.meta.get("license", "unknown (the code of torchvision is BSD-3-Clause)"))


def _load(network: Any, name: str, weights: str, entry: Any) -> None:
    try:
        if is_file(weights):
            tensors: dict[str, Tensor] = read_state_dict(weights)
        else:
            tensors = entry.get_state_dict(progress=False, check_hash=True, weights_only=True)
        if name.startswith("vit_"):
            from torchvision.models.vision_transformer import interpolate_embeddings

            tensors = interpolate_embeddings(network.image_size, network.patch_size, tensors)
        if name.startswith("densenet"):
            tensors = _renamed(tensors)
        network.load_state_dict(tensors)
    except Exception as error:  # of the network, the disk, the format, and of shapes
        raise not_loaded(f"torchvision_{name}", weights, error) from error


def _renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """DenseNet's published weights have names from before dots were refused in them."""
    return {
        re.sub(r"(\.denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2", at): tensor for at, tensor in tensors.items()
    }
