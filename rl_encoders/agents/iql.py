"""Implicit Q-learning: Kostrikov, Nair, Levine, Offline RL with Implicit Q-Learning, ICLR 2022 (arXiv 2110.06169)."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from rl_encoders.agents.agent import Agent, Metrics, descend
from rl_encoders.agents.critics import CriticConfig, bounded, make_critic, make_values, some_of, td_target
from rl_encoders.agents.gaussian import Gaussian
from rl_encoders.agents.networks import Critic, EnsembleMLP, polyak
from rl_encoders.agents.perception import Perception
from rl_encoders.agents.values import HLGauss, Scalar
from rl_encoders.replay.buffer import Batch
from vie import VieError


def expectile_loss(excess: Tensor, expectile: float) -> Tensor:
    """|tau - 1(u < 0)| u^2, elementwise: equation 5, for u = Q(s, a) - V(s)."""
    return torch.where(excess < 0, 1 - expectile, expectile) * excess.square()


def value_loss(q: Tensor, value: Tensor, expectile: float) -> Tensor:
    """Of V(s) against the most careful target critic: q (E, B), value (B,); q gets no gradient."""
    return expectile_loss(q.detach().min(dim=0).values - value, expectile).mean()


def advantage_weights(q: Tensor, value: Tensor, temperature: float, largest: float = 100.0) -> Tensor:
    """min(exp(beta (Q - V)), largest) of equation 7, without gradient: q (E, B), value (B,), to (B,)."""
    advantage = q.min(dim=0).values - value
    return (temperature * advantage).exp().clamp(max=largest).detach()


def policy_loss(log_pi: Tensor, weights: Tensor) -> Tensor:
    """Advantage-weighted regression: -E[w log pi(a|s)] for the data's actions, (B,) each."""
    return -(weights * log_pi).mean()


class Implicit(NamedTuple):
    """Networks that learn of the data's actions alone.

    Attributes:
        critic: E of them.
        target: Theirs.
        value: V.
        values: What the critics' outputs mean.
    """

    critic: Critic
    target: Critic
    value: EnsembleMLP
    values: Scalar | HLGauss


class ImplicitLosses(NamedTuple):
    """What these learn by.

    Attributes:
        td_loss: Of the critics.
        value_loss: Of V.
        q: (E', B), what the target critics that count say of the data's actions.
        value: (B,), V(s), without gradient.
    """

    td_loss: Tensor
    value_loss: Tensor
    q: Tensor
    value: Tensor


def implicit_losses(
    nets: Implicit,
    config: CriticConfig,
    expectile: float,
    batch: Batch,
    state: Tensor,
    next_state: Tensor,
    bonus: Tensor,
    careful: int | None = None,
) -> ImplicitLosses:
    """Equations 5 and 6.

    Args:
        nets: That learn.
        config: Their discount, and bounds of values.
        expectile: tau.
        batch: Transitions.
        state: z of s, (B, dim).
        next_state: z of s'.
        bonus: (B,), for exploration.
        careful: Of how many target critics, drawn anew, the lowest counts; None takes all.
    """
    with torch.no_grad():
        next_value = nets.value(next_state)[0, :, 0]
        # OOO bounds the whole target here, but for the bonus, and what the value learns from.
        target = bounded(td_target(batch.reward, batch.terminal, next_value, config.gamma), config) + bonus
        q = bounded(some_of(nets.values.value(nets.target(state, batch.action)), careful), config)
    value = nets.value(state)[0, :, 0]
    td_loss = nets.values.loss(nets.critic(state, batch.action), target)
    return ImplicitLosses(td_loss, value_loss(q, value, expectile), q, value.detach())


@dataclass(frozen=True)
class IQLConfig(CriticConfig):
    """Implicit Q-learning.

    Attributes:
        critic_lr: As of any critics; the value's is the same.
        policy_hidden: Widths of the policy's hidden layers.
        policy_lr: Learning rate.
        share_encoder: Whether the actor sees through the critic's encoder, which the critic alone trains.
        expectile: tau.
        temperature: beta: how much better actions count for the policy.
        largest_weight: That an action may have.
        dropout: In the policy's hidden layers, while it learns.
    """

    policy_hidden: Sequence[int] = (256, 256)
    policy_lr: float = 3e-4
    share_encoder: bool = True
    expectile: float = 0.7
    temperature: float = 3.0
    largest_weight: float = 100.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Raises ``VieError`` for values that make no sense."""
        super().__post_init__()
        if not 0 <= self.dropout < 1:
            raise VieError(f"dropout={self.dropout} is out of range: give 0 to below 1")


class IQL(Agent):
    """A Gaussian policy, a value, E critics and their targets; no action outside the data is ever scored."""

    def __init__(self, eyes: Perception, action_dim: int, config: IQLConfig) -> None:
        """Builds networks.

        Args:
            eyes: What it sees through.
            action_dim: |A|; actions are in [-1, 1].
            config: Its settings.
        """
        super().__init__(eyes, config.share_encoder)
        self.config = config
        self.values = make_values(config)
        self.critic = make_critic(eyes.dim, action_dim, config, self.values.outputs)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.value = EnsembleMLP(1, eyes.dim, config.critic_hidden, 1)
        self.policy = Gaussian(eyes.dim, action_dim, config.policy_hidden, dropout=config.dropout)

    def make_optimizers(self) -> None:
        """After the agent has been moved to its device."""
        config = self.config
        critic = [{"params": [*self.critic.parameters(), *self.value.parameters()]}]
        actor = [{"params": list(self.policy.parameters())}]
        if self.own_eyes is not None:
            actor += self.own_eyes.param_groups(config.policy_lr)
        self.critic_optimizer = torch.optim.Adam([*critic, *self.eyes.param_groups(config.critic_lr)], config.critic_lr)
        self.actor_optimizer = torch.optim.Adam(actor, config.policy_lr)

    def update(self, batch: Batch) -> Metrics:
        return self.update_with_bonus(batch, torch.zeros_like(batch.reward))

    def update_with_bonus(self, batch: Batch, bonus: Tensor) -> Metrics:
        config = self.config
        state, next_state, actor_state, _ = self.look(batch)
        nets = Implicit(self.critic, self.target, self.value, self.values)
        found = implicit_losses(nets, config, config.expectile, batch, state, next_state, bonus)
        descend(self.critic_optimizer, found.value_loss + found.td_loss)
        weights = advantage_weights(found.q, found.value, config.temperature, config.largest_weight)
        pi_loss = policy_loss(self.policy.log_prob(actor_state, batch.action), weights)
        descend(self.actor_optimizer, pi_loss)
        polyak(self.target, self.critic, config.tau)
        return {
            "value_loss": found.value_loss.detach(),
            "td_loss": found.td_loss.detach(),
            "policy_loss": pi_loss.detach(),
            "q": found.q.mean(),
            "weight": weights.mean(),
        }

    def choose(self, seen: Mapping[str, Tensor], explore: bool) -> Tensor:
        state = self.actor_eyes.vector(seen)
        return self.policy.sample(state, 1)[0][:, 0] if explore else self.policy.mode(state)
