"""Soft actor-critic: Haarnoja et al., Soft Actor-Critic Algorithms and Applications, 2018 (arXiv 1812.05905)."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from rl_encoders.agents.agent import Agent, Metrics, descend
from rl_encoders.agents.checks import at_least, at_most, one_of
from rl_encoders.agents.critics import CriticConfig, bounded, make_critic, make_values, some_of, td_target
from rl_encoders.agents.gaussian import TanhGaussian
from rl_encoders.agents.networks import polyak
from rl_encoders.agents.perception import Perception
from rl_encoders.replay.buffer import Batch

ActorValue = Literal["min", "mean"]


def actor_loss(q: Tensor, log_pi: Tensor, alpha: Tensor, actor_value: ActorValue = "min") -> Tensor:
    """E[alpha log pi(a|s) - min_i Q_i(s, a)] for actions of the policy, or with the mean: q (E, B), log_pi (B,)."""
    value = q.min(dim=0).values if actor_value == "min" else q.mean(dim=0)
    return (alpha.detach() * log_pi - value).mean()


def temperature_loss(log_alpha: Tensor, log_pi: Tensor, target_entropy: float) -> Tensor:
    """-log alpha E[log pi(a|s) + target entropy], as the authors' later releases have it, not with alpha itself."""
    return -log_alpha * (log_pi.detach() + target_entropy).mean()


@dataclass(frozen=True)
class SACConfig(CriticConfig):
    """Soft actor-critic.

    Attributes:
        policy_hidden: Widths of the policy's hidden layers.
        careful: Of how many target critics, drawn anew at every update, the lowest counts; None takes all (REDQ, Chen
            et al. 2021).
        actor_value: What the policy climbs: the lowest of all critics' values, or their mean, as of REDQ and RLPD.
        policy_lr: Learning rate; the temperature's too.
        backup_entropy: Whether the target's value holds the policy's entropy.
        target_entropy: None is -|A|; RLPD's is half of that.
        share_encoder: Whether the actor sees through the critic's encoder, which the critic alone trains.
    """

    policy_hidden: Sequence[int] = (256, 256)
    careful: int | None = None
    actor_value: ActorValue = "min"
    policy_lr: float = 1e-4
    backup_entropy: bool = True
    target_entropy: float | None = None
    share_encoder: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, careful=1 if self.careful is None else self.careful)
        at_most("critics", self.critics, careful=self.careful)
        one_of(get_args(ActorValue), actor_value=self.actor_value)


class SAC(Agent):
    """A squashed Gaussian policy, E critics and their targets, and a temperature."""

    def __init__(self, eyes: Perception, action_dim: int, config: SACConfig) -> None:
        """Builds networks and optimizers.

        Args:
            eyes: What it sees through.
            action_dim: |A|; actions are in [-1, 1].
            config: Its settings.
        """
        super().__init__(eyes, config.share_encoder)
        self.config, self.action_dim = config, action_dim
        self.values = make_values(config)
        self.critic = make_critic(eyes.dim, action_dim, config, self.values.outputs)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.policy = TanhGaussian(eyes.dim, action_dim, config.policy_hidden)
        self.log_alpha = nn.Parameter(torch.zeros(()))
        self.target_entropy = -float(action_dim) if config.target_entropy is None else config.target_entropy

    def make_optimizers(self) -> None:
        """After the agent has been moved to its device."""
        config = self.config
        critic = [{"params": list(self.critic.parameters())}, *self.eyes.param_groups(config.critic_lr)]
        actor = [{"params": list(self.policy.parameters())}]
        if self.own_eyes is not None:
            actor += self.own_eyes.param_groups(config.policy_lr)
        self.critic_optimizer = torch.optim.Adam(critic, config.critic_lr)
        self.actor_optimizer = torch.optim.Adam(actor, config.policy_lr)
        self.alpha_optimizer = torch.optim.Adam([self.log_alpha], config.policy_lr)

    def update(self, batch: Batch) -> Metrics:
        state, next_state, actor_state, actor_next = self.look(batch)
        critic_loss, metrics = self.critic_loss(batch, state, next_state, actor_state.detach(), actor_next)
        descend(self.critic_optimizer, critic_loss)
        action, log_pi = self.policy.sample(actor_state, 1)
        q = self.values.value(self.critic(state.detach(), action))[..., 0]
        policy_loss = actor_loss(q, log_pi[:, 0], self.log_alpha.exp(), self.config.actor_value)
        descend(self.actor_optimizer, policy_loss)
        descend(self.alpha_optimizer, temperature_loss(self.log_alpha, log_pi, self.target_entropy))
        polyak(self.target, self.critic, self.config.tau)
        return {
            **metrics,
            "critic_loss": critic_loss.detach(),
            "policy_loss": policy_loss.detach(),
            "entropy": -log_pi.detach().mean(),
            "alpha": self.log_alpha.detach().exp(),
        }

    def critic_loss(
        self, batch: Batch, state: Tensor, next_state: Tensor, actor_state: Tensor, actor_next: Tensor
    ) -> tuple[Tensor, Metrics]:
        """The critics' loss, and what is worth knowing of it."""
        with torch.no_grad():
            target = td_target(
                batch.reward,
                batch.terminal,
                bounded(self.next_value(next_state, actor_next), self.config),
                self.config.gamma,
            )
        said = self.critic(state, batch.action)
        loss = self.values.loss(said, target)
        return loss, {"td_loss": loss.detach(), "q": self.values.value(said).detach().mean()}

    def next_value(self, next_state: Tensor, actor_next: Tensor) -> Tensor:
        """V(s'), (B,): the careful value of one action of the policy, with its entropy."""
        action, log_pi = self.policy.sample(actor_next, 1)
        value = self.target_values(next_state, action).min(dim=0).values[:, 0]
        return value - self.log_alpha.exp() * log_pi[:, 0] if self.config.backup_entropy else value

    def target_values(self, state: Tensor, action: Tensor) -> Tensor:
        """What the target critics that count say of actions (B, n, |A|): (E', B, n)."""
        return some_of(self.values.value(self.target(state, action)), self.config.careful)

    def choose(self, seen: Mapping[str, Tensor], explore: bool) -> Tensor:
        state = self.actor_eyes.vector(seen)
        return self.policy.sample(state, 1)[0][:, 0] if explore else self.policy.mode(state)
