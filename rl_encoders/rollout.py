"""Episodes, from start to end, one or several at a time."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rl_encoders.replay.trajectory import Array, Space, Trajectory
from vie import VieError

Parts = Mapping[str, Array]
"""An observation: named pictures uint8 (H, W, 3) and numbers float32 (N,)."""

Action = npt.NDArray[np.float32]
Act = Callable[[Parts], Action]
"""What to do, (A,) in [-1, 1], for what is seen."""

Acts = Callable[[Mapping[int, Parts]], Mapping[int, Action]]
"""What to do for what is seen in several episodes, by their numbers."""

MOST_FAULTS = 3
"""Episodes in a row that may fail: an environment that always does is not tried for ever."""


class World(Protocol):
    """An environment; see ``rl_encoders.environments``."""

    space: Space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins an episode."""
        ...

    def step(self, action: Action) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Takes an action."""
        ...


@dataclass(frozen=True)
class Episode:
    """An episode that was run.

    Attributes:
        trajectory: All of it.
        success: Whether the task was done at any step; None where the environment does not tell.
        seed: Of its reset.
    """

    trajectory: Trajectory
    success: bool | None
    seed: int


class EpisodeError(VieError):
    """An environment failed within an episode.

    Attributes:
        before: What had happened until then, cut off there; None if nothing had.
    """

    def __init__(self, message: str, before: Trajectory | None = None) -> None:
        super().__init__(message)
        self.before = before


def is_success(info: Mapping[str, Any]) -> bool | None:
    """Whether the task is done; None where the environment does not tell."""
    told = info.get("success", info.get("is_success"))
    return None if told is None else bool(told)


def run_episode(world: World, act: Act, name: str, seed: int, options: Mapping[str, Any] | None = None) -> Episode:
    """Runs an episode from start to end.

    Args:
        world: In which.
        act: What to do.
        name: Of the episode, for errors.
        seed: Of its reset.
        options: Of its reset.

    Raises:
        EpisodeError: The environment or the policy fails, or the action does not fit; names the episode.
        VieError: What it gave is no whole episode.
    """
    running = _Running(world, name, seed, options)
    running.begin()
    while not running.over:
        try:
            action = act(running.seen[-1])
        except VieError as error:
            raise EpisodeError(f"{name}, step {len(running.actions)}: {error}") from error
        running.step(action)
    return running.episode()


def run_episodes(
    worlds: Sequence[World],
    act: Acts,
    names: Sequence[str],
    seeds: Sequence[int],
) -> list[Episode]:
    """Runs an episode in each of some worlds, step by step together; else as ``run_episode``.

    Args:
        worlds: At least as many as there are names.
        act: Actions for what is seen in the episodes that are not over, by their numbers.
        names: Of the episodes.
        seeds: Of the episodes.
    """
    running = [_Running(world, name, seed) for world, name, seed in zip(worlds, names, seeds, strict=False)]
    with ThreadPoolExecutor(len(running)) as pool:  # each waits for a process of its own
        list(pool.map(_Running.begin, running))
        while going := {number: one.seen[-1] for number, one in enumerate(running) if not one.over}:
            actions = act(going)
            list(pool.map(lambda number, taken=actions: running[number].step(taken[number]), going))
    return [one.episode() for one in running]


class _Running:
    """An episode on its way."""

    def __init__(self, world: World, name: str, seed: int, options: Mapping[str, Any] | None = None) -> None:
        self.world, self.name, self.seed = world, name, seed
        self.options = None if options is None else dict(options)
        self.seen: list[Parts] = []
        self.actions: list[Action] = []
        self.rewards: list[float] = []
        self.success: bool | None = None
        self.terminated = self.over = False

    def begin(self) -> None:
        try:
            self.seen.append(self.world.reset(seed=self.seed, options=self.options)[0])
        except VieError as error:
            raise EpisodeError(f"{self.name}, step 0: {error}") from error

    def step(self, action: Action) -> None:
        try:
            seen, reward, self.terminated, truncated, info = self.world.step(np.asarray(action, np.float32))
        except VieError as error:
            before = self._trajectory() if self.actions else None
            raise EpisodeError(f"{self.name}, step {len(self.actions)}: {error}", before) from error
        self.seen.append(seen)
        self.actions.append(np.asarray(action, np.float32))
        self.rewards.append(reward)
        if (told := is_success(info)) is not None:
            self.success = bool(self.success) or told
        self.over = self.terminated or truncated

    def episode(self) -> Episode:
        trajectory = self._trajectory()
        trajectory.check(self.world.space)
        return Episode(trajectory, self.success, self.seed)

    def _trajectory(self) -> Trajectory:
        parts = {part: np.stack([one[part] for one in self.seen]) for part in self.world.space.observations}
        rewards = np.asarray(self.rewards, np.float32)
        return Trajectory(self.name, parts, np.stack(self.actions), rewards, self.terminated)
