"""An agent in an episode: it looks at every observation once, to act on it and to remember it."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rl_encoders.agents.agent import Agent
from rl_encoders.agents.perception import Perception
from rl_encoders.replay.trajectory import Array


class Actor:
    """Acts in one episode after another, and keeps what its agent's eyes keep of each observation."""

    def __init__(self, agent: Agent, explore: bool) -> None:
        """Begins; actions are drawn to explore, or the best."""
        self.agent, self.explore = agent, explore
        eyes: Perception = agent.eyes
        self.back = {name: np.asarray(steps) for name, steps in eyes.back.items()}
        self._seen: list[Mapping[str, Array]] = []
        self._rows: list[dict[str, Tensor]] = []

    def begin(self) -> None:
        """Forgets the episode before."""
        self._seen, self._rows = [], []

    def look(self, observation: Mapping[str, Array]) -> None:
        """Takes the next observation of the episode in: its parts by name."""
        eyes: Perception = self.agent.eyes
        self._seen.append(observation)
        recent = self._seen[-1 - eyes.reach :]
        together = {name: np.stack([one[name] for one in recent]) for name in observation}
        self._rows.append({name: rows[0] for name, rows in eyes.keep(together, first=len(recent) - 1).items()})

    def act(self) -> npt.NDArray[np.float32]:
        """An action (A,) for the newest observation."""
        newest = len(self._rows) - 1
        seen = {}
        for name in self._rows[-1]:
            if name in self.back:
                seen[name] = torch.stack([self._rows[max(0, newest - int(back))][name] for back in self.back[name]])
            else:
                seen[name] = self._rows[-1][name]
        return self.agent.act({name: tensor[None] for name, tensor in seen.items()}, self.explore)[0]

    def kept(self) -> dict[str, Tensor]:
        """What is kept of all observations of the episode: (T + 1, ...) by name."""
        return {name: torch.stack([row[name] for row in self._rows]) for name in self._rows[0]}
