"""Eyes beside which parts of observations are kept as they were taken, for a policy that sees for itself.

What a frozen encoder keeps are features; a vision-language model behind ``ExternalPolicy`` wants the pictures.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rl_encoders.agents.perception import Perception
from rl_encoders.replay.trajectory import Array

RAW = "raw."
"""Before the names of what is kept as it was taken."""


class WithRaw(nn.Module):
    """Eyes like those that are given, which also keep ``raw.NAME`` of some parts of an observation."""

    def __init__(self, eyes: Perception, names: Sequence[str]) -> None:
        """Takes eyes, and names of parts of observations, as ``pixels``."""
        super().__init__()
        assert isinstance(eyes, nn.Module)
        self.eyes: Any = eyes
        self.names = tuple(names)
        self.dim: int = eyes.dim
        self.back: Mapping[str, Sequence[int]] = eyes.back
        self.reach: int = eyes.reach
        self.augments: bool = eyes.augments

    def keep(self, observations: Mapping[str, Array]) -> dict[str, Tensor]:
        kept: dict[str, Tensor] = self.eyes.keep(observations)
        return kept | {RAW + name: torch.from_numpy(np.ascontiguousarray(observations[name])) for name in self.names}

    def keep_newest(self, histories: Sequence[Sequence[Mapping[str, Array]]]) -> dict[str, Tensor]:
        kept: dict[str, Tensor] = self.eyes.keep_newest(histories)
        newest = {name: np.stack([history[-1][name] for history in histories]) for name in self.names}
        return kept | {RAW + name: torch.from_numpy(rows) for name, rows in newest.items()}

    def advance(self, step: int, optimizer: Optimizer | None) -> None:
        self.eyes.advance(step, optimizer)

    def vector(self, seen: Mapping[str, Tensor], shifts: Tensor | None = None) -> Tensor:
        found: Tensor = self.eyes.vector(seen, shifts)
        return found

    def param_groups(self, lr: float) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = self.eyes.param_groups(lr)
        return groups

    def shifts(self, count: int) -> Tensor:
        drawn: Tensor = self.eyes.shifts(count)
        return drawn
