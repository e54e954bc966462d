from torch import Tensor

from vie.models.preact import Plan, PreActResNet18
from vie.models.registry import register_model
from vie.models.stream import TAPS, Stream
from vie.video.clips import Sampling


@register_model("vie_resnet3d_r18")
class ResNet3D(Stream):
    """VIE-3DResNet: a 3-D ResNet-18 on 16 consecutive frames, the dynamic stream; strides act on time too."""

    sampling = Sampling(frames=16, stride=1, fps=25.0, size=112)

    def __init__(self, embed_dim: int = 128, width: int = 64) -> None:
        super().__init__(num_features=8 * width, embed_dim=embed_dim)
        self.trunk = PreActResNet18(Plan(dims=3), width)

    def forward_features(self, clip: Tensor) -> dict[str, Tensor]:
        return dict(zip(TAPS, self.trunk(clip), strict=True))
