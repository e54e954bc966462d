"""Colour jitter of clips in whole batches, each clip in an order of its own.

Red, green and blue are three tensors (B, T, H, W), as every step reads all of them: so a compiler computes each pixel
once, where from one tensor it would compute it for every channel again.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

GREY = (0.299, 0.587, 0.114)

HUE_TURN = 3
"""Turns before the hue; as many come after it."""

Planes = Sequence[Tensor]
"""Red, green and blue (B, T, H, W) in [0, 1]."""


class Parts(NamedTuple):
    """Which parts of the augmentation change any clip of a batch; the others are left out.

    Attributes:
        turns: Each of the six turns of brightness, contrast and saturation; see ``jitter``.
        hue: The hue.
        grey: Greyscale.
    """

    turns: tuple[bool, ...]
    hue: bool
    grey: bool


class Jitter(Protocol):
    """What jitters colours: ``jitter``, or ``jitter_by_means`` to be compiled."""

    def __call__(self, planes: Planes, hue: Tensor, weights: Tensor, parts: Parts) -> Planes: ...


def jitter(planes: Planes, hue: Tensor, weights: Tensor, parts: Parts) -> Planes:
    """Colour jitter with torchvision's definitions, in each clip's own order.

    Brightness, contrast and saturation are one formula with different weights: x <- a x + b grey(x) + c mean(grey(x)),
    cut to [0, 1]. So any order of the four is three turns of that formula before the hue and three after it, where a
    clip sits a turn out by a = 1, b = c = 0: whole batches throughout, whatever each clip's order.

    Args:
        planes: Of the clips.
        hue: (B,) shift, in turns of the colour circle.
        weights: (B, 6, 3) a, b, c of every turn.
        parts: What is not left out.

    Returns:
        The planes of the result.
    """
    return _all_turns(planes, hue, weights, parts)


def jitter_by_means(planes: Planes, hue: Tensor, weights: Tensor, parts: Parts) -> Planes:
    """``jitter`` for the compiler: the one mean that each clip needs, that of its contrast, is found first.

    So compiled code goes over the pixels twice and keeps little between the turns. It does twice the arithmetic, which
    costs a GPU nothing.
    """
    needs_mean = weights[:, :, 2] != 0
    turn = torch.where(needs_mean.any(dim=1), needs_mean.int().argmax(dim=1), -1)
    is_early = torch.arange(2 * HUE_TURN, device=hue.device) < turn[:, None]
    idle = (torch.arange(3, device=hue.device) == 0).to(weights.dtype)
    early = torch.where(is_early[..., None], weights, idle)
    before = _all_turns(planes, torch.where(turn >= HUE_TURN, hue, 0), early, parts, 0.0)
    return _all_turns(planes, hue, weights, parts, to_grey(before).mean(dim=(2, 3), keepdim=True))


def to_grey(planes: Planes) -> Tensor:
    """The brightness of every pixel (B, T, H, W)."""
    red, green, blue = planes
    return GREY[0] * red + GREY[1] * green + GREY[2] * blue


def per_clip(numbers: Tensor) -> Tensor:
    """Numbers of clips (B,) as they meet planes (B, 1, 1, 1)."""
    return numbers.view(-1, 1, 1, 1)


def _all_turns(
    planes: Planes, hue: Tensor, weights: Tensor, parts: Parts, mean: Tensor | float | None = None
) -> Planes:
    """With a mean that is known, or that of every turn."""
    for turn, active in enumerate(parts.turns):
        if turn == HUE_TURN and parts.hue:
            planes = _turn_hue(planes, per_clip(hue))
        if active:
            a, b, c = (per_clip(weight) for weight in weights[:, turn].unbind(1))
            grey = to_grey(planes)
            added = b * grey + c * (grey.mean(dim=(2, 3), keepdim=True) if mean is None else mean)
            planes = [(a * plane).add_(added).clamp_(0, 1) for plane in planes]
    return planes


def _turn_hue(planes: Planes, shift: Tensor) -> Planes:
    """Turns the colour circle in HSV space.

    Smith 1978: of value v, chroma c and hue h in sixths of a turn, channel n (5, 3, 1 for red, green, blue) is
    v - c * clamp(min(k, 4 - k), 0, 1) with k = (n + h) mod 6.
    """
    red, green, blue = planes
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    divisor = torch.where(chroma == 0, 1.0, chroma)
    sixth = torch.where(
        red == value,
        (green - blue) / divisor,
        torch.where(green == value, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    turned = [(sixth + 6 * shift + number).remainder(6) for number in (5, 3, 1)]
    return [value - chroma * torch.minimum(one, 4 - one).clamp_(0, 1) for one in turned]
