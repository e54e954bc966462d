"""The camera's own pixels out of what hosts make of them: floats, channels in front, frames stacked as channels."""

import torch
from torch import Tensor

from vie import VieError


def frames(floats: Tensor, name: str, scaled: bool, channels_first: bool, cure: str) -> Tensor:
    """Frames (B, H, W, 3), or (B, k, H, W, 3) where a picture has 3k channels: uint8, exactly as the camera gave them.

    Args:
        floats: (B, 3k, H, W), or (B, H, W, 3k) where channels are not in front.
        name: Of the camera, for errors.
        scaled: Whether the host has divided by 255.
        channels_first: Whether the host has moved the channels to the front.
        cure: What to change if the host does otherwise.

    Raises:
        VieError: The numbers are not what such a host makes of pixels.
    """
    pixels = floats * 255 if scaled else floats
    whole = pixels.round()
    # One wait for the device, where there would be one for each question.
    if not bool(((whole >= 0) & (whole <= 255) & ((pixels - whole).abs() < 1e-2)).all()):
        wanted = "pixels divided by 255" if scaled else "whole numbers from 0 to 255"
        raise VieError(f"{name or 'the observation'} does not hold {wanted}: {cure}")
    return arranged(whole.to(torch.uint8), channels_first)


def arranged(pixels: Tensor, channels_first: bool) -> Tensor:
    """Pictures (B, 3k, H, W), or (B, H, W, 3k), as frames (B, H, W, 3), or (B, k, H, W, 3) where k is above 1."""
    if channels_first:
        pixels = pixels.movedim(1, -1)
    return pixels if pixels.shape[-1] == 3 else pixels.unflatten(-1, (-1, 3)).movedim(-2, 1)
