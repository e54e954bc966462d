"""Any agent with a reward for novelty: OOO's first two phases (Sobol Mark et al. 2023).

The bonus is computed anew whenever a transition is drawn, of the offline data too, which so becomes familiar; what is
stored stays the reward of the task. It is measured on what is kept of observations, not on what is learned of them.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from rl_encoders.agents.agent import Agent, Metrics, descend
from rl_encoders.agents.novelty import novelty_dim, observed
from rl_encoders.agents.rnd import RND
from rl_encoders.replay.buffer import Batch


class Exploring(Agent):
    """An agent that learns of the task's reward and a bonus for where it has not been."""

    def __init__(self, inner: Agent, scale: float, lr: float = 1e-4, width: int = 512) -> None:
        """Takes an agent whose optimizers are yet to be made.

        Args:
            inner: That explores.
            scale: Factor of the bonus.
            lr: Learning rate of the predictor.
            width: Of its layers, and of the random network's.
        """
        super().__init__(inner.eyes, share_encoder=True, held=False)
        self.inner, self.scale, self.lr = inner, scale, lr
        self.rnd = RND(novelty_dim(inner.eyes), width, width)

    def make_optimizers(self) -> None:
        self.inner.make_optimizers()
        self.rnd_optimizer = torch.optim.Adam(self.rnd.predictor.parameters(), self.lr)

    def optimizers(self) -> dict[str, Optimizer]:
        return {**super().optimizers(), **self.inner.optimizers()}

    @property
    def imitates(self) -> bool:
        return self.inner.imitates

    def imitate(self, batch: Batch) -> Metrics:
        return self.inner.imitate(batch)

    def distil(self, batch: Batch) -> Metrics:
        return self.inner.distil(batch)

    def seers(self) -> Iterator[tuple[Any, Optimizer | None]]:
        yield from self.inner.seers()

    def update(self, batch: Batch) -> Metrics:
        seen = observed(self.eyes, batch.next_seen)
        loss = self.rnd.loss(seen)
        descend(self.rnd_optimizer, loss)
        bonus = self.rnd.bonus(seen)
        metrics = self.inner.update_with_bonus(batch, self.scale * bonus)
        return {**metrics, "rnd_loss": loss.detach(), "bonus": bonus.mean()}

    def choose(self, seen: Mapping[str, Tensor], explore: bool) -> Tensor:
        return self.inner.choose(seen, explore)
