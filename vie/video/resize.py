"""How a test picture of any resolution becomes the square that a network takes."""

import functools
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vie.errors import VieError
from vie.video.clips import Sampling
from vie.video.pixels import centre_boxes, sample, sampling_grid, shrink

SHRINK_FROM = 1.25
"""Frames that exceed the model's short side by this factor are shrunk with antialiasing before they are cropped."""

MODES = ("vie", "crop", "squash")
INTERPOLATIONS = ("bilinear", "bicubic", "lanczos", "nearest")


@dataclass(frozen=True)
class Resize:
    """The way from a picture to a square of ``sampling.size``, which belongs to the weights as mean and std do.

    Attributes:
        mode: ``crop`` resizes the short side to ``sampling.resized`` and takes the middle; ``squash`` resizes the whole
            picture to a square of this side, which changes its proportions, and takes the middle; ``vie`` takes the
            same part as ``crop``, but shrinks only what is much larger, as a corpus is prepared, and then cuts and
            resizes at once, as training does.
        interpolation: ``bilinear``, ``bicubic``, ``lanczos`` or ``nearest``, with antialiasing (``vie``: bilinear).
    """

    mode: str = "vie"
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        for what, value, known in (
            ("mode", self.mode, MODES),
            ("interpolation", self.interpolation, INTERPOLATIONS if self.mode != "vie" else INTERPOLATIONS[:1]),
        ):
            if value not in known:
                raise VieError(f"pictures cannot be resized with {what}={value!r}: give one of {', '.join(known)}")

    def __call__(self, frames: Tensor, sampling: Sampling) -> Tensor:
        """Resizes and crops.

        Args:
            frames: (B, T, H, W, 3) uint8.
            sampling: The size of the square, and the short side before the crop.

        Returns:
            (B, 3, T, size, size) float32 in [0, 1].
        """
        return _as_trained(frames, sampling) if self.mode == "vie" else self._antialiased(frames, sampling)

    def _antialiased(self, frames: Tensor, sampling: Sampling) -> Tensor:
        batch, size = frames.shape[0], sampling.size
        sides = self._sides(frames.shape[2], frames.shape[3], sampling)
        images = frames.flatten(0, 1).permute(0, 3, 1, 2).float()
        if self.interpolation == "nearest":
            images = F.interpolate(images, sides, mode="nearest-exact")
        elif sides != list(images.shape[2:]):
            images = self._interpolated(images, sides)
        top, left = (round((side - size) / 2) for side in sides)
        images = images[:, :, top : top + size, left : left + size]
        # Whole levels, as the networks saw them in training: their pictures were resized as bytes.
        images = images.round().clamp(0, 255).div(255)
        return images.unflatten(0, (batch, -1)).transpose(1, 2)

    def _interpolated(self, images: Tensor, sides: list[int]) -> Tensor:
        try:
            return F.interpolate(images, sides, mode=self.interpolation, antialias=True)
        except ValueError as error:
            if self.interpolation != "lanczos":
                raise
            raise VieError(
                f"PyTorch {torch.__version__} cannot resize with lanczos, as these weights want it: install a newer "
                "one, or give interpolation='bicubic', which is not quite the same"
            ) from error

    def _sides(self, height: int, width: int, sampling: Sampling) -> list[int]:
        if self.mode == "squash":
            return [sampling.resized, sampling.resized]
        short = min(height, width)
        return [sampling.resized * side // short for side in (height, width)]


VIE_RESIZE = Resize()
"""That of VIE's own networks, and of all that have no weights of others."""


def _as_trained(frames: Tensor, sampling: Sampling) -> Tensor:
    if min(frames.shape[2:4]) > SHRINK_FROM * sampling.resized:
        frames = shrink(frames, sampling.resized)
    batch, _, height, width, _ = frames.shape
    return sample(frames, _grid(height, width, sampling, frames.device).expand(batch, -1, -1, -1))


def _grid(height: int, width: int, sampling: Sampling, device: torch.device) -> Tensor:
    # Of a graph that is being traced it is a constant, and what stands for it there must not be kept.
    if torch.compiler.is_compiling():
        return sampling_grid(_made_box(height, width, sampling, device), height, width, sampling.size)
    # A captured graph makes it in each replay: it would go on reading where a kept one was before it was given up.
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return sampling_grid(_kept_box(height, width, sampling, device), height, width, sampling.size)
    return _kept_grid(height, width, sampling, device)


def _made_box(height: int, width: int, sampling: Sampling, device: torch.device) -> Tensor:
    return torch.from_numpy(centre_boxes(np.array([height]), np.array([width]), sampling)).to(device)


# Nothing can be copied to the device while a CUDA graph is captured, and the graph goes on reading where the box was
# then, so none is ever given up.
_kept_box = functools.cache(_made_box)


@functools.lru_cache(maxsize=16)
def _kept_grid(height: int, width: int, sampling: Sampling, device: torch.device) -> Tensor:
    # Pictures of a camera have one size: nothing is to be made anew in every pass.
    return sampling_grid(_kept_box(height, width, sampling, device), height, width, sampling.size)
