"""CQL and Cal-QL: what keeps a critic from valuing actions that its data does not know.

Kumar et al., Conservative Q-Learning for Offline RL, NeurIPS 2020 (CQL(H)); Nakamoto et al., Cal-QL: Calibrated Offline
RL Pre-Training for Efficient Online Fine-Tuning, NeurIPS 2023, equation 5.1.
"""

import math

import torch
from torch import Tensor


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
