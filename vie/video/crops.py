"""The crops of transfer training, as boxes in pixels of the source picture; each number of ``u`` is uniform in [0, 1).

See ``vie.video.pixels.crop_boxes`` for the crop of pretraining.
"""

import numpy as np
import numpy.typing as npt

from vie.video.pixels import Boxes

CORNER_SCALES = 2.0 ** -(np.arange(5) / 4)
"""Sides as shares of the short side: 1 to a half, in quarter octaves."""
CORNERS = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [0.5, 0.5]])
"""Where a square lies between top and bottom, and between left and right: the four corners and the centre."""
AREA = (0.2, 1.0)
ASPECT = (3 / 4, 4 / 3)


def corner_boxes(height: npt.NDArray[np.int64], width: npt.NDArray[np.int64], u: npt.NDArray[np.float64]) -> Boxes:
    """VIE's "sc" crop for fine-tuning: a square of one of five sizes in one of five places.

    Args:
        height: (B,) of the source pictures.
        width: (B,) of the source pictures.
        u: (B, 2): which size, which place.
    """
    source = np.stack([height, width], axis=1).astype(np.float64)
    side = np.floor(CORNER_SCALES[np.floor(u[:, 0] * len(CORNER_SCALES)).astype(int)] * source.min(axis=1))[:, None]
    corner = np.floor(CORNERS[np.floor(u[:, 1] * len(CORNERS)).astype(int)] * (source - side))
    return np.concatenate([corner, side, side], axis=1).astype(np.float32)


def resized_boxes(height: npt.NDArray[np.int64], width: npt.NDArray[np.int64], u: npt.NDArray[np.float64]) -> Boxes:
    """The random-resized crop of ImageNet training: a share of the area in [0.2, 1], an aspect in [3/4, 4/3].

    A box that would leave the picture is cut to it, so that one draw serves; torchvision draws up to ten times instead.

    Args:
        height: (B,) of the source pictures.
        width: (B,) of the source pictures.
        u: (B, 4): area, logarithm of the aspect, and where the box lies between top and bottom and left and right.
    """
    source = np.stack([height, width], axis=1).astype(np.float64)
    area = source.prod(axis=1) * (AREA[0] + u[:, 0] * (AREA[1] - AREA[0]))
    aspect = np.exp(np.log(ASPECT[0]) + u[:, 1] * (np.log(ASPECT[1]) - np.log(ASPECT[0])))
    side = np.stack([np.sqrt(area / aspect), np.sqrt(area * aspect)], axis=1).round().clip(1, source)
    corner = np.floor(u[:, 2:4] * (source - side + 1))
    return np.concatenate([corner, side], axis=1).astype(np.float32)
