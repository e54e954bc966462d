"""From a trunk's taps to one vector for each clip: what is kept of them, and what is learned on it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vie import Stream, VieError

Taps = dict[str, Tensor]


class Pool(nn.Module):
    """How clips become vectors, in two parts, as a cache holds what comes of the first.

    Attributes:
        output_dim: Length of the vectors.
    """

    output_dim: int

    def keep(self, stream: Stream, taps: Taps) -> Tensor:
        """What is needed of the taps of N clips, float (N, ...): without anything learned; the last map unless told."""
        return taps["conv5"]

    def forward(self, kept: Tensor) -> Tensor:
        """Vectors (N, output_dim)."""
        raise NotImplementedError


class Mean(Pool):
    """The stream's own pooled feature: of VIE's streams, the mean of the last map over time and space."""

    def __init__(self, stream: Stream, taps: Taps) -> None:
        super().__init__()
        self.output_dim = stream.num_features

    def keep(self, stream: Stream, taps: Taps) -> Tensor:
        return stream.pool(taps)

    def forward(self, kept: Tensor) -> Tensor:
        return kept


class ClassToken(Pool):
    """The class token of a ViT, averaged over time."""

    def __init__(self, stream: Stream, taps: Taps) -> None:
        super().__init__()
        if "cls" not in taps:
            raise VieError(f"pool=cls: {stream.model_name} has no class token: take another pool")
        self.output_dim = taps["cls"].shape[1]

    def keep(self, stream: Stream, taps: Taps) -> Tensor:
        return taps["cls"].mean(dim=(2, 3, 4))

    def forward(self, kept: Tensor) -> Tensor:
        return kept


class SpatialSoftmax(Pool):
    """Where in the picture each of some learned features is: expected positions (x, y) in [-1, 1], averaged over time.

    Levine et al., "End-to-End Training of Deep Visuomotor Policies" (JMLR 2016), with a learned 1x1 convolution to the
    features and a learned temperature.
    """

    def __init__(self, stream: Stream, taps: Taps, keypoints: int = 32) -> None:
        super().__init__()
        _, channels, _, height, width = taps["conv5"].shape
        if height * width == 1:
            raise VieError(
                f"pool=spatial_softmax: the last map of {stream.model_name} is one place: give it larger pictures by "
                "size=PIXELS, or take another pool"
            )
        self.output_dim = 2 * keypoints
        self.features = nn.Conv1d(channels, keypoints, 1)
        self.temperature = nn.Parameter(torch.ones(()))
        y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
        self.register_buffer("places", torch.stack([x, y], dim=-1).flatten(0, 1), persistent=False)

    places: Tensor

    def forward(self, kept: Tensor) -> Tensor:
        times = kept.shape[2]
        maps = self.features(kept.transpose(1, 2).flatten(0, 1).flatten(2))
        expected = F.softmax(maps / self.temperature, dim=-1) @ self.places
        return expected.flatten(1).unflatten(0, (-1, times)).mean(dim=1)


class SpatialEmbeddings(Pool):
    """Of every channel, some learned weighted sums over space; the mean over time.

    As SERL and HIL-SERL read their frozen ResNets (Luo et al., ICRA 2024, ``SpatialLearnedEmbeddings``).
    """

    def __init__(self, stream: Stream, taps: Taps, features: int = 8) -> None:
        super().__init__()
        _, channels, _, height, width = taps["conv5"].shape
        self.output_dim = channels * features
        self.kernel = nn.Parameter(torch.empty(channels, height, width, features))
        nn.init.normal_(self.kernel, std=(height * width) ** -0.5)

    def forward(self, kept: Tensor) -> Tensor:
        return torch.einsum("nchw,chwf->ncf", kept.mean(dim=2), self.kernel).flatten(1)


class Attention(Pool):
    """What a learned query finds among all places of the last map, by multi-head attention."""

    def __init__(self, stream: Stream, taps: Taps, heads: int = 8) -> None:
        super().__init__()
        _, channels, times, height, width = taps["conv5"].shape
        if channels % heads:
            raise VieError(f"pool=attention: {channels} channels are not divided by heads={heads}: give another number")
        self.output_dim = channels
        self.norm = nn.LayerNorm(channels)
        self.positions = nn.Parameter(torch.randn(times * height * width, channels) * 0.02)
        self.query = nn.Parameter(torch.randn(1, 1, channels) * 0.02)
        self.attend = nn.MultiheadAttention(channels, heads, batch_first=True)

    def forward(self, kept: Tensor) -> Tensor:
        tokens = self.norm(kept.flatten(2).transpose(1, 2)) + self.positions
        found: Tensor = self.attend(self.query.expand(tokens.shape[0], -1, -1), tokens, tokens, need_weights=False)[0]
        return found[:, 0]


POOLS: dict[str, type[Pool]] = {
    "mean": Mean,
    "cls": ClassToken,
    "spatial_softmax": SpatialSoftmax,
    "spatial_embeddings": SpatialEmbeddings,
    "attention": Attention,
}


def create_pool(name: str, stream: Stream, taps: Taps, **arguments: int) -> Pool:
    """A pool for what a stream gives.

    Args:
        name: Of ``POOLS``.
        stream: The stream.
        taps: Its taps of any clip of the shape to come.
        arguments: ``keypoints`` of spatial_softmax, ``features`` of spatial_embeddings, ``heads`` of attention.

    Raises:
        VieError: There is no such pool, it takes no such argument, or it does not fit the stream.
    """
    if name not in POOLS:
        raise VieError(f"there is no pool {name!r}: give one of {', '.join(POOLS)}")
    try:
        return POOLS[name](stream, taps, **arguments)
    except TypeError as error:
        raise VieError(f"pool={name} takes no {', '.join(arguments)} ({error})") from error
