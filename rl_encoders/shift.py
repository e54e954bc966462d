"""Random shifts with repeated borders: the augmentation of agents that learn from pixels.

Kostrikov, Yarats, Fergus, Image Augmentation Is All You Need, ICLR 2021 (DrQ); Yarats et al., DrQ-v2, ICLR 2022.
"""

import torch
from torch import Tensor


def draw_shifts(count: int, most: int, device: torch.device | str = "cpu") -> Tensor:
    """Pixels down and right, from -most to most, for each of some observations: (count, 2)."""
    return torch.randint(-most, most + 1, (count, 2), device=device)


def shift(frames: Tensor, by: Tensor) -> Tensor:
    """Shifts pictures, all of an observation alike.

    Args:
        frames: (B, ..., H, W, 3).
        by: (B, 2), from ``draw_shifts``.

    Returns:
        As ``frames``; what comes in from outside is the picture's border.
    """
    together = frames.reshape(len(frames), -1, *frames.shape[-3:])
    height, width = frames.shape[-3:-1]
    at = [torch.arange(size, device=frames.device) for size in together.shape[:2]]
    rows = (torch.arange(height, device=frames.device) + by[:, :1]).clamp(0, height - 1)
    columns = (torch.arange(width, device=frames.device) + by[:, 1:]).clamp(0, width - 1)
    moved = together[at[0][:, None, None, None], at[1][:, None, None], rows[:, None, :, None], columns[:, None, None]]
    return moved.reshape(frames.shape)
