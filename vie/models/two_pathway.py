from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from vie.errors import VieError
from vie.models.preact import PreActResNet18, init_weights
from vie.models.registry import class_names, create_model, register_model
from vie.models.resnet3d import ResNet3D
from vie.models.single import Single
from vie.models.slow import Slow
from vie.models.slowfast import SlowFast
from vie.models.stream import TAPS, Stages, Stream, global_average

HEAD_SEED = 0
"""Of the hybrids' untrained heads, so that joining the same two networks gives the same hybrid."""


class TwoPathway(Stream):
    """A static and a dynamic network side by side on the same frames; their taps are joined, averaged over time.

    VIE's hybrids are not trained jointly: ``join_streams`` makes one of two finished networks, and only what is read
    out of it, or its fine-tuning, is new.
    """

    dynamic_class: ClassVar[type[Slow] | type[SlowFast] | type[ResNet3D]]
    alone: tuple[str, ...] = ()
    """Taps of the dynamic network that have no counterpart in the static one."""

    def __init__(self, embed_dim: int = 128, width: int = 64) -> None:
        static, dynamic = Single(embed_dim, width), self.dynamic_class(embed_dim, width)
        channels = static.trunk.num_features + _trunk(dynamic).num_features
        super().__init__(num_features=channels, embed_dim=embed_dim)
        for stream in (static, dynamic):
            stream.head = nn.Identity()  # type: ignore[assignment]  # the hybrid has one of its own
        self.static, self.dynamic = static, dynamic

    def forward_features(self, clip: Tensor) -> dict[str, Tensor]:
        static, dynamic = self.static.forward_features(clip), self.dynamic.forward_features(clip)
        joined = {
            tap: torch.cat([part[tap].mean(dim=2, keepdim=True) for part in (static, dynamic)], dim=1) for tap in TAPS
        }
        return joined | {tap: dynamic[tap] for tap in self.alone}

    def stages(self) -> Stages:
        both = zip(self.static.stages(), self.dynamic.stages(), strict=True)
        return [
            (tap, [*(f"static.{place}" for place in static), *(f"dynamic.{place}" for place in dynamic)])
            for (tap, static), (_, dynamic) in both
        ]

    def pool(self, taps: dict[str, Tensor]) -> Tensor:
        return torch.cat([global_average(taps[tap]) for tap in ("conv5", *self.alone)], dim=1)


@register_model("vie_two_pathway_s_r18")
class TwoPathwayS(TwoPathway):
    """VIE-TwoPathway-S: VIE-Single and VIE-Slow."""

    sampling = Slow.sampling
    dynamic_class = Slow


@register_model("vie_two_pathway_sf_r18")
class TwoPathwaySF(TwoPathway):
    """VIE-TwoPathway-SF: VIE-Single and VIE-Slowfast, of which the slow pathway is read out.

    ``fast`` joins the last activation of the fast pathway to the pooled feature, as the tap ``fast5``; VIE's hybrid
    sees it through the lateral connections alone.
    """

    sampling = SlowFast.sampling
    dynamic_class = SlowFast

    def __init__(self, embed_dim: int = 128, width: int = 64, fast: bool = False) -> None:
        super().__init__(embed_dim, width)
        self.alone = ("fast5",) if fast else ()
        if fast:
            self.num_features = self.static.num_features + self.dynamic.num_features
            self.head = nn.Linear(self.num_features, embed_dim)
            init_weights(self.head)


@register_model("vie_two_pathway_3d_r18")
class TwoPathway3D(TwoPathway):
    """VIE-Single and VIE-3DResNet: not a hybrid of the paper, but the cheapest for small corpora."""

    sampling = ResNet3D.sampling
    dynamic_class = ResNet3D


def join_streams(static: Stream, dynamic: Stream, fast: bool = False) -> Stream:
    """The hybrid of two finished networks; its head, and so its embedding, is new, untrained and always the same.

    Args:
        static: A ``vie_single_r18``.
        dynamic: A ``vie_slow_r18``, ``vie_slowfast_r18`` or ``vie_resnet3d_r18`` of the same width.
        fast: Of a ``vie_slowfast_r18``, whether the pooled feature holds the fast pathway's channels too.

    Raises:
        VieError: The two are no such pair, or the dynamic one has no fast pathway.
    """
    names = class_names()
    hybrids: dict[type[Stream], str] = {
        kind.dynamic_class: name for kind, name in names.items() if issubclass(kind, TwoPathway)
    }
    name = hybrids.get(type(dynamic))
    if type(static) is not Single or name is None or _trunk(static).width != _trunk(dynamic).width:
        raise VieError(
            f"{static.model_name} {static.arguments} and {dynamic.model_name} {dynamic.arguments} make no hybrid: "
            f"give a {names[Single]}, and one of {', '.join(names[kind] for kind in hybrids)} of the same width"
        )
    arguments: dict[str, Any] = {"embed_dim": dynamic.embed_dim, "width": _trunk(static).width}
    if fast and not isinstance(dynamic, SlowFast):
        raise VieError(f"{dynamic.model_name} has no fast pathway: leave fast out, or give a {names[SlowFast]}")
    if fast:
        arguments["fast"] = True
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(HEAD_SEED)
        hybrid = create_model(name, **arguments)
    for part, finished in (("static", static), ("dynamic", dynamic)):
        weights = {at: value for at, value in finished.state_dict().items() if not at.startswith("head.")}
        hybrid.get_submodule(part).load_state_dict(weights)
    return hybrid


def _trunk(stream: Stream) -> PreActResNet18:
    """The network that a static or dynamic stream is read out of."""
    return cast(PreActResNet18, stream.slow if isinstance(stream, SlowFast) else stream.trunk)
