from typing import ClassVar

import torch
from torch import Tensor, nn

from vie.errors import VieError
from vie.models.preact import PreActResNet18
from vie.models.registry import create_model, register_model
from vie.models.resnet3d import ResNet3D
from vie.models.single import Single
from vie.models.slow import Slow
from vie.models.slowfast import SlowFast
from vie.models.stream import TAPS, Stream


class TwoPathway(Stream):
    """A static and a dynamic network side by side on the same frames; their taps are joined, averaged over time.

    VIE's hybrids are not trained jointly: ``join_streams`` makes one of two finished networks, and only what is read
    out of it, or its fine-tuning, is new.
    """

    dynamic_class: ClassVar[type[Slow] | type[SlowFast] | type[ResNet3D]]

    def __init__(self, embed_dim: int = 128, width: int = 64) -> None:
        static, dynamic = Single(embed_dim, width), self.dynamic_class(embed_dim, width)
        channels = static.trunk.num_features + _trunk(dynamic).num_features
        super().__init__(num_features=channels, embed_dim=embed_dim)
        for stream in (static, dynamic):
            stream.head = nn.Identity()  # type: ignore[assignment]  # the hybrid has one of its own
        self.static, self.dynamic = static, dynamic

    def forward_features(self, clip: Tensor) -> dict[str, Tensor]:
        static, dynamic = self.static.forward_features(clip), self.dynamic.forward_features(clip)
        return {
            tap: torch.cat([part[tap].mean(dim=2, keepdim=True) for part in (static, dynamic)], dim=1) for tap in TAPS
        }


@register_model("vie_two_pathway_s_r18")
class TwoPathwayS(TwoPathway):
    """VIE-TwoPathway-S: VIE-Single and VIE-Slow."""

    sampling = Slow.sampling
    dynamic_class = Slow


@register_model("vie_two_pathway_sf_r18")
class TwoPathwaySF(TwoPathway):
    """VIE-TwoPathway-SF: VIE-Single and VIE-Slowfast, of which the slow pathway is read out."""

    sampling = SlowFast.sampling
    dynamic_class = SlowFast


@register_model("vie_two_pathway_3d_r18")
class TwoPathway3D(TwoPathway):
    """VIE-Single and VIE-3DResNet: not a hybrid of the paper, but the cheapest for small corpora."""

    sampling = ResNet3D.sampling
    dynamic_class = ResNet3D


def join_streams(static: Stream, dynamic: Stream) -> Stream:
    """The hybrid of two finished networks; its head, and so its embedding, is new and untrained.

    Args:
        static: A ``vie_single_r18``.
        dynamic: A ``vie_slow_r18``, ``vie_slowfast_r18`` or ``vie_resnet3d_r18`` of the same width.

    Raises:
        VieError: The two are no such pair.
    """
    hybrids = {
        "vie_slow_r18": "vie_two_pathway_s_r18",
        "vie_slowfast_r18": "vie_two_pathway_sf_r18",
        "vie_resnet3d_r18": "vie_two_pathway_3d_r18",
    }
    widths = [stream.arguments.get("width", 64) for stream in (static, dynamic)]
    if static.model_name != "vie_single_r18" or dynamic.model_name not in hybrids or widths[0] != widths[1]:
        raise VieError(
            f"{static.model_name} of width {widths[0]} and {dynamic.model_name} of width {widths[1]} make no hybrid: "
            f"give a vie_single_r18, and one of {', '.join(hybrids)} of the same width"
        )
    hybrid = create_model(hybrids[dynamic.model_name], embed_dim=dynamic.embed_dim, width=widths[0])
    for part, finished in (("static", static), ("dynamic", dynamic)):
        weights = {name: value for name, value in finished.state_dict().items() if not name.startswith("head.")}
        hybrid.get_submodule(part).load_state_dict(weights)
    return hybrid


def _trunk(stream: Slow | SlowFast | ResNet3D) -> PreActResNet18:
    return stream.slow if isinstance(stream, SlowFast) else stream.trunk
