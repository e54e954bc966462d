"""PA-RL: any policy that can be sampled and imitates, improved through a critic.

Sobol Mark et al., Policy Agnostic RL: Offline RL and Online RL Fine-Tuning of Any Class and Backbone, 2024 (arXiv
2412.06685). A critic learns as in Cal-QL, of actions that are optimised on it; the policy only ever learns to imitate:
the data at first, and online the optimised actions. Candidates come of the pictures as they are, all else of shifted
ones.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from rl_encoders.agents.action_optimiser import Candidates, Improvement, improve
from rl_encoders.agents.agent import Agent, Metrics, descend
from rl_encoders.agents.base_policy import BasePolicy
from rl_encoders.agents.calql import CalQLConfig, cql_regularizer
from rl_encoders.agents.draws import draw_members
from rl_encoders.agents.networks import polyak
from rl_encoders.agents.perception import Perception
from rl_encoders.agents.sac import bounded, make_critic, make_values, td_target
from rl_encoders.replay.buffer import Batch
from vie import VieError


@dataclass(frozen=True)
class PARLConfig(CalQLConfig):
    """PA-RL; the defaults are those of the authors' release on D4RL with scalar critics.

    Attributes:
        critic_lr, critics, careful, activation, layer_norm, weight, importance_sampling, max_target_backup: As of
            Cal-QL. What concerns a policy and its entropy is of no use here: it is the policy's own.
        candidates: N, actions that the policy is asked for.
        improvement: How the best of them are improved.
        explore_best: Whether the best action is taken to explore too; one drawn by its value otherwise.
        imitate_best: Whether the policy imitates the best action online; one drawn by its value otherwise.
    """

    critic_lr: float = 3e-4
    critics: int = 10
    careful: int | None = 2
    activation: str = "swish"
    layer_norm: bool = True
    weight: float = 0.01
    importance_sampling: bool = False
    max_target_backup: bool = False
    candidates: int = 32
    improvement: Improvement = field(default_factory=Improvement)
    explore_best: bool = True
    imitate_best: bool = False


class PARL(Agent):
    """E critics and their targets beside a policy of any kind."""

    def __init__(self, eyes: Perception, action_dim: int, config: PARLConfig, policy: BasePolicy) -> None:
        """Builds the critics.

        Args:
            eyes: What the critic sees through; the policy sees for itself.
            action_dim: |A|; actions are in the bounds of ``config.improvement``.
            config: Its settings.
            policy: Of any kind.

        Raises:
            VieError: Actions are to weigh by their density, which an optimised one has not.
        """
        super().__init__(eyes, share_encoder=True)
        if config.importance_sampling:
            raise VieError("importance_sampling=True: an optimised action has no density, so set it to false")
        self.config, self.action_dim = config, action_dim
        self.values = make_values(config)
        self.critic = make_critic(eyes.dim, action_dim, config, self.values.outputs)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.policy = policy

    def make_optimizers(self) -> None:
        lr = self.config.critic_lr
        groups = [{"params": list(self.critic.parameters())}, *self.eyes.param_groups(lr)]
        self.critic_optimizer = torch.optim.AdamW(groups, lr, weight_decay=0.0)
        self.policy.make_optimizers()

    def optimizers(self) -> dict[str, Optimizer]:
        return {**super().optimizers(), **self.policy.optimizers()}

    @property
    def imitates(self) -> bool:
        return True

    def seers(self) -> Iterator[tuple[Any, Optimizer | None]]:
        yield from super().seers()
        yield from self.policy.seers()

    def imitate(self, batch: Batch) -> Metrics:
        return self.policy.imitate(batch.seen, batch.action, self._shifts(batch))

    def distil(self, batch: Batch) -> Metrics:
        """The policy learns the optimised actions, with which what was done in the data competes."""
        with torch.no_grad():
            found = self.optimised(self.eyes.vector(batch.seen), batch.seen, also=batch.action)
        action = found.best() if self.config.imitate_best else found.drawn()
        return self.policy.imitate(batch.seen, action, self._shifts(batch))

    def update(self, batch: Batch) -> Metrics:
        """The critics learn."""
        config = self.config
        shifts = self._shifts(batch)
        state = self.eyes.vector(batch.seen, shifts)
        with torch.no_grad():
            next_state = self.eyes.vector(batch.next_seen, shifts)
            current = self.optimised(state, batch.seen).best()
            following = self.optimised(next_state, batch.next_seen).best()
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
        # The release averages errors over all critics, gaps over those that count: here both are sums over all.
        loss = td_loss + config.weight * config.critics * gap.mean()
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
    def optimised(self, state: Tensor, seen: Mapping[str, Tensor], also: Tensor | None = None) -> Candidates:
        """Improved actions of the policy: k for each of B observations, seen by the critic as ``state`` (B, dim)."""
        return improve(
            self.policy.sample(seen, self.config.candidates),
            lambda actions: self.values.value(self.critic(state, actions)).mean(dim=0),
            self.config.improvement,
            also,
        )

    def choose(self, seen: Mapping[str, Tensor], explore: bool) -> Tensor:
        found = self.optimised(self.eyes.vector(seen), seen)
        return found.best() if self.config.explore_best or not explore else found.drawn()

    def _shifts(self, batch: Batch) -> Tensor | None:
        return self.eyes.shifts(len(batch.action)) if self.eyes.augments else None

    def _members(self) -> Tensor:
        """The critics that count this time."""
        return draw_members(self.config.critics, self.config.careful, self.device)
