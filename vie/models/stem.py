"""The strided convolution that a network begins with, fast on the three channels of a picture.

A convolution of stride s is one of stride 1 over blocks of s pixels a side, each laid out as channels (space to depth).
A kernel along one axis is one of a single place over as many times the channels, the neighbours laid out likewise. So
the convolution becomes one of pictures with 48 to 96 channels: tensor cores want them in multiples of eight, cuDNN's
kernels for them in multiples of 32. On one H100 that is twice as fast as blocks alone, and blocks as PyTorch's own.
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


def convolve_pictures(x: Tensor, weight: Tensor, layout: torch.memory_format = torch.contiguous_format) -> Tensor:
    """A plain convolution of stride 1 without padding, as one of pictures with one axis less to go over.

    Args:
        x: (B, C, [T,] H, W).
        weight: (O, C, [K,] K', K").
        layout: That the pictures are brought into.

    Returns:
        (B, O, [T',] H', W').
    """
    x, weight = _unroll(x, weight, 2 if x.ndim == 5 and weight.shape[2] > 1 else x.ndim - 1)
    if x.ndim == 4:
        return F.conv2d(x.contiguous(memory_format=layout), weight.contiguous(memory_format=layout))
    pictures = x.transpose(1, 2).flatten(0, 1).contiguous(memory_format=layout)
    found = F.conv2d(pictures, weight[:, :, 0].contiguous(memory_format=layout))
    return found.unflatten(0, (x.shape[0], -1)).transpose(1, 2)


def _unroll(x: Tensor, weight: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Input and kernel with the places of the kernel along an axis as channels; one place is left there."""
    neighbours = x.unfold(axis, weight.shape[axis], 1).movedim(-1, 1)
    return neighbours.flatten(1, 2), weight.movedim(axis, 1).flatten(1, 2).unsqueeze(axis)


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
    last = layer.weight.is_contiguous(memory_format=LAYOUTS[len(stride)])
    return convolve_pictures(folded, weight, torch.channels_last if last else torch.contiguous_format)
