"""CQL and Cal-QL: what keeps a critic from valuing actions that its data does not know.

Kumar et al., Conservative Q-Learning for Offline RL, NeurIPS 2020 (CQL(H)); Nakamoto et al., Cal-QL: Calibrated Offline
RL Pre-Training for Efficient Online Fine-Tuning, NeurIPS 2023, equation 5.1.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rl_encoders.agents.agent import Metrics, descend
from rl_encoders.agents.checks import at_least
from rl_encoders.agents.perception import Perception
from rl_encoders.agents.sac import SAC, SACConfig
from rl_encoders.replay.buffer import Batch
from vie import VieError


def cql_regularizer(
    q_data: Tensor,
    q_random: Tensor,
    q_current: Tensor,
    q_next: Tensor,
    logp_random: Tensor | float,
    logp_current: Tensor,
    logp_next: Tensor,
    mc_return: Tensor,
    *,
    calibrated: bool = True,
    importance_sampling: bool = True,
    temperature: float = 1.0,
) -> Tensor:
    """How much higher a critic values sampled actions than those of the data, before any weight.

    R(s, a) = tau logsumexp_i(q_i / tau) - Q(s, a) over n actions each of the uniform distribution, of the policy at s
    and of the policy at s', all of them valued at s. Cal-QL counts a policy's action as worth no less than the return
    that the data's own policy got from s: where Q is below it, nothing pushes it further down. Random actions and the
    data's own are not touched.

    Args:
        q_data: (E, B) of E critics, of the data's actions.
        q_random: (E, B, n), of actions drawn uniformly.
        q_current: (E, B, n), of the policy's actions at s.
        q_next: (E, B, n), of the policy's actions at s'.
        logp_random: Log-density of the uniform actions: (B, n), or one number; |A| ln 0.5 for actions in [-1, 1].
        logp_current: (B, n), the policy's log-density of its actions.
        logp_next: (B, n), likewise.
        mc_return: (B,), Monte-Carlo returns from s on under the policy that made the data.
        calibrated: Cal-QL; CQL otherwise.
        importance_sampling: Whether a sampled action weighs as one over its density. Otherwise all weigh alike, and the
            data's action is one of them (the kitchen's setting in the authors' release).
        temperature: tau.

    Returns:
        (E, B).
    """
    if calibrated:
        floor = mc_return[:, None]
        q_current, q_next = torch.maximum(q_current, floor), torch.maximum(q_next, floor)
    if importance_sampling:
        sampled = [q_random - logp_random, q_next - logp_next, q_current - logp_current]
    else:
        sampled = [q_random, q_data[..., None], q_next, q_current]
    return temperature * torch.logsumexp(torch.cat(sampled, dim=-1) / temperature, dim=-1) - q_data


def max_backup(target_q: Tensor) -> Tensor:
    """The value of s' in CQL's backup: the best of n actions of the policy, each by its most careful critic.

    Args:
        target_q: (E, B, n), of the target critics.

    Returns:
        (B,).
    """
    return target_q.min(dim=0).values.max(dim=-1).values


def lagrange_losses(gap: Tensor, log_alpha_prime: Tensor, weight: float, target_gap: float) -> tuple[Tensor, Tensor]:
    """The regulariser under a multiplier that grows while the gap is larger than wanted.

    Args:
        gap: (E, B), of ``cql_regularizer``.
        log_alpha_prime: Logarithm of the multiplier, a trained number.
        weight: Factor of the gap's excess, also under the multiplier (5 in the authors' release).
        target_gap: The gap that is wanted (0.8 there).

    Returns:
        What is added to the critics' loss, summed over critics; and the loss of ``log_alpha_prime``, half of its
        negative, which must not train the critics.
    """
    excess = weight * (gap.mean(dim=1) - target_gap)
    alpha_prime = log_alpha_prime.exp().clamp(0.0, 1e6)
    return (alpha_prime.detach() * excess).sum(), -0.5 * (alpha_prime * excess.detach()).sum()


def uniform_log_density(action_dim: int) -> float:
    """Of actions drawn uniformly from [-1, 1]^|A|."""
    return action_dim * math.log(0.5)


@dataclass(frozen=True)
class CalQLConfig(SACConfig):
    """Cal-QL; CQL with ``calibrated=False``.

    Attributes:
        backup_entropy: As of SAC, without ``max_target_backup``; Cal-QL leaves the entropy out.
        calibrated: Whether returns keep values of the policy's actions from falling, offline and online alike.
        action_samples: n, of each of the three kinds.
        weight: Of the regulariser.
        target_gap: That a Lagrange multiplier keeps; None for none.
        importance_sampling: See ``cql_regularizer``.
        temperature: Likewise.
        max_target_backup: Whether the next state is worth the best of n actions.
    """

    backup_entropy: bool = False
    calibrated: bool = True
    action_samples: int = 10
    weight: float = 5.0
    target_gap: float | None = None
    importance_sampling: bool = True
    temperature: float = 1.0
    max_target_backup: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, action_samples=self.action_samples)
        if self.backup_entropy and self.max_target_backup:
            raise VieError(
                "backup_entropy=True: the best of several actions has none here, so give max_target_backup=false"
            )


class CalQL(SAC):
    """Soft actor-critic under the regulariser."""

    config: CalQLConfig

    def __init__(self, eyes: Perception, action_dim: int, config: CalQLConfig) -> None:
        """Builds networks; see ``SAC``."""
        super().__init__(eyes, action_dim, config)
        self.log_alpha_prime = nn.Parameter(torch.ones(()))

    def make_optimizers(self) -> None:
        super().make_optimizers()
        self.alpha_prime_optimizer = torch.optim.Adam([self.log_alpha_prime], self.config.critic_lr)

    def critic_loss(
        self, batch: Batch, state: Tensor, next_state: Tensor, actor_state: Tensor, actor_next: Tensor
    ) -> tuple[Tensor, Metrics]:
        config = self.config
        td_loss, metrics = super().critic_loss(batch, state, next_state, actor_state, actor_next)
        with torch.no_grad():
            shape = len(batch.action), config.action_samples, self.action_dim
            random = 2 * torch.rand(shape, device=batch.action.device) - 1
            current, logp_current = self.policy.sample(actor_state, config.action_samples)
            following, logp_next = self.policy.sample(actor_next, config.action_samples)
        sampled = torch.cat([random, current, following, batch.action[:, None]], dim=1)
        q = self.values.value(self.critic(state, sampled))
        q_random, q_current, q_next, q_data = q.split([config.action_samples] * 3 + [1], dim=-1)
        gap = cql_regularizer(
            q_data[..., 0],
            q_random,
            q_current,
            q_next,
            uniform_log_density(self.action_dim),
            logp_current,
            logp_next,
            batch.mc_return,
            calibrated=config.calibrated,
            importance_sampling=config.importance_sampling,
            temperature=config.temperature,
        )
        metrics["gap"] = gap.detach().mean()
        metrics["calibrated"] = (q_current.detach() < batch.mc_return[:, None]).float().mean()
        if config.target_gap is None:
            return td_loss + config.weight * gap.mean(dim=1).sum(), metrics
        added, multiplier_loss = lagrange_losses(gap, self.log_alpha_prime, config.weight, config.target_gap)
        descend(self.alpha_prime_optimizer, multiplier_loss)
        return td_loss + added, metrics

    def next_value(self, next_state: Tensor, actor_next: Tensor) -> Tensor:
        if not self.config.max_target_backup:
            return super().next_value(next_state, actor_next)
        action, _ = self.policy.sample(actor_next, self.config.action_samples)
        return max_backup(self.target_values(next_state, action))
