"""Behaviour cloning: a policy that does what the data does, and learns nothing of rewards."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rl_encoders.agents.agent import Agent, Metrics
from rl_encoders.agents.base_policy import PolicyHead, SeeingPolicy
from rl_encoders.replay.buffer import Batch


class RegressionHead(PolicyHead):
    """One action for each vector, by squared error.

    The policy that R3M's encoders are judged by (Nair et al., R3M, CoRL 2022): two hidden layers behind a batch norm,
    which brings features of any size to one scale.
    """

    def __init__(self, state_dim: int, action_dim: int, hidden: Sequence[int] = (256, 256)) -> None:
        super().__init__()
        widths = [state_dim, *hidden]
        layers: list[nn.Module] = [nn.BatchNorm1d(state_dim)]
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], action_dim))

    @torch.no_grad()
    def sample(self, state: Tensor, count: int) -> Tensor:
        """The same action n times: (B, n, A) in [-1, 1]."""
        action: Tensor = self.layers(state).clamp(-1.0, 1.0)
        return action[:, None].expand(-1, count, -1)

    def loss(self, state: Tensor, action: Tensor) -> Tensor:
        """Mean squared error: (B, Z), (B, A)."""
        return (self.layers(state) - action).square().mean()


class BC(Agent):
    """Imitates, and is nothing but its policy."""

    def __init__(self, policy: SeeingPolicy) -> None:
        """Takes a policy whose optimizer is yet to be made."""
        super().__init__(policy.eyes, share_encoder=True, held=False)
        self.policy = policy

    def make_optimizers(self) -> None:
        self.policy.make_optimizers()

    def optimizers(self) -> dict[str, Optimizer]:
        return self.policy.optimizers()

    def seers(self) -> Iterator[tuple[Any, Optimizer | None]]:
        yield from self.policy.seers()

    def update(self, batch: Batch) -> Metrics:
        return self.policy.clone(batch.seen, batch.action, self.shifts(batch))

    def choose(self, seen: Mapping[str, Tensor], explore: bool) -> Tensor:
        return self.policy.sample(seen, 1)[:, 0]
