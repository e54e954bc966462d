"""An episode of an agent, whole and checked before anything learns from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vie import VieError

Array = npt.NDArray[np.generic]
Numbers = npt.NDArray[np.floating[Any]]


def to_unit(action: Numbers, low: Numbers, high: Numbers) -> npt.NDArray[np.float32]:
    """From bounds (A,) into [-1, 1]."""
    return np.asarray((action - low) / (high - low) * 2.0 - 1.0, np.float32)


def from_unit(action: Numbers, low: Numbers, high: Numbers) -> npt.NDArray[np.float32]:
    """From [-1, 1] into bounds (A,)."""
    return np.asarray((action + 1.0) / 2.0 * (high - low) + low, np.float32)


@dataclass(frozen=True)
class Space:
    """What an environment gives and takes.

    Attributes:
        observations: Shape and type of each part of an observation, by name; pictures are uint8 (H, W, 3).
        low: (A,) of an action.
        high: (A,) of an action.
    """

    observations: Mapping[str, tuple[tuple[int, ...], np.dtype[np.generic]]]
    low: npt.NDArray[np.float32]
    high: npt.NDArray[np.float32]

    @property
    def action_dim(self) -> int:
        return len(self.low)

    @property
    def is_unit(self) -> bool:
        """Whether its actions are in [-1, 1], as agents choose them."""
        return bool((self.low == -1).all() and (self.high == 1).all())


@dataclass(frozen=True)
class Trajectory:
    """T steps, from a start to an end.

    Attributes:
        name: Of the episode, for errors.
        observations: (T + 1, ...) by name: what was seen before each action, and after the last.
        actions: (T, A) float32.
        rewards: (T,) float32.
        terminal: Whether it ended in a terminal state; it was cut off otherwise, as where time ran out.
    """

    name: str
    observations: Mapping[str, Array]
    actions: npt.NDArray[np.float32]
    rewards: npt.NDArray[np.float32]
    terminal: bool

    def __len__(self) -> int:
        return len(self.actions)

    def check(self, space: Space) -> None:
        """Raises ``VieError``, which names the episode, if it does not fit an environment or itself."""
        length = len(self.actions)
        if length == 0:
            raise self._wrong("has no steps", "leave it out")
        if self.actions.shape[1:] != (space.action_dim,):
            raise self._wrong(
                f"has actions of {list(self.actions.shape[1:])} numbers where the environment takes {space.action_dim}",
                "give the dataset of this environment",
            )
        if self.rewards.shape != (length,):
            raise self._wrong(f"has {self.rewards.shape} rewards for {length} actions", "mend the dataset")
        for what, numbers in (("reward", self.rewards), ("action", self.actions)):
            if not np.isfinite(numbers).all():
                step = int(np.argwhere(~np.isfinite(numbers))[0][0])
                raise self._wrong(f"has {numbers[step]} for the {what} of step {step}", "leave it out, or mend it")
        outside = (self.actions < space.low - 1e-4) | (self.actions > space.high + 1e-4)
        if outside.any():
            step, part = np.argwhere(outside)[0]
            raise self._wrong(
                f"has an action {self.actions[step, part]:.3g} in place {part} of step {step}, outside "
                f"[{space.low[part]:.3g}, {space.high[part]:.3g}]",
                "scale its actions to those of the environment; of data without one, data.scale_actions=true does",
            )
        for name, (shape, dtype) in space.observations.items():
            if name not in self.observations:
                raise self._wrong(
                    f"has no observation {name!r} (it has {', '.join(self.observations) or 'none'})",
                    "give the dataset of this environment, or leave that part out of what the agent sees",
                )
            seen = self.observations[name]
            if len(seen) != length + 1:
                raise self._wrong(
                    f"has {len(seen)} observations {name!r} for {length} actions, not {length + 1}",
                    "record what was seen after the last action too",
                )
            if seen.shape[1:] != shape or seen.dtype != dtype:
                raise self._wrong(
                    f"has observations {name!r} of {seen.dtype} {list(seen.shape[1:])} where the environment gives "
                    f"{dtype} {list(shape)}",
                    "give the dataset of this environment",
                )
            if np.issubdtype(seen.dtype, np.floating) and not np.isfinite(seen).all():
                step, *part = np.argwhere(~np.isfinite(seen))[0].tolist()
                place = f" in place {', '.join(map(str, part))}" if part else ""
                raise self._wrong(
                    f"has {seen[step, *part]}{place} of the observation {name!r} of step {step}",
                    "leave it out, or mend it",
                )

    def _wrong(self, what: str, cure: str) -> VieError:
        return VieError(f"{self.name} {what}: {cure}")
