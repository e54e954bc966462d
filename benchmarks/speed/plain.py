"""A trunk as the users of agents' libraries put it into them, for ``benchmarks.speed.hosts``."""

from torch import Tensor, nn

import vie
from vie.video.pixels import normalise


class PlainTrunk(nn.Module):
    """Pictures of the trunk's own size to pooled features; frozen by what the libraries' users do for that."""

    def __init__(self, source: str, frozen: bool) -> None:
        super().__init__()
        self.model = vie.load(source).model
        self.model.head = nn.Identity()  # type: ignore[assignment]
        self.requires_grad_(not frozen).eval()

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] to (B, C)."""
        return self.model.pooled(normalise(pictures.unsqueeze(2), self.model.mean, self.model.std))
