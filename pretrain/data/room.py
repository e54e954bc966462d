"""Memory for frames: fresh, or whatever a caller has ready."""

from collections.abc import Callable

import torch
from torch import Tensor

Room = Callable[[tuple[int, ...]], Tensor]
"""Gives memory for uint8 of a shape, in which anything may stand."""


def fresh(shape: tuple[int, ...]) -> Tensor:
    """The usual ``Room``."""
    return torch.empty(shape, dtype=torch.uint8)
