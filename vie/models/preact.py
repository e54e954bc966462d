"""The pre-activation residual network that every VIE stream is made of, in two or three dimensions.

He et al., "Identity Mappings in Deep Residual Networks" (ECCV 2016), as VIE uses it (CVPR 2020, released code): no
batch norm after the stem; the first block of every stage projects its shortcut by a 1x1 convolution taken after the
block's first batch norm and ReLU, without batch norm of its own; a last batch norm and ReLU before pooling.
"""

import math
from collections.abc import Iterator
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

BATCH_NORM_MOMENTUM = 0.003
"""VIE's decay of 0.997 in PyTorch's terms."""


def conv(dims: int, inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Module:
    """A convolution over ``dims`` axes without bias, padded symmetrically."""
    layer = nn.Conv2d if dims == 2 else nn.Conv3d
    return layer(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


def batch_norm(dims: int, channels: int) -> nn.Module:
    """Batch norm with VIE's constants."""
    layer = nn.BatchNorm2d if dims == 2 else nn.BatchNorm3d
    return layer(channels, eps=1e-5, momentum=BATCH_NORM_MOMENTUM)


class PreActBlock(nn.Module):
    """BN-ReLU-conv-BN-ReLU-conv, added to its input or to a projection of it."""

    def __init__(self, dims: int, inputs: int, outputs: int, stride: int, project: bool) -> None:
        super().__init__()
        self.norm1 = batch_norm(dims, inputs)
        self.conv1 = conv(dims, inputs, outputs, 3, stride)
        self.norm2 = batch_norm(dims, outputs)
        self.conv2 = conv(dims, outputs, outputs, 3)
        self.shortcut = conv(dims, inputs, outputs, 1, stride) if project else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the block's output and its activated input (where read-outs tap the network)."""
        activated = F.relu(self.norm1(x))
        residual = self.conv2(F.relu(self.norm2(self.conv1(activated))))
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        return residual + shortcut, activated


class PreActResNet18(nn.Module):
    """Stem 7x7 stride 2, max-pool 3 stride 2, four stages of two blocks of ``width`` x 1, 2, 4, 8 channels.

    In three dimensions every kernel and stride acts on time too.
    """

    def __init__(self, dims: int, width: int = 64) -> None:
        super().__init__()
        self.num_features = 8 * width
        self.stem = conv(dims, 3, width, 7, stride=2)
        pool = nn.MaxPool2d if dims == 2 else nn.MaxPool3d
        self.pool = pool(3, stride=2, padding=1)
        self.stages = nn.ModuleList()
        inputs = width
        for stage in range(4):
            outputs = width * 2**stage
            first = PreActBlock(dims, inputs, outputs, stride=2 if stage else 1, project=True)
            second = PreActBlock(dims, outputs, outputs, stride=1, project=False)
            self.stages.append(nn.ModuleList([first, second]))
            inputs = outputs
        self.norm = batch_norm(dims, inputs)
        self.apply(init_weights)

    def forward(self, x: Tensor) -> Iterator[Tensor]:
        """Yields the taps conv1 to conv5: the activated inputs of stages 1 to 4, and the last activation."""
        x = self.pool(self.stem(x))
        for blocks in self.stages:
            first, second = cast(nn.ModuleList, blocks)
            x, activated = first(x)
            yield activated
            x, _ = second(x)
        yield F.relu(self.norm(x))


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
