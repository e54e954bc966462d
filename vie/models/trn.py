import itertools

import torch
from torch import Tensor, nn

from vie.errors import VieError
from vie.models.preact import Plan, PreActResNet18, init_weights
from vie.models.registry import register_model
from vie.models.single import frame_taps
from vie.models.stream import Stream
from vie.video.clips import Sampling

FRAMES = 4
SAMPLING = Sampling(frames=FRAMES, stride=12, fps=25.0, size=224, binned=True)


@register_model("vie_trn_r18")
class TRN(Stream):
    """VIE-TRN: a 2-D ResNet-18 on four frames, one of each half second, whose pooled features stand side by side.

    Zhou et al., "Temporal Relational Reasoning in Videos" (ECCV 2018), in the form that VIE's release calls TSRN.
    The taps hold the frames apart.
    """

    sampling = SAMPLING

    def __init__(self, embed_dim: int = 128, width: int = 64) -> None:
        super().__init__(num_features=FRAMES * 8 * width, embed_dim=embed_dim)
        self.trunk = PreActResNet18(Plan(dims=2), width)

    def forward_features(self, clip: Tensor) -> dict[str, Tensor]:
        return frame_taps(self.trunk, clip)

    def pool(self, taps: dict[str, Tensor]) -> Tensor:
        return self._frame_features(taps).flatten(1)

    def _frame_features(self, taps: dict[str, Tensor]) -> Tensor:
        """Pooled features of the frames (B, 4, C), in float32 at least."""
        tap = taps["conv5"]
        if tap.shape[2] != FRAMES:
            raise VieError(
                f"{self.model_name} takes clips of {FRAMES} frames, not {tap.shape[2]}: set data.frames={FRAMES}"
            )
        return tap.mean(dim=(3, 4), dtype=torch.promote_types(tap.dtype, torch.float32)).transpose(1, 2)


@register_model("vie_trn_relation_r18")
class RelationTRN(TRN):
    """VIE-TRN with the relation head: every ordered pair, triple and quadruple of frames through an MLP, summed.

    The release draws up to 8 tuples of each length at random; four frames have no more than 6, so all are taken.
    """

    heads = ("head", "relations")

    def __init__(self, embed_dim: int = 128, width: int = 64) -> None:
        super().__init__(embed_dim, width)
        channels = 8 * width
        self.num_features = channels
        self.relations = nn.ModuleList(
            nn.Sequential(nn.Linear(length * channels, channels), nn.ReLU(), nn.Linear(channels, channels))
            for length in range(FRAMES, 1, -1)
        )
        self.head = nn.Linear(channels, embed_dim)
        for module in (self.relations, self.head):
            module.apply(init_weights)

    def pool(self, taps: dict[str, Tensor]) -> Tensor:
        features = self._frame_features(taps)
        total = features.new_zeros(len(features), self.num_features)
        for length, relation in zip(range(FRAMES, 1, -1), self.relations, strict=True):
            for frames in itertools.combinations(range(FRAMES), length):
                joined = torch.cat([features[:, frame] for frame in frames], dim=1)
                total = total + relation(joined.to(self.head.weight.dtype))
        return total
