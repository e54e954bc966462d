"""An agent in episodes: it looks at every observation once, to act on it and to remember it."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from rl_encoders.agents.agent import Agent
from rl_encoders.agents.perception import Perception
from rl_encoders.replay.trajectory import Trajectory
from rl_encoders.rollout import Action, Parts


class Actor:
    """Acts in episodes that go on together, and keeps what its agent's eyes keep of each observation."""

    def __init__(self, agent: Agent, explore: bool, chunk: int = 1, remember: bool = True) -> None:
        """Before the first observation.

        Args:
            agent: That acts.
            explore: Whether actions are drawn to explore, or the best.
            chunk: Actions that it chooses at once; the episodes are to begin together.
            remember: Whether all of an episode is kept, for ``kept``, or only what the next action needs.
        """
        self.agent, self.explore, self.chunk = agent, explore, chunk
        eyes: Perception = agent.eyes
        self.reach = eyes.reach
        self.back = {name: np.asarray(steps) for name, steps in eyes.back.items()}
        self._most = None if remember else 1 + max((int(steps.max()) for steps in self.back.values()), default=0)
        self._seen: dict[int, list[Parts]] = {}
        self._rows: dict[int, list[dict[str, Tensor]]] = {}
        self._chosen: dict[int, list[Action]] = {}

    def __call__(self, seen: Mapping[int, Parts]) -> dict[int, Action]:
        """Actions (A,) for the newest observations of some episodes, by their numbers."""
        carries_out = any(self._chosen.get(episode) for episode in seen)
        # Of what nobody remembers, only clips of the stored need what is seen while a chunk is carried out.
        self._look(seen, skip=carries_out and self._most is not None and not self.back)
        if not carries_out:
            parts = [self._newest(episode) for episode in seen]
            together = {name: torch.stack([part[name] for part in parts]) for name in parts[0]}
            for episode, actions in zip(seen, self.agent.act(together, self.explore), strict=True):
                self._chosen[episode] = list(actions.reshape(self.chunk, -1))
        return {episode: self._chosen[episode].pop(0) for episode in seen}

    def kept(self, episode: int, trajectory: Trajectory) -> dict[str, Tensor]:
        """What is kept of all observations of an episode, of which the last was not acted on: (T + 1, ...) by name."""
        if len(self._rows[episode]) == len(trajectory):
            self._look({episode: {name: part[-1] for name, part in trajectory.observations.items()}})
        rows = self._rows[episode]
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    def _look(self, seen: Mapping[int, Parts], skip: bool = False) -> None:
        eyes: Perception = self.agent.eyes
        histories: list[Sequence[Parts]] = []
        for episode, observation in seen.items():
            self._seen[episode] = [*self._seen.get(episode, [])[-self.reach :], observation][-1 - self.reach :]
            histories.append(self._seen[episode])
        if skip:
            return
        found = eyes.keep_newest(histories)
        for number, episode in enumerate(seen):
            rows = self._rows.setdefault(episode, [])
            rows.append({name: newest[number] for name, newest in found.items()})
            if self._most is not None:
                del rows[: -self._most]

    def _newest(self, episode: int) -> dict[str, Tensor]:
        rows, found = self._rows[episode], {}
        for name in rows[-1]:
            if name in self.back:
                found[name] = torch.stack([rows[max(0, len(rows) - 1 - int(back))][name] for back in self.back[name]])
            else:
                found[name] = rows[-1][name]
        return found
