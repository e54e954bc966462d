"""VIE's augmentation: drawn as a pure function of (seed, epoch, instance, view), applied in batches on the device.

One draw serves all frames of a clip. The recipe is VIE's "ColorJitter" (CVPR 2020, released code): a random short side,
a random crop, brightness, contrast, saturation and hue in random order, greyscale, horizontal flip.
"""

import itertools
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vie.errors import VieError
from vie.video.crops import corner_boxes, resized_boxes
from vie.video.pixels import MEAN, STD, Boxes, Channels, crop_boxes, crop_resize, normalise

GREY = (0.299, 0.587, 0.114)
ORDERS = np.array(list(itertools.permutations(range(4))))
DRAWS = 12


@dataclass(frozen=True)
class Augmentation:
    """Strengths of the augmentation; the defaults are VIE's.

    Attributes:
        crop: "random": a random short side, then a random square of the crop's size (pretraining); "corner": one of
            five sizes in one of five places (VIE's "sc", for fine-tuning); "resized": a random share of the area in a
            random aspect (ImageNet).
        short_side: For the random crop, least and greatest short side, as multiples of the crop's size; drawn in whole
            pixels. VIE's [256, 319] for 224 and [128, 159] for 112 are 8/7 and 10/7, the latter left out.
        brightness, contrast, saturation: Factors are uniform in [1 - x, 1 + x].
        hue: Shift uniform in [-x, x], in turns of the colour circle; at most 0.5.
        grey: Probability of greyscale.
        flip: Probability of a horizontal flip.
    """

    crop: Literal["random", "corner", "resized"] = "random"
    short_side: tuple[float, float] = (8 / 7, 10 / 7)
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.4
    grey: float = 0.3
    flip: float = 0.5

    def __post_init__(self) -> None:
        least, most = self.short_side
        if not 1 <= least <= most:
            raise VieError(f"augmentation.short_side={list(self.short_side)} is out of range: give 1 <= least <= most")


@dataclass(frozen=True)
class Draw:
    """What was drawn for B clips: everything that chance decides between a video and the network's input.

    Attributes:
        position: (B,) in [0, 1): where in its video the clip begins.
        in_bin: (B, T) in [0, 1): where in its bin each frame lies, for samplings with bins; else T is 0.
        boxes: (B, 4) crop in source pixels.
        flip, grey: (B,) bool.
        factors: (B, 4) brightness, contrast, saturation, hue.
        order: (B, 4) the order in which these four are applied.
    """

    position: npt.NDArray[np.float64]
    in_bin: npt.NDArray[np.float64]
    boxes: Boxes
    flip: npt.NDArray[np.bool_]
    grey: npt.NDArray[np.bool_]
    factors: npt.NDArray[np.float32]
    order: npt.NDArray[np.int64]

    def take(self, kept: npt.NDArray[np.int64]) -> "Draw":
        """The draw of some of the clips."""
        return Draw(*(getattr(self, field.name)[kept] for field in fields(self)))


def uniforms(
    seed: int, epoch: int, instances: npt.NDArray[np.int64], count: int, view: npt.NDArray[np.int64] | int = 0
) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1) that depend on (seed, epoch, instance, view) alone: (B, count)."""
    bits = np.random.Philox(key=[seed, epoch])
    # One generator whose counter is set anew for each clip: four times as fast as a generator for each.
    generator, state = np.random.Generator(bits), bits.state
    counter = state["state"]["counter"]
    drawn = np.empty((len(instances), count))
    for row, instance, number in zip(drawn, instances, np.broadcast_to(view, len(instances)), strict=True):
        # The view is the second word: the third is the data order's, and no stream is long enough to carry into it.
        counter[:] = (0, number, 0, instance)
        bits.state = state
        generator.random(out=row)
    return drawn


def draw(
    augmentation: Augmentation,
    size: int,
    height: npt.NDArray[np.int64],
    width: npt.NDArray[np.int64],
    *,
    seed: int,
    epoch: int,
    instances: npt.NDArray[np.int64],
    binned_frames: int = 0,
    view: npt.NDArray[np.int64] | int = 0,
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
        binned_frames: Frames of a clip that are drawn one by one, for samplings with bins.
        view: Number of the view, or (B,) one for each clip: the views of an instance are drawn independently.
    """
    u = uniforms(seed, epoch, instances, DRAWS + binned_frames, view)
    spread = np.array([augmentation.brightness, augmentation.contrast, augmentation.saturation, augmentation.hue])
    centre = np.array([1.0, 1.0, 1.0, 0.0])
    return Draw(
        position=u[:, 0],
        in_bin=u[:, DRAWS:],
        boxes=_draw_boxes(augmentation, size, height, width, u[:, [1, 2, 3, 11]]),
        flip=u[:, 4] < augmentation.flip,
        grey=u[:, 5] < augmentation.grey,
        factors=(centre + spread * (2 * u[:, 6:10] - 1)).astype(np.float32),
        order=ORDERS[np.floor(u[:, 10] * len(ORDERS)).astype(np.int64)],
    )


