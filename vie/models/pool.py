"""The max-pooling that a network begins with, over one axis after another where that is faster."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MaxPoolClip(nn.MaxPool3d):
    """``nn.MaxPool3d`` of kernel 3, stride 2 and padding 1 over height and width, and over time too if asked.

    Compiled for a GPU it goes over one axis after another: PyTorch compiles a window of 27 into a reduction, and the
    backward of no clip's pooling at all. Where several numbers are the largest, they may share the gradient.
    """

    def __init__(self, over_time: bool) -> None:
        depth = 3 if over_time else 1
        super().__init__((depth, 3, 3), (1 + depth // 2, 2, 2), (depth // 2, 1, 1))
        self.over_time = over_time

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, C, T', H', W'), halved and rounded up."""
        if x.device.type == "cuda" and torch.compiler.is_compiling():
            return pool_by_axes(x, self.over_time)
        return super().forward(x)


def pool_by_axes(x: Tensor, over_time: bool) -> Tensor:
    """The largest of a cube as the largest of its squares' largest."""
    pictures = F.max_pool2d(x.transpose(1, 2).flatten(0, 1), 3, 2, 1)
    pooled = pictures.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)
    if not over_time:
        return pooled
    padded = F.pad(pooled, (0, 0, 0, 0, 1, 1), value=-torch.inf)
    count = (x.shape[2] + 1) // 2
    before, here, after = (padded[:, :, first : first + 2 * count - 1 : 2] for first in range(3))
    return torch.maximum(torch.maximum(before, here), after)
