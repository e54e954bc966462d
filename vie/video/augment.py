"""VIE's augmentation, drawn as a pure function of (seed, epoch, instance, view); ``vie.video.apply`` applies it.

One draw serves all frames of a clip. The recipe is VIE's "ColorJitter" (CVPR 2020, released code): a random short side,
a random crop, brightness, contrast, saturation and hue in random order, greyscale, horizontal flip.
"""

import itertools
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import numpy.typing as npt

from vie.errors import VieError
from vie.video.crops import corner_boxes, resized_boxes
from vie.video.pixels import Boxes, crop_boxes

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
