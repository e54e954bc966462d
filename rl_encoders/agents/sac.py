"""Soft actor-critic: Haarnoja et al., Soft Actor-Critic Algorithms and Applications, 2018 (arXiv 1812.05905)."""

import torch.nn.functional as F
from torch import Tensor


def td_target(reward: Tensor, terminal: Tensor, next_value: Tensor, gamma: float) -> Tensor:
    """The target r + gamma (1 - d) V(s'): (B,) of (B,) each; a truncated episode is not terminal."""
    return reward + gamma * (1 - terminal) * next_value


def td_loss(q: Tensor, target: Tensor) -> Tensor:
    """Squared errors of E critics (E, B) against one target (B,), averaged over the batch and summed over critics."""
    return F.mse_loss(q, target.expand_as(q), reduction="none").mean(dim=1).sum()


def actor_loss(q: Tensor, log_pi: Tensor, alpha: Tensor) -> Tensor:
    """E[alpha log pi(a|s) - min_i Q_i(s, a)] for actions of the policy: q (E, B), log_pi (B,)."""
    return (alpha.detach() * log_pi - q.min(dim=0).values).mean()


def temperature_loss(log_alpha: Tensor, log_pi: Tensor, target_entropy: float) -> Tensor:
    """-log alpha E[log pi(a|s) + target entropy], as the authors' later releases have it, not with alpha itself."""
    return -log_alpha * (log_pi.detach() + target_entropy).mean()