def _draw_boxes(
    augmentation: Augmentation,
    size: int,
    height: npt.NDArray[np.int64],
    width: npt.NDArray[np.int64],
    u: npt.NDArray[np.float64],
) -> Boxes:
    if augmentation.crop == "corner":
        return corner_boxes(height, width, u[:, :2])
    if augmentation.crop == "resized":
        return resized_boxes(height, width, u[:, [0, 3, 1, 2]])
    least, most = (round(size * side) for side in augmentation.short_side)
    short_side = np.floor(least + u[:, 0] * max(1, most - least)).astype(np.int64)
    return crop_boxes(height, width, short_side, size, u[:, 1:3])


def augment(
    frames: Tensor, drawn: Draw, size: int, boxes: Boxes | None = None, mean: Channels = MEAN, std: Channels = STD
) -> Tensor:
    """Applies a draw.

    Args:
        frames: (B, T, H, W, 3) uint8, on the device to work on.
        drawn: For these B clips.
        size: Side of the result.
        boxes: Crops in pixels of ``frames`` where these are not whole pictures; None takes the draw's own.
        mean: Of the stream, for the normalisation.
        std: Of the stream, for the normalisation.

    Returns:
        (B, 3, T, size, size) float32, normalised.
    """
    # All numbers of the batch travel in one transfer.
    columns = [drawn.boxes if boxes is None else boxes, drawn.flip[:, None], drawn.grey[:, None]]
    packed = torch.from_numpy(np.concatenate(columns, axis=1, dtype=np.float32)).to(frames.device, non_blocking=True)
    clip = crop_resize(frames, packed[:, :4], size, packed[:, 4] > 0)
    clip = jitter(clip, drawn.factors, drawn.order)
    if drawn.grey.any():
        clip = torch.where((packed[:, 5] > 0).view(-1, 1, 1, 1, 1), _grey(clip), clip)
    return normalise(clip, mean, std)


def jitter(clip: Tensor, factors: npt.NDArray[np.float32], order: npt.NDArray[np.int64]) -> Tensor:
    """Colour jitter with torchvision's definitions, in each clip's own order.

    Brightness, contrast and saturation are one formula with different weights: x <- a x + b grey(x) + c mean(grey(x)),
    cut to [0, 1]. So any order of the four is three turns of that formula before the hue and three after it, where a
    clip sits a turn out by a = 1, b = c = 0: whole batches throughout, whatever each clip's order.

    Args:
        clip: (B, 3, T, H, W) in [0, 1].
        factors: (B, 4) brightness, contrast, saturation, hue.
        order: (B, 4) permutation of these four.

    Returns:
        (B, 3, T, H, W) in [0, 1].
    """
    weights = torch.from_numpy(_blend_weights(factors, order)).to(clip.device, non_blocking=True)
    for turn, active in enumerate(_active_turns(factors, order)):
        if turn == HUE_TURN and np.any(factors[:, 3]):
            shift = torch.from_numpy(factors[:, 3]).to(clip.device, non_blocking=True)
            clip = _hue(clip, shift.view(-1, 1, 1, 1, 1))
        if active:
            a, b, c = weights[turn].T[..., None, None, None, None]
            grey = _grey(clip)
            clip = (a * clip + (b * grey + c * grey.mean(dim=(3, 4), keepdim=True))).clamp_(0, 1)
    return clip


HUE_TURN = 3
"""Turns before the hue; as many come after it."""


def _turns(order: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """In which of the six turns each clip has its brightness, contrast and saturation: (B, 3)."""
    place = np.argsort(order, axis=1)
    before = place[:, :3] < place[:, 3:]
    return np.where(before, place[:, :3], place[:, :3] - 1 + HUE_TURN)


def _active_turns(factors: npt.NDArray[np.float32], order: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    turns = _turns(order)[factors[:, :3] != 1]
    return np.isin(np.arange(2 * HUE_TURN), turns)


def _blend_weights(factors: npt.NDArray[np.float32], order: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """The weights a, b, c of every turn and clip: (6, B, 3)."""
    clips = np.arange(len(factors))
    weights = np.tile(np.array([1, 0, 0], dtype=np.float32), (2 * HUE_TURN, len(factors), 1))
    brightness, contrast, saturation = _turns(order).T
    weights[brightness, clips, 0] = factors[:, 0]
    weights[contrast, clips, 0] = factors[:, 1]
    weights[contrast, clips, 2] = 1 - factors[:, 1]
    weights[saturation, clips, 0] = factors[:, 2]
    weights[saturation, clips, 1] = 1 - factors[:, 2]
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
