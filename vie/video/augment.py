"""VIE's augmentation: drawn as a pure function of (seed, epoch, instance), applied in batches on the device.

One draw serves all frames of a clip. The recipe is VIE's "ColorJitter" (CVPR 2020, released code): a random short side,
a random crop, brightness, contrast, saturation and hue in random order, greyscale, horizontal flip.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vie.video.pixels import Boxes, crop_boxes, crop_resize, normalise

GREY = (0.299, 0.587, 0.114)
ORDERS = np.array(list(itertools.permutations(range(4))))
DRAWS = 12


@dataclass(frozen=True)
class Augmentation:
    """Strengths of the augmentation; the defaults are VIE's.

    Attributes:
        short_side: Least and greatest short side, as multiples of the crop's size; drawn in whole pixels. VIE's
            [256, 319] for 224 and [128, 159] for 112 are 8/7 and 10/7, the latter left out.
        brightness, contrast, saturation: Factors are uniform in [1 - x, 1 + x].
        hue: Shift uniform in [-x, x], in turns of the colour circle; at most 0.5.
        grey: Probability of greyscale.
        flip: Probability of a horizontal flip.
    """

    short_side: tuple[float, float] = (8 / 7, 10 / 7)
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.4
    grey: float = 0.3
    flip: float = 0.5


@dataclass(frozen=True)
class Draw:
    """What was drawn for B clips: everything that chance decides between a video and the network's input.

    Attributes:
        position: (B,) in [0, 1): where in its video the clip begins.
        boxes: (B, 4) crop in source pixels.
        flip, grey: (B,) bool.
        factors: (B, 4) brightness, contrast, saturation, hue.
        order: (B, 4) the order in which these four are applied.
    """

    position: npt.NDArray[np.float64]
    boxes: Boxes
    flip: npt.NDArray[np.bool_]
    grey: npt.NDArray[np.bool_]
    factors: npt.NDArray[np.float32]
    order: npt.NDArray[np.int64]

    def take(self, kept: npt.NDArray[np.int64]) -> "Draw":
        """The draw of some of the clips."""
        return Draw(*(getattr(self, field.name)[kept] for field in fields(self)))


def uniforms(seed: int, epoch: int, instances: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1) that depend on (seed, epoch, instance) alone: (B, count)."""
    return np.stack(
        [
            np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[0, 0, 0, int(instance)])).random(count)
            for instance in instances
        ]
    )


def draw(
    augmentation: Augmentation,
    size: int,
    height: npt.NDArray[np.int64],
    width: npt.NDArray[np.int64],
    *,
    seed: int,
    epoch: int,
    instances: npt.NDArray[np.int64],
) -> Draw:
    """Draws the clip position and the augmentation of each instance in an epoch.

    Args:
        augmentation: Strengths.
        size: Side of the crop.
        height: (B,) of the stored frames.
        width: (B,) of the stored frames.
        seed: Of the run.
        epoch: Number of the epoch.
        instances: (B,) instance numbers.
    """
    u = uniforms(seed, epoch, instances, DRAWS)
    least, most = (round(size * side) for side in augmentation.short_side)
    short_side = np.floor(least + u[:, 1] * max(1, most - least)).astype(np.int64)
    spread = np.array([augmentation.brightness, augmentation.contrast, augmentation.saturation, augmentation.hue])
    centre = np.array([1.0, 1.0, 1.0, 0.0])
    return Draw(
        position=u[:, 0],
        boxes=crop_boxes(height, width, short_side, size, u[:, 2:4]),
        flip=u[:, 4] < augmentation.flip,
        grey=u[:, 5] < augmentation.grey,
        factors=(centre + spread * (2 * u[:, 6:10] - 1)).astype(np.float32),
        order=ORDERS[np.floor(u[:, 10] * len(ORDERS)).astype(np.int64)],
    )


def augment(frames: Tensor, drawn: Draw, size: int, boxes: Boxes | None = None) -> Tensor:
    """Applies a draw.

    Args:
        frames: (B, T, H, W, 3) uint8, on the device to work on.
        drawn: For these B clips.
        size: Side of the result.
        boxes: Crops in pixels of ``frames`` where these are not whole pictures; None takes the draw's own.

    Returns:
        (B, 3, T, size, size) float32, normalised.
    """
    device = frames.device

    def send(array: npt.NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(device, non_blocking=True)

    clip = crop_resize(frames, send(drawn.boxes if boxes is None else boxes), size, send(drawn.flip))
    clip = jitter(clip, drawn.factors, drawn.order)
    clip = torch.where(send(drawn.grey).view(-1, 1, 1, 1, 1), _grey(clip), clip)
    return normalise(clip)


def jitter(clip: Tensor, factors: npt.NDArray[np.float32], order: npt.NDArray[np.int64]) -> Tensor:
    """Colour jitter with torchvision's definitions, in each clip's own order.

    Args:
        clip: (B, 3, T, H, W) in [0, 1].
        factors: (B, 4) brightness, contrast, saturation, hue.
        order: (B, 4) permutation of these four.

    Returns:
        (B, 3, T, H, W) in [0, 1].
    """
    clip = clip.clone()
    for turn in range(order.shape[1]):
        for number, operation in enumerate(_OPERATIONS):
            chosen = np.flatnonzero(order[:, turn] == number)
            if len(chosen) == 0 or np.all(factors[chosen, number] == _NEUTRAL[number]):
                continue
            index = torch.from_numpy(chosen).to(clip.device)
            factor = torch.from_numpy(factors[chosen, number]).to(clip.device).view(-1, 1, 1, 1, 1)
            clip[index] = operation(clip[index], factor)
    return clip


def _grey(clip: Tensor) -> Tensor:
    weights = torch.tensor(GREY, device=clip.device).view(3, 1, 1, 1)
    return (clip * weights).sum(dim=1, keepdim=True)


def _brightness(clip: Tensor, factor: Tensor) -> Tensor:
    return (clip * factor).clamp_(0, 1)


def _contrast(clip: Tensor, factor: Tensor) -> Tensor:
    mean = _grey(clip).mean(dim=(3, 4), keepdim=True)
    return (mean + factor * (clip - mean)).clamp_(0, 1)


def _saturation(clip: Tensor, factor: Tensor) -> Tensor:
    grey = _grey(clip)
    return (grey + factor * (clip - grey)).clamp_(0, 1)


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
    channel = torch.tensor([5.0, 3.0, 1.0], device=clip.device).view(3, 1, 1, 1)
    k = (channel + sixth + 6 * shift).remainder(6)
    return value - chroma * torch.minimum(k, 4 - k).clamp_(0, 1)


_OPERATIONS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (_brightness, _contrast, _saturation, _hue)
_NEUTRAL = (1.0, 1.0, 1.0, 0.0)
