"""PyTorchVideo's networks as streams; the package is imported when one is built.

Only its models are touched: other parts of the 2022 release do not import beside a current torchvision.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vie.errors import VieError
from vie.models.registry import register_model
from vie.models.slowfast import ALPHA
from vie.models.stream import TAPS, Stages, Stream, global_average, side_by_side
from vie.video.clips import Sampling

# PyTorchVideo's own (pytorchvideo.transforms.create_video_transform: video_mean and video_std).
MEAN = (0.45, 0.45, 0.45)
STD = (0.225, 0.225, 0.225)


def build(name: str) -> Any:
    """A network of PyTorchVideo by its name there, with random weights; ``VieError`` if the package is missing."""
    try:
        from pytorchvideo.models import hub
    except ImportError as error:
        raise VieError(f"pytorchvideo_{name} needs PyTorchVideo ({error}): pip install 'vie[pytorchvideo]'") from error
    return getattr(hub, name)(pretrained=False)


@register_model("pytorchvideo_slow_r50")
class SlowR50(Stream):
    """PyTorchVideo's Slow 8x8 ResNet-50: the slow pathway of SlowFast (ICCV 2019) alone."""

    sampling = Sampling(frames=8, stride=8, fps=30.0, size=224)
    mean, std = MEAN, STD

    def __init__(self, embed_dim: int = 128) -> None:
        trunk = build("slow_r50")
        super().__init__(num_features=trunk.blocks[-1].proj.in_features, embed_dim=embed_dim)
        trunk.blocks = trunk.blocks[: len(TAPS)]
        self.trunk = trunk

    def forward_features(self, clip: Tensor) -> dict[str, Tensor]:
        return block_taps(self.trunk.blocks, clip)

    def stages(self) -> Stages:
        return block_stages()


@register_model("pytorchvideo_slowfast_r50")
class SlowFastR50(Stream):
    """PyTorchVideo's SlowFast 8x8 ResNet-50 (Feichtenhofer et al., ICCV 2019).

    The taps conv1 to conv5 are those of the slow pathway with what the fast one feeds into it; ``fast5`` is the last
    activation of the fast one. The pooled feature holds both. The slow pathway sees every fourth frame, where the
    lateral connections have their centres.
    """

    sampling = Sampling(frames=32, stride=2, fps=30.0, size=224)
    mean, std = MEAN, STD

    def __init__(self, embed_dim: int = 128) -> None:
        trunk = build("slowfast_r50")
        super().__init__(num_features=trunk.blocks[-1].proj.in_features, embed_dim=embed_dim)
        trunk.blocks = trunk.blocks[: len(TAPS)]
        self.trunk = trunk

    def forward_features(self, clip: Tensor) -> dict[str, Tensor]:
        taps: dict[str, Tensor] = {}
        paths = [clip[:, :, ::ALPHA], clip]
        for name, block in zip(TAPS, self.trunk.blocks, strict=True):
            # A block may write into the list that it is given.
            paths = block(list(paths))
            taps[name] = paths[0]
        return {**taps, "fast5": paths[1]}

    def pool(self, taps: dict[str, Tensor]) -> Tensor:
        return torch.cat([global_average(taps["conv5"]), global_average(taps["fast5"])], dim=1)

    def stages(self) -> Stages:
        return block_stages()


class X3D(Stream):
    """An X3D of PyTorchVideo (Feichtenhofer, CVPR 2020), with the clip of its paper.

    Its own way from the last tap to the pooled feature is kept: a convolution, the mean over time and space, and a
    second convolution.
    """

    mean, std = MEAN, STD

    def __init__(self, builder: str, sampling: Sampling, /, embed_dim: int = 128) -> None:
        trunk = build(builder)
        end = trunk.blocks[-1]
        super().__init__(num_features=end.proj.in_features, embed_dim=embed_dim)
        # Its pool is as large as the maps of one clip size; the mean is the same there and takes every other size.
        end.pool.pool = nn.AdaptiveAvgPool3d(1)
        end.dropout = end.proj = end.activation = end.output_pool = None
        self.trunk = trunk
        self.sampling = sampling

    def forward_features(self, clip: Tensor) -> dict[str, Tensor]:
        return block_taps(self.trunk.blocks[: len(TAPS)], clip)

    def pool(self, taps: dict[str, Tensor]) -> Tensor:
        return global_average(self.trunk.blocks[-1](taps["conv5"]))

    def stages(self) -> Stages:
        *first, (last, places) = block_stages()
        return [*first, (last, [*places, "trunk.blocks.5"])]


def block_taps(blocks: nn.ModuleList, clip: Tensor) -> dict[str, Tensor]:
    """The output of each of five blocks: the stem with its pool, and four stages."""
    taps: dict[str, Tensor] = {}
    for name, block in zip(TAPS, blocks, strict=True):
        clip = taps[name] = block(clip)
    return taps


def block_stages() -> Stages:
    """Each of the five blocks as a stage; the first is the stem."""
    return side_by_side({"trunk.blocks": [[str(number)] for number in range(len(TAPS))]})


for size, sampling in {
    "xs": Sampling(frames=4, stride=12, fps=30.0, size=160),
    "s": Sampling(frames=13, stride=6, fps=30.0, size=160),
    "m": Sampling(frames=16, stride=5, fps=30.0, size=224),
    "l": Sampling(frames=16, stride=5, fps=30.0, size=312),
}.items():
    register_model(f"pytorchvideo_x3d_{size}")(partial(X3D, f"x3d_{size}", sampling))
