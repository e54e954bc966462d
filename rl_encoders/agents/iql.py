"""Implicit Q-learning: Kostrikov, Nair, Levine, Offline RL with Implicit Q-Learning, ICLR 2022 (arXiv 2110.06169)."""

import torch
from torch import Tensor


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
