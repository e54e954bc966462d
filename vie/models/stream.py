"""What every stream shares: taps, pooled features, and the embedding on the unit sphere."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vie.models.preact import PreActResNet18, init_weights
from vie.video.clips import Sampling
from vie.video.pixels import MEAN, STD, Channels
from vie.video.resize import VIE_RESIZE, Resize

TAPS = ("conv1", "conv2", "conv3", "conv4", "conv5")

Stages = list[tuple[str, list[str]]]
"""Names of stages from input to output, and of the tensors or modules in them."""


class Stream(nn.Module):
    """A video trunk with VIE's head: global average pool, one linear layer, unit length.

    Subclasses set ``sampling`` and write ``forward_features``.

    Attributes:
        sampling: The clip that the model wants.
        mean, std: Channel statistics that its pixels, in [0, 1], are normalised by; VIE's are ImageNet's.
        resize: How its pictures become squares.
        origin: Where its weights were from when it was built; "random weights" where from nowhere.
        licence: Of those weights, as far as it is known; empty where it is not.
        heads: Names of the modules behind the trunk: those that weights of another stream need not bring.
        num_features: Channels of the pooled feature.
        embed_dim: Dimensions of the embedding.
        rebuilt: Arguments in place of those that fetched its weights, to build the same network for others.
        arguments: What ``create_model`` was called with, and ``rebuilt``; enough to build the same network again.
    """

    sampling: Sampling
    mean: Channels = MEAN
    std: Channels = STD
    resize: Resize = VIE_RESIZE
    origin: str = "random weights"
    licence: str = ""
    heads: tuple[str, ...] = ("head",)

    def __init__(self, num_features: int, embed_dim: int) -> None:
        super().__init__()
        self.num_features = num_features
        self.embed_dim = embed_dim
        self.head = nn.Linear(num_features, embed_dim)
        init_weights(self.head)
        self.model_name = ""
        self.rebuilt: dict[str, object] = {}
        self.arguments: dict[str, object] = {}

    def forward_features(self, clip: Tensor) -> dict[str, Tensor]:
        """Activations of the trunk.

        Args:
            clip: (B, 3, T, H, W) float, normalised by ``mean`` and ``std``.

        Returns:
            The taps conv1 to conv5 by name, each (B, C, T', H', W'); VIE's read-outs sit on these.
        """
        raise NotImplementedError

    def stages(self) -> Stages:
        """What the trunk is made of, from its input to its output.

        Freezing stages from the first one on leaves those behind it as they are: nothing in a stage is needed by an
        earlier one. Of VIE's streams, the tap ``convK`` needs the stages conv1 to convK and no other.

        Returns:
            The name of every stage, and the names of its parameters and buffers, or of modules that hold them; what
            lies in several places is of the longest name.
        """
        trunk = getattr(self, "trunk", None)
        if isinstance(trunk, PreActResNet18):
            return side_by_side({"trunk": trunk.places()})
        return [("trunk", [""])]

    def pool(self, taps: dict[str, Tensor]) -> Tensor:
        """The last tap averaged over time and space, in float32 at least: (B, num_features)."""
        return global_average(taps["conv5"])

    def pooled(self, clip: Tensor) -> Tensor:
        """The pooled feature (B, num_features) of a normalised clip (B, 3, T, H, W)."""
        return self.pool(self.forward_features(clip))

    def embed(self, pooled: Tensor) -> Tensor:
        """Projects pooled features (B, num_features) to unit vectors (B, embed_dim) in float32 at least."""
        projected = self.head(pooled.to(self.head.weight.dtype))
        with torch.autocast(projected.device.type, enabled=False):
            return F.normalize(projected.to(torch.promote_types(projected.dtype, torch.float32)), dim=1)

    def forward(self, clip: Tensor) -> Tensor:
        """Embeds a normalised clip (B, 3, T, H, W) as unit vectors (B, embed_dim)."""
        return self.embed(self.pooled(clip))


def global_average(tap: Tensor) -> Tensor:
    """The mean over time and space (B, C, T, H, W) -> (B, C), in float32 at least."""
    return tap.mean(dim=(2, 3, 4), dtype=torch.promote_types(tap.dtype, torch.float32))


def side_by_side(networks: Mapping[str, Sequence[Sequence[str]]]) -> Stages:
    """The stages conv1 to conv5 of networks that are in step, by the name of each and the places of its five."""
    return [
        (tap, [f"{at}.{place}" for at, places in networks.items() for place in places[number]])
        for number, tap in enumerate(TAPS)
    ]
