"""PA-RL: any policy that can be sampled and imitates, improved through a critic.

Sobol Mark et al., Policy Agnostic RL: Offline RL and Online RL Fine-Tuning of Any Class and Backbone, 2024 (arXiv
2412.06685). A critic learns as in Cal-QL, of actions that are optimised on it, or as in IQL, of the data's alone; the
policy only ever learns to imitate: the data at first, and online the optimised actions. Candidates come of the pictures
as they are, all else of shifted ones.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.optim import Optimizer

from rl_encoders.agents.action_optimiser import Candidates, Improvement, improve
from rl_encoders.agents.agent import Agent, Metrics, descend
from rl_encoders.agents.base_policy import BasePolicy
from rl_encoders.agents.calql import cql_regularizer
from rl_encoders.agents.checks import at_least, at_most, one_of
from rl_encoders.agents.critics import CriticConfig, bounded, make_critic, make_values, some_of, td_target
from rl_encoders.agents.iql import Implicit, implicit_losses
from rl_encoders.agents.networks import Activation, EnsembleMLP, polyak
from rl_encoders.agents.perception import Perception
from rl_encoders.replay.buffer import Batch

Kind = Literal["calql", "iql"]


@dataclass(frozen=True)
class PARLConfig(CriticConfig):
    """PA-RL; the defaults are those of the authors' release on D4RL, but for scalar critics with CALVIN's weight.

    Attributes:
        critic: How critics learn: as of Cal-QL, of the optimised actions too; or as of IQL, of the data's alone, where
            actions are optimised to be taken and imitated only.
        critics, activation, layer_norm: As of any critics; IQL's value has the last two of them as well.
        careful: Of how many critics, drawn anew, the lowest target counts and the regulariser is taken; None for all.
        calibrated, action_samples, weight, temperature: Of Cal-QL's regulariser; see ``CalQLConfig``.
        expectile: Of IQL.
        candidates: N, actions that the policy is asked for.
        improvement: How the best of them are improved.
        explore_best: Whether the best action is taken to explore too; one drawn by its value otherwise.
        imitate_best: Whether the policy imitates the best action online; one drawn by its value otherwise.
    """

    critic: Kind = "calql"
    critics: int = 10
    careful: int | None = 2
    activation: Activation = "swish"
    layer_norm: bool = True
    calibrated: bool = True
    action_samples: int = 10
    weight: float = 0.01
    temperature: float = 1.0
    expectile: float = 0.7
    candidates: int = 32
    improvement: Improvement = field(default_factory=Improvement)
    explore_best: bool = True
    imitate_best: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(get_args(Kind), critic=self.critic)
        at_least(1, action_samples=self.action_samples, careful=1 if self.careful is None else self.careful)
        at_most("critics", self.critics, careful=self.careful)
        at_most("candidates", self.candidates, **{"improvement.keep": self.improvement.keep})


class PARL(Agent):
    """E critics and their targets beside a policy of any kind.

    Attributes:
        learned: Whether the critics have learned anything yet.
    """

    learned: Tensor

    def __init__(self, eyes: Perception, action_dim: int, config: PARLConfig, policy: BasePolicy) -> None:
        """Builds the critics.

        Args:
            eyes: What the critic sees through; the policy sees for itself.
            action_dim: |A|; actions are in the bounds of ``config.improvement``.
            config: Its settings.
            policy: Of any kind.
        """
        super().__init__(eyes, share_encoder=True)
        self.config, self.action_dim = config, action_dim
        self.values = make_values(config)
        self.critic = make_critic(eyes.dim, action_dim, config, self.values.outputs)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.value = self._make_value() if config.critic == "iql" else None
        self.policy = policy
        self.register_buffer("learned", torch.zeros((), dtype=torch.bool))

    def make_optimizers(self) -> None:
        lr = self.config.critic_lr
        value = [] if self.value is None else list(self.value.parameters())
        groups = [{"params": [*self.critic.parameters(), *value]}, *self.eyes.param_groups(lr)]
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
        return self.policy.clone(batch.seen, batch.action, self.shifts(batch))

    def distil(self, batch: Batch) -> Metrics:
        """The policy learns the optimised actions, with which what was done in the data competes."""
        with torch.no_grad():
            found = self.optimised(self.eyes.vector(batch.seen), batch.seen, also=batch.action)
        action = found.best() if self.config.imitate_best else found.drawn()
        return self.policy.imitate(batch.seen, action, self.shifts(batch))

    def update(self, batch: Batch) -> Metrics:
        """The critics learn."""
        return self.update_with_bonus(batch, torch.zeros_like(batch.reward))

    def update_with_bonus(self, batch: Batch, bonus: Tensor) -> Metrics:
        state, next_state, _, _ = self.look(batch)
        if self.value is None:
            loss, metrics = self._conservative_loss(batch, state, next_state, bonus)
        else:
            nets = Implicit(self.critic, self.target, self.value, self.values)
            given = batch, state, next_state, bonus
            found = implicit_losses(nets, self.config, self.config.expectile, *given, careful=self.config.careful)
            loss = found.td_loss + found.value_loss
            metrics = {"td_loss": found.td_loss, "value_loss": found.value_loss, "q": found.q.mean()}
        descend(self.critic_optimizer, loss)
        self.learned.fill_(True)
        polyak(self.target, self.critic, self.config.tau)
        return {name: value.detach() for name, value in {"critic_loss": loss, **metrics}.items()}

    def _conservative_loss(
        self, batch: Batch, state: Tensor, next_state: Tensor, bonus: Tensor
    ) -> tuple[Tensor, Metrics]:
        """Cal-QL's, where every action of the policy is the best that the optimiser finds."""
        config = self.config
        with torch.no_grad():
            current = self.optimised(state, batch.seen).best()
            following = self.optimised(next_state, batch.next_seen).best()
            careful = some_of(self.values.value(self.target(next_state, following)), config.careful).min(dim=0).values
            target = td_target(batch.reward + bonus, batch.terminal, bounded(careful, config), config.gamma)
            random = torch.rand(len(batch.action), config.action_samples, self.action_dim, device=target.device)
            how = config.improvement
            random = how.low + (how.high - how.low) * random
        said = self.critic(state, torch.cat([random, torch.stack([current, following, batch.action], dim=1)], dim=1))
        td_loss = self.values.loss(said[:, :, -1], target)
        q = some_of(self.values.value(said), config.careful)
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
            importance_sampling=False,  # an optimised action has no density
            temperature=config.temperature,
        )
        # The release averages errors over all critics, gaps over those that count: here both are sums over all.
        loss = td_loss + config.weight * config.critics * gap.mean()
        return loss, {"td_loss": td_loss, "gap": gap.mean(), "q": q[..., -1].mean(), "q_policy": q[..., -3].mean()}

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
        if not self.learned:
            # What critics say that have learned nothing is no advice: the policy that imitates acts alone.
            return self.policy.sample(seen, 1)[:, 0]
        found = self.optimised(self.eyes.vector(seen), seen)
        return found.best() if self.config.explore_best or not explore else found.drawn()

    def _make_value(self) -> EnsembleMLP:
        config = self.config
        return EnsembleMLP(
            1, self.eyes.dim, config.critic_hidden, 1, activation=config.activation, layer_norm=config.layer_norm
        )
