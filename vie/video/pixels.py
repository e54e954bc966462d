"""From uint8 frames to the normalised clips that the networks take, in batches and on any device."""

import functools

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from vie.video.clips import Sampling

Channels = tuple[float, float, float]
"""One number for each of red, green and blue."""

MEAN: Channels = (0.485, 0.456, 0.406)
STD: Channels = (0.229, 0.224, 0.225)
"""ImageNet's channel statistics, for pixels in [0, 1] (VIE's input)."""

Boxes = npt.NDArray[np.float32]
"""(B, 4) top, left, height and width of a crop, in pixels of the source picture."""


def crop_boxes(
    height: npt.NDArray[np.int64],
    width: npt.NDArray[np.int64],
    short_side: npt.NDArray[np.int64],
    size: int,
    across: npt.NDArray[np.float64],
) -> Boxes:
    """Boxes that equal "resize to a short side, then crop a square at whole pixels".

    Args:
        height: (B,) of the source pictures.
        width: (B,) of the source pictures.
        short_side: (B,) side to resize to, at least ``size``.
        size: Side of the square.
        across: (B, 2) in [0, 1): where the square lies between top and bottom, and between left and right.
    """
    source = np.stack([height, width], axis=1).astype(np.float64)
    resized = np.floor(source * (short_side / source.min(axis=1))[:, None] + 0.5)
    corner = np.floor(across * (resized - size + 1))
    scale = source / resized
    return np.concatenate([corner * scale, size * scale], axis=1).astype(np.float32)


def centre_boxes(height: npt.NDArray[np.int64], width: npt.NDArray[np.int64], sampling: Sampling) -> Boxes:
    """The test crop: resized to the sampling's short side, then the square of its size in the middle."""
    short_side = np.full(len(height), sampling.resized)
    return crop_boxes(height, width, short_side, sampling.size, np.full((len(height), 2), 0.5 - 1e-9))


def crop_resize(frames: Tensor, boxes: Tensor, size: int, flip: Tensor | None = None) -> Tensor:
    """Cuts a box out of every clip and resizes it bilinearly, the same for all its frames.

    Args:
        frames: (B, T, H, W, 3) uint8.
        boxes: (B, 4) float, as ``Boxes``.
        size: Side of the result.
        flip: (B,) bool: mirror left and right; None for none.

    Returns:
        (B, 3, T, size, size) float32 in [0, 1].
    """
    return sample(frames, sampling_grid(boxes, frames.shape[2], frames.shape[3], size, flip))


def sampling_grid(boxes: Tensor, height: int, width: int, size: int, flip: Tensor | None = None) -> Tensor:
    """Where ``sample`` reads the pixels of every crop.

    Args:
        boxes: (B, 4) float, as ``Boxes``.
        height: Of the frames.
        width: Of the frames.
        size: Side of the result.
        flip: (B,) bool: mirror left and right; None for none.

    Returns:
        (B, size, size, 2) as ``torch.nn.functional.grid_sample`` has it: x and y from -1 to 1 across the frame.
    """
    steps = (torch.arange(size, device=boxes.device) + 0.5) / size
    along_x = steps.expand(len(boxes), size) if flip is None else torch.where(flip[:, None], 1 - steps, steps)
    y = (boxes[:, 0:1] + steps * boxes[:, 2:3]) * (2 / height) - 1
    x = (boxes[:, 1:2] + along_x * boxes[:, 3:4]) * (2 / width) - 1
    return torch.stack([x[:, None, :].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size)], dim=-1)


def sample(frames: Tensor, grid: Tensor) -> Tensor:
    """Bilinear pixels of frames (B, T, H, W, 3) uint8 at a grid (B, h, w, 2): (B, 3, T, h, w) float32 in [0, 1]."""
    pixels = frames.permute(0, 1, 4, 2, 3).flatten(1, 2).float().div_(255)
    sampled = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return sampled.unflatten(1, (frames.shape[1], 3)).transpose(1, 2)


def shrink(frames: Tensor, short_side: int) -> Tensor:
    """Resizes frames with antialiasing, as a corpus is prepared: (B, T, H, W, 3) uint8 to (B, T, H', W', 3) uint8."""
    height, width = frames.shape[2:4]
    scale = short_side / min(height, width)
    resized = [round(height * scale), round(width * scale)]
    images = frames.flatten(0, 1).permute(0, 3, 1, 2).float()
    images = F.interpolate(images, resized, mode="bilinear", antialias=True)
    return images.round_().clamp_(0, 255).byte().permute(0, 2, 3, 1).unflatten(0, frames.shape[:2])


def normalise(clip: Tensor, mean: Channels = MEAN, std: Channels = STD) -> Tensor:
    """Subtracts the mean and divides by the standard deviation: (B, 3, T, H, W) in [0, 1] to the same shape."""
    return (clip - channels(mean, clip.device)) / channels(std, clip.device)


def channels(values: Channels, device: torch.device) -> Tensor:
    """Numbers of the channels as a tensor (3, 1, 1, 1) on a device."""
    # Of a graph that is being traced they are a constant, and what stands for it there must not be kept.
    return _made(values, device) if torch.compiler.is_compiling() else _kept(values, device)


def _made(values: Channels, device: torch.device) -> Tensor:
    return torch.tensor(values, device=device).view(-1, 1, 1, 1)


# Making it anew would wait for the device at every step.
_kept = functools.lru_cache(_made)
