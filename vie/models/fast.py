from torch import Tensor

from vie.models.preact import Plan, PreActResNet18
from vie.models.registry import register_model
from vie.models.stream import TAPS, Stream
from vie.video.clips import Sampling

FAST = Plan(dims=3, stem=(5, 7, 7), second=(1, 3, 3), strides_time=False)
"""The fast pathway: time is kept, and mixed in every block."""


def fast_width(width: int) -> int:
    """Channels of the fast pathway's first stage, an eighth of the slow one's (beta = 1/8)."""
    return max(1, width // 8)


@register_model("vie_fast_r18")
class Fast(Stream):
    """The fast pathway of SlowFast alone, on 32 frames over two and a half seconds; exploratory in VIE's release.

    ``width`` is that of the slow pathway that it would stand beside; its own channels are an eighth of it.
    """

    sampling = Sampling(frames=32, stride=2, fps=25.0, size=224)

    def __init__(self, embed_dim: int = 128, width: int = 64) -> None:
        super().__init__(num_features=8 * fast_width(width), embed_dim=embed_dim)
        self.trunk = PreActResNet18(FAST, fast_width(width))

    def forward_features(self, clip: Tensor) -> dict[str, Tensor]:
        return dict(zip(TAPS, self.trunk(clip), strict=True))
