"""What PA-RL asks of a policy: that it can be sampled, and that it imitates."""

from collections.abc import Sequence

from torch import Tensor, nn

from rl_encoders.agents.gaussian import TanhGaussian


class BasePolicy(nn.Module):
    """A policy on an encoder's vectors."""

    def sample(self, state: Tensor, count: int) -> Tensor:
        """Draws n actions for each of the actor's vectors (B, dim): (B, n, A)."""
        raise NotImplementedError

    def loss(self, state: Tensor, action: Tensor) -> Tensor:
        """Of imitating actions (B, A), averaged."""
        raise NotImplementedError


class GaussianPolicy(BasePolicy):
    """A squashed Gaussian that learns by likelihood."""

    def __init__(self, state_dim: int, action_dim: int, hidden: Sequence[int] = (256, 256)) -> None:
        super().__init__()
        self.gaussian = TanhGaussian(state_dim, action_dim, hidden)

    def sample(self, state: Tensor, count: int) -> Tensor:
        return self.gaussian.sample(state, count)[0].detach()

    def loss(self, state: Tensor, action: Tensor) -> Tensor:
        return -self.gaussian.log_prob(state, action).mean()
