"""PA-RL: any policy that can be sampled and imitates, improved through a critic.

Sobol Mark et al., Policy Agnostic RL: Offline RL and Online RL Fine-Tuning of Any Class and Backbone, 2024 (arXiv
2412.06685). A critic learns as in Cal-QL, of actions that are optimised on it; the policy only ever learns to imitate:
the data at first, and online the optimised actions. Unlike in the authors' release, candidates are computed on the same
shifted pictures as everything else, so that a picture is encoded once in an update.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rl_encoders.agents.action_optimiser import Candidates, Improvement, improve
from rl_encoders.agents.agent import Agent, Metrics, descend
from rl_encoders.agents.base_policy import BasePolicy
from rl_encoders.agents.calql import CalQLConfig, cql_regularizer
from rl_encoders.agents.networks import polyak
from rl_encoders.agents.perception import Perception
from rl_encoders.agents.sac import bounded, make_critic, make_values, td_target
from rl_encoders.replay.buffer import Batch
from vie import VieError


@dataclass(frozen=True)
class PARLConfig(CalQLConfig):
    """PA-RL; the defaults are those of the authors' release on D4RL with scalar critics.

    Attributes:
        policy_lr, critic_lr, critics, careful, activation, layer_norm, weight, importance_sampling, max_target_backup,
            share_encoder: As of Cal-QL.
        candidates: N, actions that the policy is asked for.
        improvement: How the best of them are improved.
        explore_best: Whether the best action is taken to explore too; one drawn by its value otherwise.
        imitate_best: Whether the policy imitates the best action online; one drawn by its value otherwise.
        ema: Share of the policy in the slow copy of it that is sampled, at every step.
    """

    policy_lr: float = 5e-5
    critic_lr: float = 3e-4
    critics: int = 10
    careful: int | None = 2
    activation: str = "swish"
    layer_norm: bool = True
    weight: float = 0.01
    importance_sampling: bool = False
    max_target_backup: bool = False
    share_encoder: bool = False
    candidates: int = 32
    improvement: Improvement = field(default_factory=Improvement)
    explore_best: bool = True
    imitate_best: bool = False
    ema: float = 0.002


class PARL(Agent):
    """E critics and their targets beside a policy of any kind."""

    def __init__(self, eyes: Perception, action_dim: int, config: PARLConfig, policy: BasePolicy) -> None:
        """Builds the critics.

        Args:
            eyes: What the critic sees through; the policy has its own copy.
            action_dim: |A|; actions are in the bounds of ``config.improvement``.
            config: Its settings.
            policy: On vectors of ``eyes.dim`` numbers.

        Raises:
            VieError: Actions are to weigh by their density, which an optimised one has not.
        """
        super().__init__(eyes, config.share_encoder)
        if config.importance_sampling:
            raise VieError("importance_sampling=True: an optimised action has no density, so set it to false")
        self.config, self.action_dim = config, action_dim
        self.values = make_values(config)
        self.critic = make_critic(eyes.dim, action_dim, config, self.values.outputs)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.policy = policy
        self.slow_policy = copy.deepcopy(policy).requires_grad_(False).eval()

    def make_optimizers(self) -> None:
        config = self.config
        critic = [{"params": list(self.critic.parameters())}, *self.eyes.param_groups(config.critic_lr)]
        policy = [{"params": list(self.policy.parameters())}]
        if self.own_eyes is not None:
            policy += self.own_eyes.param_groups(config.policy_lr)
        self.critic_optimizer = torch.optim.AdamW(critic, config.critic_lr, weight_decay=0.0)
        self.policy_optimizer = torch.optim.Adam(policy, config.policy_lr)

    def imitate(self, batch: Batch) -> Metrics:
        """The policy learns the actions of the data."""
        return self._imitate(batch, batch.action)

    def distil(self, batch: Batch) -> Metrics:
        """The policy learns the optimised actions; what was done in the data competes with them."""
        state, _, actor_state, _ = self.look(batch)
        found = self.optimised(state.detach(), actor_state.detach(), also=batch.action)
        return self._imitate(batch, found.best() if self.config.imitate_best else found.drawn())

    def _imitate(self, batch: Batch, action: Tensor) -> Metrics:
        _, _, actor_state, _ = self.look(batch)
        loss = self.policy.loss(actor_state, action)
        descend(self.policy_optimizer, loss)
        polyak(self.slow_policy, self.policy, self.config.ema)
        return {"policy_loss": loss.detach()}

    def update(self, batch: Batch) -> Metrics:
        """The critics learn."""
        config = self.config
        state, next_state, actor_state, actor_next = self.look(batch)
        with torch.no_grad():
            current = self.optimised(state, actor_state).best()
            following = self.optimised(next_state, actor_next).best()
            careful = self.values.value(self.target(next_state, following))[self._members()].min(dim=0).values
            target = td_target(batch.reward, batch.terminal, bounded(careful, config), config.gamma)
            random = torch.rand(len(batch.action), config.action_samples, self.action_dim, device=target.device)
            how = config.improvement
            random = how.low + (how.high - how.low) * random
        said = self.critic(state, torch.cat([random, torch.stack([current, following, batch.action], dim=1)], dim=1))
        td_loss = self.values.loss(said[:, :, -1], target)
        q = self.values.value(said)[self._members()]
        copies = config.action_samples  # of one action that the optimiser found
        gap = cql_regularizer(
            q[..., -1],
            q[..., :copies],
            q[..., -3, None].expand(-1, -1, copies),
            q[..., -2, None].expand(-1, -1, copies),
            0.0,
            torch.zeros(()),
            torch.zeros(()),
            batch.mc_return,
            calibrated=config.calibrated,
            importance_sampling=config.importance_sampling,
            temperature=config.temperature,
        )
        loss = td_loss + config.weight * gap.mean(dim=1).sum()
        descend(self.critic_optimizer, loss)
        polyak(self.target, self.critic, config.tau)
        return {
            "critic_loss": loss.detach(),
            "td_loss": td_loss.detach(),
            "gap": gap.detach().mean(),
            "q": q[..., -1].detach().mean(),
            "q_policy": q[..., -3].detach().mean(),
        }

    @torch.no_grad()
    def optimised(self, state: Tensor, actor_state: Tensor, also: Tensor | None = None) -> Candidates:
        """Improved actions of the policy, for what critic and policy see: k for each of (B, dim)."""
        sampled = self.slow_policy.sample(actor_state, self.config.candidates)
        return improve(
            sampled,
            lambda actions: self.values.value(self.critic(state, actions)).mean(dim=0),
            self.config.improvement,
            also,
        )

    def choose(self, seen: Mapping[str, Tensor], explore: bool) -> Tensor:
        found = self.optimised(self.eyes.vector(seen), self.actor_eyes.vector(seen))
        return found.best() if self.config.explore_best or not explore else found.drawn()

    def train(self, mode: bool = True) -> "PARL":
        super().train(mode)
        self.slow_policy.eval()  # as dropout would blur what is sampled
        return self

    def _members(self) -> Tensor:
        """The critics that count this time."""
        careful = self.config.careful
        count = self.config.critics if careful is None else careful
        return torch.randperm(self.config.critics, device=self.device)[:count]
