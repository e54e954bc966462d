"""The pre-activation residual network that every VIE stream is made of, in two or three dimensions.

He et al., "Identity Mappings in Deep Residual Networks" (ECCV 2016), as VIE uses it (CVPR 2020, released code): no
batch norm after the stem; the first block of every stage projects its shortcut by a 1x1 convolution taken after the
block's first batch norm and ReLU, without batch norm of its own; a last batch norm and ReLU before pooling.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from vie.models.pool import MaxPoolClip
from vie.models.stem import StemConv2d, StemConv3d

BATCH_NORM_MOMENTUM = 0.003
"""VIE's decay of 0.997 in PyTorch's terms."""


Size = int | tuple[int, ...]
"""One number for all axes, or one for each: (time, height, width) in three dimensions."""


@dataclass(frozen=True)
class Plan:
    """Kernels of a network of four stages.

    Attributes:
        dims: 2 for pictures, 3 for clips.
        stem: Kernel of the first convolution.
        first: Kernel of the first convolution of every block, for each stage.
        second: Kernel of the second convolution of every block.
        strides_time: Whether the stem, the pool and the stages halve time where they halve height and width.
    """

    dims: int
    stem: Size = 7
    first: tuple[Size, Size, Size, Size] = (3, 3, 3, 3)
    second: Size = 3
    strides_time: bool = True

    def over_space(self, size: int, over_time: int = 1) -> Size:
        """A size that acts on time too only where the plan's strides do."""
        return size if self.strides_time else (over_time, size, size)


def conv(
    dims: int,
    inputs: int,
    outputs: int,
    kernel: Size,
    stride: Size = 1,
    layers: tuple[type[nn.Conv2d], type[nn.Conv3d]] = (nn.Conv2d, nn.Conv3d),
) -> nn.Module:
    """A convolution over ``dims`` axes without bias, padded symmetrically."""
    sides = kernel if isinstance(kernel, tuple) else (kernel,) * dims
    layer = layers[dims - 2]
    return layer(inputs, outputs, kernel, stride, padding=tuple(side // 2 for side in sides), bias=False)  # type: ignore[arg-type]


def batch_norm(dims: int, channels: int) -> nn.Module:
    """Batch norm with VIE's constants."""
    layer = nn.BatchNorm2d if dims == 2 else nn.BatchNorm3d
    return layer(channels, eps=1e-5, momentum=BATCH_NORM_MOMENTUM)


class PreActBlock(nn.Module):
    """BN-ReLU-conv-BN-ReLU-conv, added to its input or to a projection of it."""

    def __init__(self, plan: Plan, stage: int, inputs: int, outputs: int, first: bool) -> None:
        super().__init__()
        stride = plan.over_space(2) if first and stage else 1
        self.norm1 = batch_norm(plan.dims, inputs)
        self.conv1 = conv(plan.dims, inputs, outputs, plan.first[stage], stride)
        self.norm2 = batch_norm(plan.dims, outputs)
        self.conv2 = conv(plan.dims, outputs, outputs, plan.second)
        self.shortcut = conv(plan.dims, inputs, outputs, 1, stride) if first else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the block's output and its activated input (where read-outs tap the network)."""
        activated = F.relu(self.norm1(x))
        residual = self.conv2(F.relu(self.norm2(self.conv1(activated))))
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        return residual + shortcut, activated


class PreActResNet18(nn.Module):
    """Stem of stride 2, max-pool 3 stride 2, four stages of two blocks of ``width`` x 1, 2, 4, 8 channels.

    Attributes:
        width: Channels of the stem and the first stage.
        num_features: Channels of the last activation.
    """

    def __init__(self, plan: Plan, width: int = 64, joined: Sequence[int] = (0, 0, 0, 0, 0)) -> None:
        """Builds the network.

        Args:
            plan: Its kernels.
            width: Channels of the stem and the first stage.
            joined: Channels that the caller joins to the input of each stage and of the end.
        """
        super().__init__()
        dims = plan.dims
        self.width = width
        self.stem = conv(dims, 3, width, plan.stem, plan.over_space(2), (StemConv2d, StemConv3d))
        self.pool = nn.MaxPool2d(3, 2, 1) if dims == 2 else MaxPoolClip(plan.strides_time)
        self.stages = nn.ModuleList()
        inputs = width
        for stage in range(4):
            outputs = width * 2**stage
            first = PreActBlock(plan, stage, inputs + joined[stage], outputs, first=True)
            second = PreActBlock(plan, stage, outputs, outputs, first=False)
            self.stages.append(nn.ModuleList([first, second]))
            inputs = outputs
        self.num_features = inputs + joined[4]
        self.norm = batch_norm(dims, self.num_features)
        self.apply(init_weights)

    def begin(self, x: Tensor) -> Tensor:
        """Stem and pool."""
        pooled: Tensor = self.pool(self.stem(x))
        return pooled

    def stage(self, number: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """A stage's output, and its activated input."""
        first, second = cast(nn.ModuleList, self.stages[number])
        x, activated = first(x)
        x, _ = second(x)
        return x, activated

    def end(self, x: Tensor) -> Tensor:
        """The last activation."""
        return F.relu(self.norm(x))

    def places(self) -> list[list[str]]:
        """Names of the modules that each of the taps conv1 to conv5 needs beside those of the taps before it."""
        # The norm that activates a tap is the first one of the stage behind it.
        ends = [f"stages.{number}.0.norm1" for number in range(4)]
        return [["stem", ends[0]], *([f"stages.{at}", ends[at + 1]] for at in range(3)), ["stages.3", "norm"]]

    def forward(self, x: Tensor) -> Iterator[Tensor]:
        """Yields the taps conv1 to conv5: the activated inputs of stages 1 to 4, and the last activation."""
        x = self.begin(x)
        for number in range(4):
            x, activated = self.stage(number, x)
            yield activated
        yield self.end(x)


def init_weights(module: nn.Module) -> None:
    """VIE's initialisation: convolutions variance-scaling (1.0, fan-in, truncated normal); linear Glorot uniform."""
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        fan_in = module.weight[0].numel()
        # A normal cut at two standard deviations keeps 0.8796 of its spread.
        std = math.sqrt(1.0 / fan_in) / 0.87962566103423978
        nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
    elif isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
