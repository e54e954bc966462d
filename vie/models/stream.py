"""What every stream shares: taps, pooled features, and the embedding on the unit sphere."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vie.models.preact import init_weights
from vie.video.clips import Sampling
from vie.video.pixels import MEAN, STD, Channels

TAPS = ("conv1", "conv2", "conv3", "conv4", "conv5")


class Stream(nn.Module):
    """A video trunk with VIE's head: global average pool, one linear layer, unit length.

    Subclasses set ``sampling`` and write ``forward_features``.

    Attributes:
        sampling: The clip that the model wants.
        mean, std: Channel statistics that its pixels, in [0, 1], are normalised by; VIE's are ImageNet's.
        heads: Names of the modules behind the trunk: those that weights of another stream need not bring.
        num_features: Channels of the pooled feature.
        embed_dim: Dimensions of the embedding.
        arguments: What ``create_model`` was called with; enough to build the same network again.
    """

    sampling: Sampling
    mean: Channels = MEAN
    std: Channels = STD
    heads: tuple[str, ...] = ("head",)

    def __init__(self, num_features: int, embed_dim: int) -> None:
        super().__init__()
        self.num_features = num_features
        self.embed_dim = embed_dim
        self.head = nn.Linear(num_features, embed_dim)
        init_weights(self.head)
        self.model_name = ""
        self.arguments: dict[str, object] = {}

    def forward_features(self, clip: Tensor) -> dict[str, Tensor]:
        """Activations of the trunk.

        Args:
            clip: (B, 3, T, H, W) float, normalised by ``mean`` and ``std``.

        Returns:
            The taps conv1 to conv5 by name, each (B, C, T', H', W'); VIE's read-outs sit on these.
        """
        raise NotImplementedError

    def pool(self, taps: dict[str, Tensor]) -> Tensor:
        """The last tap averaged over time and space, in float32 at least: (B, num_features)."""
        return global_average(taps["conv5"])

    def pooled(self, clip: Tensor) -> Tensor:
        """The pooled feature (B, num_features) of a normalised clip (B, 3, T, H, W)."""
        return self.pool(self.forward_features(clip))

    def embed(self, pooled: Tensor) -> Tensor:
        """Projects pooled features (B, num_features) to unit vectors (B, embed_dim) in float32."""
        projected = self.head(pooled.to(self.head.weight.dtype))
        with torch.autocast(projected.device.type, enabled=False):
            return F.normalize(projected.float(), dim=1)

    def forward(self, clip: Tensor) -> Tensor:
        """Embeds a normalised clip (B, 3, T, H, W) as unit vectors (B, embed_dim)."""
        return self.embed(self.pooled(clip))


def global_average(tap: Tensor) -> Tensor:
    """The mean over time and space (B, C, T, H, W) -> (B, C), in float32 at least."""
    return tap.mean(dim=(2, 3, 4), dtype=torch.promote_types(tap.dtype, torch.float32))
