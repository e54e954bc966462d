"""What an agent hands to an encoder: checked, never guessed at."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vie import VieError

Array = np.ndarray[Any, Any] | Tensor
Observation = Array | Mapping[str, Array]


def split(
    observation: Observation, views: Sequence[str], proprio: Mapping[str, int], device: torch.device
) -> tuple[list[Tensor], Tensor | None]:
    """The pictures of every camera, and everything else side by side.

    Args:
        observation: uint8 pixels (B, H, W, 3) or (B, T, H, W, 3), where there is one camera without a name; or a
            mapping with such pixels for each camera and (B, D) numbers for each part of the proprioception. Other keys
            of it are ignored.
        views: Names of the cameras; empty for one without a name.
        proprio: Parts of the proprioception and their lengths.
        device: Where the numbers of the proprioception are wanted.

    Returns:
        For each camera (B, T, H, W, 3) uint8 where they are, and (B, sum of lengths) float32 on the device or None.

    Raises:
        VieError: Something is missing, or of another type or shape.
    """
    if not views and not proprio:
        if isinstance(observation, Mapping):
            raise VieError(
                f"the observation is a mapping of {_names(observation)}, and the encoder knows no cameras: load it "
                "with views=[NAME, ...]"
            )
        return [pixels(observation, "the observation")], None
    if not isinstance(observation, Mapping):
        raise VieError(
            f"the observation is a {type(observation).__name__}: this encoder takes a mapping with "
            f"{', '.join([*(views or ['pixels']), *proprio])}"
        )
    for name in [*(views or ["pixels"]), *proprio]:
        if name not in observation:
            raise VieError(f"the observation has no {name!r}: it has {_names(observation)}")
    seen = [pixels(observation[name], name) for name in views or ["pixels"]]
    if not proprio:
        parts: list[Tensor] = []
    else:
        parts = [_numbers(observation[name], name, length, device) for name, length in proprio.items()]
    for name, array in zip([*(views or ["pixels"]), *proprio], [*seen, *parts], strict=True):
        if len(array) != len(seen[0]):
            raise VieError(f"{name} holds {len(array)} observations, others hold {len(seen[0])}: give one batch")
    return seen, torch.cat(parts, dim=1) if parts else None


def pixels(array: Array, name: str) -> Tensor:
    """uint8 (B, T, H, W, 3), of uint8 pixels (B, H, W, 3) or (B, T, H, W, 3); else ``VieError``."""
    tensor = _tensor(array, name)
    shape = tuple(tensor.shape)
    if tensor.dtype != torch.uint8:
        raise VieError(f"{name} is {tensor.dtype}: give the camera's uint8 pixels, 0 to 255; the encoder scales them")
    if tensor.ndim == 3:
        raise VieError(f"{name} has the shape {shape}: give a batch, (B, H, W, 3), if only of one: pixels[None]")
    if tensor.ndim not in (4, 5) or shape[-1] != 3:
        hint = "move the channels to the end" if len(shape) in (4, 5) and shape[-3] == 3 else "give RGB pixels"
        raise VieError(f"{name} has the shape {shape}, not (B, H, W, 3) or (B, T, H, W, 3): {hint}")
    return tensor.unsqueeze(1) if tensor.ndim == 4 else tensor


def _numbers(array: Array, name: str, length: int, device: torch.device) -> Tensor:
    tensor = _tensor(array, name)
    if tensor.ndim != 2 or tensor.shape[1] != length:
        raise VieError(f"{name} has the shape {tuple(tensor.shape)}, not (B, {length}) as it was declared")
    return tensor.to(device, torch.float32)


def _tensor(array: Array, name: str) -> Tensor:
    if isinstance(array, np.ndarray):
        # torch takes neither negative strides nor arrays that must not be written to.
        return torch.from_numpy(np.require(array, requirements=["C", "W"]))
    if not isinstance(array, Tensor):
        raise VieError(f"{name} is a {type(array).__name__}: give a numpy array or a torch tensor")
    return array


def _names(observation: Mapping[str, Array]) -> str:
    return ", ".join(map(str, observation)) or "nothing"
