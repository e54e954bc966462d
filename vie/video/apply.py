"""Applies a draw of the augmentation to pixels, in whole batches on the device."""

import functools
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vie.video.augment import Draw
from vie.video.pixels import MEAN, STD, Boxes, Channels, channels, crop_resize

GREY = (0.299, 0.587, 0.114)

HUE_TURN = 3
"""Turns before the hue; as many come after it."""


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


class Apply(Protocol):
    """What applies a draw: ``apply_draw``, plain or compiled."""

    def __call__(
        self, frames: Tensor, numbers: Tensor, size: int, mean: Tensor, std: Tensor, parts: Parts
    ) -> Tensor: ...


class Jitter(Protocol):
    """What jitters colours: ``jitter``, or ``jitter_by_means`` to be compiled."""

    def __call__(self, clip: Tensor, hue: Tensor, weights: Tensor, parts: Parts) -> Tensor: ...


def apply_draw(frames: Tensor, numbers: Tensor, size: int, mean: Tensor, std: Tensor, parts: Parts) -> Tensor:
    """Crops, flips, jitters the colours and normalises.

    Args:
        frames: (B, T, H, W, 3) uint8.
        numbers: (B, 25) float: box, flip, grey, hue, then the weights a, b, c of six turns.
        size: Side of the result.
        mean: (3, 1, 1, 1), for the normalisation.
        std: (3, 1, 1, 1), for the normalisation.
        parts: What is not left out.

    Returns:
        (B, 3, T, size, size) float32.
    """
    return _apply(frames, numbers, size, mean, std, parts, jitter)


def _apply(
    frames: Tensor, numbers: Tensor, size: int, mean: Tensor, std: Tensor, parts: Parts, jitter: Jitter
) -> Tensor:
    clip = crop_resize(frames, numbers[:, :4], size, numbers[:, 4] > 0)
    clip = jitter(clip, numbers[:, 6], numbers[:, 7:].unflatten(1, (2 * HUE_TURN, 3)), parts)
    if parts.grey:
        clip = torch.where(_per_clip(numbers[:, 5] > 0), _grey(clip), clip)
    return (clip - mean) / std


@functools.cache
def compiled_apply_draw(backend: str = "inductor") -> Apply:
    """``apply_draw`` through torch.compile: on a GPU a few passes over the pixels in place of a hundred."""
    compiled: Apply = torch.compile(functools.partial(_apply, jitter=jitter_by_means), backend=backend, fullgraph=True)

    def apply(frames: Tensor, numbers: Tensor, size: int, mean: Tensor, std: Tensor, parts: Parts) -> Tensor:
        # All turns or none: a small batch may leave any of them out, and each combination would be compiled.
        turns = (any(parts.turns),) * len(parts.turns)
        return compiled(frames, numbers, size, mean, std, parts._replace(turns=turns))

    return apply


def augment(
    frames: Tensor,
    drawn: Draw,
    size: int,
    boxes: Boxes | None = None,
    mean: Channels = MEAN,
    std: Channels = STD,
    apply: Apply = apply_draw,
) -> Tensor:
    """Applies a draw.

    Args:
        frames: (B, T, H, W, 3) uint8, on the device to work on.
        drawn: For these B clips.
        size: Side of the result.
        boxes: Crops in pixels of ``frames`` where these are not whole pictures; None takes the draw's own.
        mean: Of the stream, for the normalisation.
        std: Of the stream, for the normalisation.
        apply: ``compiled_apply_draw()`` is faster on a GPU.

    Returns:
        (B, 3, T, size, size) float32, normalised.
    """
    factors, device = drawn.factors, frames.device
    columns = [
        drawn.boxes if boxes is None else boxes,
        np.stack([drawn.flip, drawn.grey, factors[:, 3]], axis=1),
        _blend_weights(factors, drawn.order).reshape(len(factors), -1),
    ]
    # All numbers of the batch travel in one transfer.
    numbers = torch.from_numpy(np.concatenate(columns, axis=1, dtype=np.float32)).to(device, non_blocking=True)
    turns = tuple(_active_turns(factors, drawn.order).tolist())
    parts = Parts(turns, hue=bool(factors[:, 3].any()), grey=bool(drawn.grey.any()))
    return apply(frames, numbers, size, channels(mean, device), channels(std, device), parts)


