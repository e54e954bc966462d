from torch import Tensor

from vie.models.preact import Plan, PreActResNet18
from vie.models.registry import register_model
from vie.models.stream import TAPS, Stream
from vie.video.clips import Sampling

SLOW = Plan(dims=3, stem=(1, 7, 7), first=((1, 3, 3), (1, 3, 3), 3, 3), second=(1, 3, 3), strides_time=False)
"""The slow pathway: time is kept, and mixed in the last two stages only."""


@register_model("vie_slow_r18")
class Slow(Stream):
    """VIE-Slow: the slow pathway of SlowFast alone, on 4 frames over two and a half seconds.

    Feichtenhofer et al., "SlowFast Networks for Video Recognition" (ICCV 2019), with VIE's pre-activation ResNet-18.
    """

    sampling = Sampling(frames=4, stride=16, fps=25.0, size=224)

    def __init__(self, embed_dim: int = 128, width: int = 64) -> None:
        super().__init__(num_features=8 * width, embed_dim=embed_dim)
        self.trunk = PreActResNet18(SLOW, width)

    def forward_features(self, clip: Tensor) -> dict[str, Tensor]:
        return dict(zip(TAPS, self.trunk(clip), strict=True))
