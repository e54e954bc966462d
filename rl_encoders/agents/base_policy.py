"""What PA-RL asks of a policy: that it can be sampled, and that it imitates."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rl_encoders.agents.agent import Metrics, descend
from rl_encoders.agents.gaussian import TanhGaussian
from rl_encoders.agents.networks import polyak
from rl_encoders.agents.perception import Perception

Seen = Mapping[str, Tensor]
"""What is kept of B observations, by name, as a replay hands it out."""


class BasePolicy(nn.Module):
    """A policy of any kind, which sees for itself.

    Attributes:
        capturable: Whether it samples and imitates without the host, as a CUDA graph has to.
    """

    capturable = True

    def sample(self, seen: Seen, count: int) -> Tensor:
        """Draws n actions for each of B observations: (B, n, A), without gradient."""
        raise NotImplementedError

    def imitate(self, seen: Seen, action: Tensor, shifts: Tensor | None = None) -> Metrics:
        """Takes a step towards actions (B, A), with the pictures shifted where shifts are given."""
        raise NotImplementedError

    def clone(self, seen: Seen, action: Tensor, shifts: Tensor | None = None) -> Metrics:
        """The same for actions of the data, which are imitated before any is improved."""
        return self.imitate(seen, action, shifts)

    def make_optimizers(self) -> None:
        """After it has been moved to its device."""

    def optimizers(self) -> dict[str, Optimizer]:
        """Whose states it goes on with, by name."""
        return {}

    def seers(self) -> Iterator[tuple[Any, Optimizer | None]]:
        """Its eyes that follow schedules, with the optimizers that train them."""
        yield from ()


class PolicyHead(nn.Module):
    """A policy on an encoder's vectors."""

    def sample(self, state: Tensor, count: int) -> Tensor:
        """Draws n actions for each vector (B, dim): (B, n, A)."""
        raise NotImplementedError

    def loss(self, state: Tensor, action: Tensor) -> Tensor:
        """Of imitating actions (B, A), averaged."""
        raise NotImplementedError


class SeeingPolicy(BasePolicy):
    """Eyes and a head, trained together; a slow copy of both is what is sampled."""

    def __init__(
        self,
        eyes: Perception,
        head: PolicyHead,
        lr: float = 5e-5,
        ema: float = 0.002,
        imitation_lr: float | None = None,
    ) -> None:
        """Joins them.

        Args:
            eyes: Its own: nobody else trains them.
            head: On vectors of ``eyes.dim`` numbers.
            lr: Learning rate.
            ema: Share of the trained weights in the slow ones at every step (the exponential moving average).
            imitation_lr: Another learning rate for actions of the data, for which there is another optimizer then, as
                PA-RL's release makes it anew; None for one optimizer for all.
        """
        super().__init__()
        assert isinstance(eyes, nn.Module)
        self.eyes: Any = eyes
        self.head, self.lr, self.ema, self.imitation_lr = head, lr, ema, imitation_lr
        self.slow_eyes: Any = copy.deepcopy(eyes).eval()
        self.slow_head = copy.deepcopy(head).requires_grad_(False).eval()

    def make_optimizers(self) -> None:
        self.optimizer = self._make_optimizer(self.lr)
        self.cloning_optimizer = (
            self.optimizer if self.imitation_lr is None else self._make_optimizer(self.imitation_lr)
        )

    def _make_optimizer(self, lr: float) -> Optimizer:
        return torch.optim.Adam([{"params": list(self.head.parameters())}, *self.eyes.param_groups(lr)], lr)

    def optimizers(self) -> dict[str, Optimizer]:
        two = {} if self.imitation_lr is None else {"cloning": self.cloning_optimizer}
        return {"policy": self.optimizer, **two}

    def seers(self) -> Iterator[tuple[Any, Optimizer | None]]:
        for optimizer in self.optimizers().values():
            yield self.eyes, optimizer
        yield self.slow_eyes, None

    @torch.no_grad()
    def sample(self, seen: Seen, count: int) -> Tensor:
        return self.slow_head.sample(self.slow_eyes.vector(seen), count)

    def imitate(self, seen: Seen, action: Tensor, shifts: Tensor | None = None) -> Metrics:
        return self._learn(self.optimizer, seen, action, shifts)

    def clone(self, seen: Seen, action: Tensor, shifts: Tensor | None = None) -> Metrics:
        return self._learn(self.cloning_optimizer, seen, action, shifts)

    def _learn(self, optimizer: Optimizer, seen: Seen, action: Tensor, shifts: Tensor | None) -> Metrics:
        loss = self.head.loss(self.eyes.vector(seen, shifts), action)
        descend(optimizer, loss)
        polyak(self.slow_head, self.head, self.ema)
        polyak(self.slow_eyes, self.eyes, self.ema)
        return {"policy_loss": loss.detach()}

    def train(self, mode: bool = True) -> "SeeingPolicy":
        super().train(mode)
        self.slow_eyes.eval()  # as dropout would blur what is sampled
        self.slow_head.eval()
        return self


class GaussianHead(PolicyHead):
    """A squashed Gaussian that learns by likelihood."""

    def __init__(self, state_dim: int, action_dim: int, hidden: Sequence[int] = (256, 256)) -> None:
        super().__init__()
        self.gaussian = TanhGaussian(state_dim, action_dim, hidden)

    def sample(self, state: Tensor, count: int) -> Tensor:
        return self.gaussian.sample(state, count)[0].detach()

    def loss(self, state: Tensor, action: Tensor) -> Tensor:
        return -self.gaussian.log_prob(state, action).mean()
