"""The strided convolution that a network begins with, fast on the three channels of a picture.

A convolution of stride s is one of stride 1 over blocks of s pixels a side, each laid out as channels (space to depth).
On tensor cores that is about twice as fast, as they want channels in multiples of eight and get 12 or 24 in place of 3.
"""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LAYOUTS = {2: torch.channels_last, 3: torch.channels_last_3d}


class StemConv2d(nn.Conv2d):
    """A convolution without bias, groups or dilation: ``nn.Conv2d`` in another order of summation.

    In single precision and on the CPU it is ``nn.Conv2d`` itself, which is faster there.
    """

    def forward(self, x: Tensor) -> Tensor:
        return _forward(self, x) if _on_tensor_cores(x) else super().forward(x)


class StemConv3d(nn.Conv3d):
    """As ``StemConv2d``, for clips."""

    def forward(self, x: Tensor) -> Tensor:
        return _forward(self, x) if _on_tensor_cores(x) else super().forward(x)


def fold(x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Input and kernel whose plain convolution, of stride 1 and without padding, is the strided one.

    Args:
        x: (B, C, *S).
        weight: (O, C, *K).
        stride: For each axis of S.
        padding: Zeros on either side of each axis of S.

    Returns:
        (B, C', *S') and (O, C', *K'), where C' is C times the product of the strides.
    """
    first: list[int] = []
    whole: list[int] = []
    for size, kernel, step, zeros in zip(x.shape[2:], weight.shape[2:], stride, padding, strict=True):
        blocks = -(-kernel // step)
        outputs = (size + 2 * zeros - kernel) // step + 1
        first += [(outputs - 1 + blocks) * step - zeros - size, zeros]  # what the last blocks lack, or too much
        whole += [blocks * step - kernel, 0]
    # F.pad takes the axes from the last one, and what comes before each axis first.
    return _to_depth(F.pad(x, first[::-1]), stride), _to_depth(F.pad(weight, whole[::-1]), stride)


def _to_depth(x: Tensor, stride: Sequence[int]) -> Tensor:
    split = [part for size, step in zip(x.shape[2:], stride, strict=True) for part in (size // step, step)]
    blocks = x.reshape(*x.shape[:2], *split)
    axes = range(len(stride))
    moved = blocks.permute(0, *(2 + 2 * axis for axis in axes), *(3 + 2 * axis for axis in axes), 1)
    return moved.flatten(1 + len(stride)).movedim(-1, 1)


def _on_tensor_cores(x: Tensor) -> bool:
    return x.device.type == "cuda" and _dtype(x).itemsize == 2


def _dtype(x: Tensor) -> torch.dtype:
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def _forward(layer: nn.Conv2d | nn.Conv3d, x: Tensor) -> Tensor:
    # Cast first, so that what is moved is half as large.
    stride, padding = layer.stride, cast(tuple[int, ...], layer.padding)
    folded, weight = fold(x.to(_dtype(x)), layer.weight.to(_dtype(x)), stride, padding)
    if not layer.weight.is_contiguous(memory_format=LAYOUTS[len(stride)]):
        folded, weight = folded.contiguous(), weight.contiguous()
    return F.conv2d(folded, weight) if len(stride) == 2 else F.conv3d(folded, weight)
