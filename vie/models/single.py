from collections.abc import Callable, Iterable, Sequence

from torch import Tensor

from vie.models.preact import Plan, PreActResNet18
from vie.models.registry import register_model
from vie.models.stream import TAPS, Stream
from vie.video.clips import Sampling


@register_model("vie_single_r18")
class Single(Stream):
    """VIE-Single: a 2-D ResNet-18 on one random frame of the video, the static stream.

    Given T frames, it treats them alone and averages their pooled features.
    """

    sampling = Sampling(frames=1, stride=1, fps=25.0, size=224)

    def __init__(self, embed_dim: int = 128, width: int = 64) -> None:
        super().__init__(num_features=8 * width, embed_dim=embed_dim)
        self.trunk = PreActResNet18(Plan(dims=2), width)

    def forward_features(self, clip: Tensor) -> dict[str, Tensor]:
        return frame_taps(self.trunk, clip)


def frame_taps(
    trunk: Callable[[Tensor], Iterable[Tensor]], clip: Tensor, names: Sequence[str] = TAPS
) -> dict[str, Tensor]:
    """Taps of a 2-D network on every frame of a clip alone."""
    frames = clip.shape[2]
    images = clip.transpose(1, 2).flatten(0, 1)
    taps = zip(names, trunk(images), strict=True)
    return {name: tap.unflatten(0, (-1, frames)).transpose(1, 2) for name, tap in taps}
