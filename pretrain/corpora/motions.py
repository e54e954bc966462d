"""Eight ways to move, of which a single moment tells nothing.

All motions draw positions, sizes and angles from the same ranges, and what a motion leaves alone is frozen at a random
moment of another motion. No motion turns into another when the video is mirrored.
"""

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

MOTIONS = ("slide", "rise", "fall", "grow", "shrink", "rotate", "orbit", "bounce")

# All lengths are shares of half the frame, so a corpus looks alike at every size.
REACH = 0.5  # the centre of an object stays within this distance of the frame's, in x and in y
SWAY = (0.35, 0.6)  # length of a slide, rise, fall or bounce
ORBIT = (0.18, 0.3)  # radius of an orbit
LOG_SIZE = 0.4  # sizes lie within exp(-0.4) and exp(0.4)
ZOOM = (0.3, 0.55)  # change of the logarithm of the size over a video
ANGLE = math.radians(40)  # angles lie within 40 degrees either side
TURN = (math.radians(30), math.radians(55))  # turn over a video
TURNS = (0.75, 1.25)  # orbits and bounces in a video


def draw_path(motion: str, frames: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Draws one movement.

    Returns:
        (frames, 4): centre x and y as shares of half the frame (y downwards), logarithm of the size, angle in radians.
    """
    # Standing still looks like a moment of moving: the mixture of ranges is the same with and without motion.
    still_x, still_y, still_size, still_angle = (_ramp(reach, span, frames, rng) for reach, span in _RANGES)
    path = np.stack([np.full(frames, rng.choice(ramp)) for ramp in (still_x, still_y, still_size, still_angle)], axis=1)
    turns = rng.uniform(*TURNS) * np.arange(frames) / (frames - 1) + rng.uniform()
    sign = rng.choice([-1.0, 1.0])
    if motion == "slide":
        path[:, 0] = sign * _ramp(REACH, SWAY, frames, rng)
    elif motion in ("rise", "fall"):
        path[:, 1] = (-1 if motion == "rise" else 1) * _ramp(REACH, SWAY, frames, rng)
    elif motion in ("grow", "shrink"):
        path[:, 2] = (1 if motion == "grow" else -1) * _ramp(LOG_SIZE, ZOOM, frames, rng)
    elif motion == "rotate":
        path[:, 3] = sign * _ramp(ANGLE, TURN, frames, rng)
    elif motion == "orbit":
        radius = rng.uniform(*ORBIT)
        centre = rng.uniform(-(REACH - radius), REACH - radius, size=2)
        path[:, 0] = centre[0] + radius * np.cos(2 * np.pi * sign * turns)
        path[:, 1] = centre[1] + radius * np.sin(2 * np.pi * sign * turns)
    else:
        span = rng.uniform(*SWAY)
        middle = rng.uniform(-(REACH - span / 2), REACH - span / 2)
        path[:, 1] = middle + span * (2 * np.abs(turns % 1 - 0.5) - 0.5)
    return path.astype(np.float32)


def placement(paths: Tensor, side: float) -> Tensor:
    """Where a pixel of the frame lies in the object: shift, turn back, shrink.

    Args:
        paths: (N, 4), moments of ``draw_path``.
        side: Side of an object of middle size, as a share of half the frame; 2 would fill it.

    Returns:
        (N, 2, 3), for ``torch.nn.functional.affine_grid``.
    """
    x, y, log_size, angle = paths.unbind(-1)
    scale = 2 / (side * log_size.exp())
    cos, sin = scale * angle.cos(), scale * angle.sin()
    return torch.stack([cos, sin, -(cos * x + sin * y), -sin, cos, sin * x - cos * y], dim=-1).view(-1, 2, 3)


_RANGES = ((REACH, SWAY), (REACH, SWAY), (LOG_SIZE, ZOOM), (ANGLE, TURN))


def _ramp(reach: float, span: tuple[float, float], frames: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """A steady rise, anywhere within [-reach, reach]."""
    length = rng.uniform(*span)
    middle = rng.uniform(-(reach - length / 2), reach - length / 2)
    return middle + length * (np.arange(frames) / (frames - 1) - 0.5)
