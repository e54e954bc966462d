"""Exploration by novelty: Burda et al., Random Network Distillation, ICLR 2019, with OOO's details.

OOO (Sobol Mark et al. 2023, Offline Retraining for Online RL) takes the largest squared error of a feature as the
bonus, computes it anew whenever a transition is drawn, and trains the predictor on a quarter of every batch.
"""

import torch
from torch import Tensor, nn

KEPT = 0.25
"""Share of a batch that the predictor learns from."""

CLIP = 5.0
"""Standard deviations that inputs are cut to."""


class RunningMoments(nn.Module):
    """Mean and standard deviation of all that was seen, batch by batch (Chan, Golub, LeVeque 1979)."""

    count: Tensor
    mean: Tensor
    squares: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(dim, dtype=torch.float64))
        self.register_buffer("squares", torch.zeros(dim, dtype=torch.float64))

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Counts a batch (B, dim) in."""
        x = x.double()
        total = self.count + len(x)
        off = x.mean(dim=0) - self.mean
        self.squares += (x - x.mean(dim=0)).square().sum(dim=0) + off.square() * self.count * len(x) / total
        self.mean += off * len(x) / total
        self.count.copy_(total)

    @property
    def std(self) -> Tensor:
        """(dim,); 1 where nothing has varied yet."""
        std = (self.squares / self.count.clamp(min=1)).sqrt()
        return torch.where(std > 1e-6, std, torch.ones_like(std)).float()


class RND(nn.Module):
    """A predictor that learns a fixed random network where the agent has been, and is wrong where it has not."""

    def __init__(self, dim: int, width: int = 512, features: int = 512) -> None:
        """Builds both networks.

        Args:
            dim: Length of what they see: states, or an encoder's vectors.
            width: Of their two hidden layers.
            features: That they give.
        """
        super().__init__()
        self.target, self.predictor = (_network(dim, width, features) for _ in range(2))
        self.target.requires_grad_(False)
        self.seen = RunningMoments(dim)
        self.bonuses = RunningMoments(1)

    def errors(self, x: Tensor) -> Tensor:
        """Squared errors of the features of (B, dim): (B, features)."""
        x = ((x - self.seen.mean.float()) / self.seen.std).clamp(-CLIP, CLIP).detach()
        return (self.predictor(x) - self.target(x)).square()

    @torch.no_grad()
    def bonus(self, x: Tensor) -> Tensor:
        """What a visit of each of (B, dim) is worth, (B,): its largest error, in standard deviations of all bonuses."""
        return self.errors(x).max(dim=1).values / self.bonuses.std

    def loss(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Trains the predictor, and counts (B, dim) in: mean squared error over a random quarter of the batch."""
        self.seen.update(x)
        errors = self.errors(x)
        self.bonuses.update(errors.detach().max(dim=1).values[:, None])
        drawn = torch.rand(len(x), device=x.device, generator=generator) < KEPT
        return (errors.mean(dim=1) * drawn).sum() / drawn.sum().clamp(min=1)


def _network(dim: int, width: int, features: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(dim, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, features)
    )
