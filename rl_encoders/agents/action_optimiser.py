"""PA-RL's policy: the best of a base policy's actions, improved on the critic.

Sobol Mark et al., Policy Agnostic RL, 2024 (arXiv 2412.06685), section 4: global optimisation ranks actions of any base
policy, local optimisation climbs the critic's gradient from the best of them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rl_encoders.agents.checks import at_least
from rl_encoders.agents.draws import draw_by_logits
from vie import VieError

Score = Callable[[Tensor], Tensor]
"""Values of n actions for each state: (B, n, |A|) to (B, n)."""


@dataclass(frozen=True)
class Improvement:
    """How actions are improved.

    Attributes:
        keep: k, the best candidates, which are improved.
        steps: T, of gradient ascent on each.
        step_size: Of one step along the gradient.
        low, high: Bounds of every component of an action.
    """

    keep: int = 10
    steps: int = 10
    step_size: float = 3e-4
    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        """Raises ``VieError`` for values that make no sense."""
        at_least(1, **{"improvement.keep": self.keep})
        at_least(0, **{"improvement.steps": self.steps, "improvement.step_size": self.step_size})
        if self.low >= self.high:
            raise VieError(f"improvement.low={self.low} is not below improvement.high={self.high}: give bounds apart")


@dataclass(frozen=True)
class Candidates:
    """Improved actions.

    Attributes:
        actions: (B, k, |A|).
        values: (B, k), which the critic gives them.
    """

    actions: Tensor
    values: Tensor

    def best(self) -> Tensor:
        """The action of the highest value: (B, |A|)."""
        return self._at(self.values.argmax(dim=1))

    def drawn(self, generator: torch.Generator | None = None) -> Tensor:
        """One action with the probability softmax(values), as the release draws it: (B, |A|)."""
        return self._at(draw_by_logits(self.values, generator))

    def _at(self, number: Tensor) -> Tensor:
        return self.actions[torch.arange(len(number), device=number.device), number]


def improve(candidates: Tensor, score: Score, how: Improvement, also: Tensor | None = None) -> Candidates:
    """Ranks candidates and climbs the critic from the best of them.

    Of each of these the best action on its way is kept, its start included: the critic never thinks less of an improved
    action than of the one that it came from.

    Args:
        candidates: (B, N, |A|), of the base policy; N is at least k.
        score: The critic, for these states: the mean over its ensemble. Only actions get a gradient.
        how: k, steps and bounds.
        also: (B, |A|): takes the place of the worst of the k before they climb. PA-RL gives the action of the data
            there, where the base policy is to learn from what comes out.
    """
    actions = candidates.clamp(how.low, how.high).detach()
    with torch.no_grad():
        ranked = score(actions).topk(how.keep, dim=1).indices
    actions = actions.gather(1, ranked[..., None].expand(-1, -1, actions.shape[-1]))
    if also is not None:
        actions = torch.cat([actions[:, :-1], also.detach().clamp(how.low, how.high)[:, None]], dim=1)
    best, best_values = actions, torch.full(actions.shape[:2], -torch.inf, device=actions.device)
    for step in range(how.steps + 1):
        values, gradient = _value_and_gradient(score, actions, climbs=step < how.steps)
        better = values > best_values
        best, best_values = torch.where(better[..., None], actions, best), torch.where(better, values, best_values)
        actions = (actions + how.step_size * gradient).clamp(how.low, how.high)
    return Candidates(best, best_values)


def _value_and_gradient(score: Score, actions: Tensor, climbs: bool) -> tuple[Tensor, Tensor]:
    with torch.set_grad_enabled(climbs):
        seen = actions.detach().requires_grad_(climbs)
        values = score(seen)
        gradient = torch.autograd.grad(values.sum(), seen)[0] if climbs else torch.zeros_like(actions)
    return values.detach(), gradient
