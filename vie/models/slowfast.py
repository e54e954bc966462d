import torch
from torch import Tensor, nn

from vie.models.fast import FAST, fast_width
from vie.models.preact import PreActResNet18, conv, init_weights
from vie.models.registry import register_model
from vie.models.slow import SLOW
from vie.models.stream import Stages, Stream, global_average, side_by_side
from vie.video.clips import Sampling

ALPHA = 4
"""Frames that the fast pathway sees for each one of the slow pathway."""


@register_model("vie_slowfast_r18")
class SlowFast(Stream):
    """VIE-Slowfast: two pathways at two frame rates; the fast one feeds the slow one after the pool and every stage.

    Feichtenhofer et al., "SlowFast Networks for Video Recognition" (ICCV 2019), with VIE's pre-activation ResNet-18.
    The taps conv1 to conv5 are those of the slow pathway with what has been joined to it; ``fast5`` is the last
    activation of the fast one. The pooled feature holds both.
    """

    sampling = Sampling(frames=16, stride=4, fps=25.0, size=224)

    def __init__(self, embed_dim: int = 128, width: int = 64) -> None:
        narrow = fast_width(width)
        # The fast pathway's channels where it is joined: behind the pool and behind each of the four stages.
        channels = (narrow, narrow, 2 * narrow, 4 * narrow, 8 * narrow)
        joined = [2 * number for number in channels]
        super().__init__(num_features=8 * width + joined[-1] + 8 * narrow, embed_dim=embed_dim)
        self.slow = PreActResNet18(SLOW, width, joined)
        self.fast = PreActResNet18(FAST, narrow)
        self.laterals = nn.ModuleList(conv(3, number, 2 * number, (5, 1, 1), (ALPHA, 1, 1)) for number in channels)
        self.laterals.apply(init_weights)

    def forward_features(self, clip: Tensor) -> dict[str, Tensor]:
        slow, fast = self.slow.begin(clip[:, :, ::ALPHA]), self.fast.begin(clip)
        taps: dict[str, Tensor] = {}
        for number in range(4):
            slow, taps[f"conv{number + 1}"] = self.slow.stage(number, self._join(number, slow, fast))
            fast, _ = self.fast.stage(number, fast)
        taps["conv5"] = self.slow.end(self._join(4, slow, fast))
        taps["fast5"] = self.fast.end(fast)
        return taps

    def stages(self) -> Stages:
        laterals = [[str(number)] for number in range(5)]
        return side_by_side({"slow": self.slow.places(), "fast": self.fast.places(), "laterals": laterals})

    def pool(self, taps: dict[str, Tensor]) -> Tensor:
        return torch.cat([global_average(taps["conv5"]), global_average(taps["fast5"])], dim=1)

    def _join(self, number: int, slow: Tensor, fast: Tensor) -> Tensor:
        return torch.cat([slow, self.laterals[number](fast)], dim=1)
