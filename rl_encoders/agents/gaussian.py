"""Gaussian policies on an encoder's vectors: squashed, as in SAC and Cal-QL, and plain, as in IQL."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from rl_encoders.agents.networks import EnsembleMLP

EDGE = 1 - 1e-6
"""Largest squashed action that is unsquashed: beyond it, float32 knows no inverse of tanh."""


class TanhGaussian(nn.Module):
    """tanh of a normal distribution with a diagonal covariance; log std = m * raw + o with trained numbers m and o."""

    def __init__(self, state_dim: int, action_dim: int, hidden: Sequence[int] = (256, 256)) -> None:
        """Builds the network, of Cal-QL's initialisation: o = -1.

        Args:
            state_dim: Length of the vectors z.
            action_dim: |A|.
            hidden: Widths of the hidden layers.
        """
        super().__init__()
        self.network = EnsembleMLP(1, state_dim, hidden, 2 * action_dim)
        self.log_std_multiplier = nn.Parameter(torch.ones(()))
        self.log_std_offset = nn.Parameter(-torch.ones(()))

    def distribution(self, state: Tensor) -> Normal:
        """Before tanh: (B, |A|)."""
        mean, raw = self.network(state)[0].chunk(2, dim=-1)
        log_std = self.log_std_multiplier * raw + self.log_std_offset
        return Normal(mean, log_std.clamp(-20.0, 2.0).exp(), validate_args=False)

    def mode(self, state: Tensor) -> Tensor:
        """The mean, squashed: (B, |A|)."""
        return self.distribution(state).mean.tanh()

    def sample(self, state: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Actions that gradients pass through, and their log-densities.

        Args:
            state: z, (B, state_dim).
            count: n.

        Returns:
            (B, n, |A|) and (B, n).
        """
        normal = self.distribution(state)
        raw = normal.rsample((count,)).transpose(0, 1)
        return raw.tanh(), self._log_density(normal, raw)

    def log_prob(self, state: Tensor, action: Tensor) -> Tensor:
        """Log-density of given actions, (B, |A|) or (B, n, |A|), which are kept off the edges: (B,) or (B, n)."""
        several = action if action.ndim == 3 else action[:, None]
        found = self._log_density(self.distribution(state), several.clamp(-EDGE, EDGE).atanh())
        return found if action.ndim == 3 else found[:, 0]

    def _log_density(self, normal: Normal, raw: Tensor) -> Tensor:
        density = normal.log_prob(raw.transpose(0, 1)).transpose(0, 1)
        # log(1 - tanh(x)^2) without cancellation.
        squash = 2 * (math.log(2.0) - raw - nn.functional.softplus(-2 * raw))
        return (density - squash).sum(dim=-1)


class Gaussian(nn.Module):
    """A normal distribution around tanh of the network, with one trained std for each component (IQL's policy)."""

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        hidden: Sequence[int] = (256, 256),
        least_log_std: float = -5.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.network = EnsembleMLP(1, state_dim, hidden, action_dim, dropout=dropout)
        self.log_std = nn.Parameter(torch.zeros(action_dim))
        self.least_log_std = least_log_std

    def distribution(self, state: Tensor) -> Normal:
        """(B, |A|)."""
        std = self.log_std.clamp(self.least_log_std, 2.0).exp()
        return Normal(self.mode(state), std, validate_args=False)

    def mode(self, state: Tensor) -> Tensor:
        """The mean: (B, |A|)."""
        return self.network(state)[0].tanh()

    def sample(self, state: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Actions (B, n, |A|), cut to [-1, 1], and log-densities (B, n) of what was drawn."""
        normal = self.distribution(state)
        drawn = normal.rsample((count,))
        return drawn.clamp(-1, 1).transpose(0, 1), normal.log_prob(drawn).sum(dim=-1).T

    def log_prob(self, state: Tensor, action: Tensor) -> Tensor:
        """Log-density of given actions (B, |A|): (B,)."""
        return self.distribution(state).log_prob(action).sum(dim=-1)