def jitter(clip: Tensor, hue: Tensor, weights: Tensor, parts: Parts) -> Tensor:
    """Colour jitter with torchvision's definitions, in each clip's own order.

    Brightness, contrast and saturation are one formula with different weights: x <- a x + b grey(x) + c mean(grey(x)),
    cut to [0, 1]. So any order of the four is three turns of that formula before the hue and three after it, where a
    clip sits a turn out by a = 1, b = c = 0: whole batches throughout, whatever each clip's order.

    Args:
        clip: (B, 3, T, H, W) in [0, 1].
        hue: (B,) shift, in turns of the colour circle.
        weights: (B, 6, 3) a, b, c of every turn.
        parts: What is not left out.

    Returns:
        (B, 3, T, H, W) in [0, 1].
    """
    for turn, active in enumerate(parts.turns):
        if turn == HUE_TURN and parts.hue:
            clip = _hue(clip, _per_clip(hue))
        if active:
            a, b, c = (_per_clip(weight) for weight in weights[:, turn].unbind(1))
            grey = _grey(clip)
            clip = (a * clip + (b * grey + c * grey.mean(dim=(3, 4), keepdim=True))).clamp_(0, 1)
    return clip


def jitter_by_means(clip: Tensor, hue: Tensor, weights: Tensor, parts: Parts) -> Tensor:
    """``jitter`` for the compiler: one turn of a clip needs its mean, which is found first.

    That turn is its contrast. So compiled code goes over the pixels twice and keeps nothing between the turns, and does
    twice the arithmetic, which on a GPU is free.
    """
    if not any(parts.turns):
        return _all_turns(clip, hue, weights, 0.0, parts)
    needs_mean = weights[:, :, 2] != 0
    turn = torch.where(needs_mean.any(dim=1), needs_mean.int().argmax(dim=1), -1)
    is_early = torch.arange(2 * HUE_TURN, device=clip.device) < turn[:, None]
    idle = (torch.arange(3, device=clip.device) == 0).to(weights.dtype)
    early = torch.where(is_early[..., None], weights, idle)
    before = _all_turns(clip, torch.where(turn >= HUE_TURN, hue, 0), early, 0.0, parts)
    return _all_turns(clip, hue, weights, _grey(before).mean(dim=(3, 4), keepdim=True), parts)


def _all_turns(clip: Tensor, hue: Tensor, weights: Tensor, mean: Tensor | float, parts: Parts) -> Tensor:
    for turn, active in enumerate(parts.turns):
        if turn == HUE_TURN and parts.hue:
            clip = _hue(clip, _per_clip(hue))
        if active:
            a, b, c = (_per_clip(weight) for weight in weights[:, turn].unbind(1))
            clip = (a * clip + (b * _grey(clip) + c * mean)).clamp(0, 1)
    return clip


def _per_clip(numbers: Tensor) -> Tensor:
    return numbers.view(-1, 1, 1, 1, 1)


def _turns(order: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """In which of the six turns each clip has its brightness, contrast and saturation: (B, 3)."""
    place = np.argsort(order, axis=1)
    before = place[:, :3] < place[:, 3:]
    return np.where(before, place[:, :3], place[:, :3] - 1 + HUE_TURN)


def _active_turns(factors: npt.NDArray[np.float32], order: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    turns = _turns(order)[factors[:, :3] != 1]
    return np.isin(np.arange(2 * HUE_TURN), turns)


def _blend_weights(factors: npt.NDArray[np.float32], order: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """The weights a, b, c of every clip and turn: (B, 6, 3)."""
    clips = np.arange(len(factors))
    weights = np.tile(np.array([1, 0, 0], dtype=np.float32), (len(factors), 2 * HUE_TURN, 1))
    brightness, contrast, saturation = _turns(order).T
    weights[clips, brightness, 0] = factors[:, 0]
    weights[clips, contrast, 0] = factors[:, 1]
    weights[clips, contrast, 2] = 1 - factors[:, 1]
    weights[clips, saturation, 0] = factors[:, 2]
    weights[clips, saturation, 1] = 1 - factors[:, 2]
    return weights


def _grey(clip: Tensor) -> Tensor:
    red, green, blue = clip.split(1, dim=1)
    return GREY[0] * red + GREY[1] * green + GREY[2] * blue


def _hue(clip: Tensor, shift: Tensor) -> Tensor:
    """Turns the colour circle in HSV space.

    Smith 1978: of value v, chroma c and hue h in sixths of a turn, channel n (5, 3, 1 for red, green, blue) is
    v - c * clamp(min(k, 4 - k), 0, 1) with k = (n + h) mod 6.
    """
    value, brightest = clip.max(dim=1, keepdim=True)
    chroma = value - clip.amin(dim=1, keepdim=True)
    red, green, blue = clip.split(1, dim=1)
    divisor = torch.where(chroma == 0, 1.0, chroma)
    sixth = torch.where(
        brightest == 0,
        (green - blue) / divisor,
        torch.where(brightest == 1, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    base = sixth + 6 * shift
    turned = torch.cat([base + 5, base + 3, base + 1], dim=1).remainder(6)
    return value - chroma * torch.minimum(turned, 4 - turned).clamp_(0, 1)
