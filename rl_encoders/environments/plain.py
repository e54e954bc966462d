"""An environment whose observations are named parts and whose actions lie in [-1, 1], checked at every step."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from PIL import Image

from rl_encoders.environments.kinds import Opened
from rl_encoders.replay.trajectory import Array, Space, from_unit, to_unit
from rl_encoders.rollout import Parts, is_success
from vie import VieError

Reward = Literal["task", "success"]
TOLERANCE = 1e-4  # by which rounding may put an action out of its bounds, as ``Trajectory.check`` allows


def box(shape: tuple[int, ...], dtype: np.dtype[Any]) -> spaces.Box:
    """Gymnasium's space of a part of an observation: pictures uint8, or numbers without bounds."""
    if dtype == np.uint8:
        return spaces.Box(0, 255, shape, np.uint8)
    return spaces.Box(-np.inf, np.inf, shape, np.float32)


class PlainEnvironment(gym.Env[Parts, npt.NDArray[np.float32]]):
    """In this process: what raises or hangs does so here."""

    def __init__(
        self,
        name: str,
        opened: Opened,
        size: int,
        max_steps: int | None = None,
        reward: Reward = "task",
        parts: Sequence[str] | None = None,
    ) -> None:
        """Wraps an environment.

        Args:
            name: For errors.
            opened: The environment.
            size: Side of the pictures in pixels.
            max_steps: After which an episode is truncated; by default as the environment has it.
            reward: Its own; or 1 for success, which then ends the episode too, and 0 before.
            parts: Of observations that are wanted; it is rendered only for a picture that is. None for all.

        Raises:
            VieError: Its actions are not bounded numbers, its episodes may never end, or it lacks a part.
        """
        self.name, self.opened, self.size, self.reward, self.parts = name, opened, size, reward, parts
        own = opened.env.action_space
        if not isinstance(own, spaces.Box) or not own.is_bounded():
            raise VieError(f"{name} takes {own}: agents act by bounded numbers, so take an environment with a Box")
        self.own_low, self.own_high = own.low.ravel().astype(np.float64), own.high.ravel().astype(np.float64)
        self.own_shape, self.own_dtype = own.shape, own.dtype
        spec = opened.env.spec
        limit = max_steps or opened.max_steps or (spec.max_episode_steps if spec else None)
        if limit is None:
            raise VieError(f"{name} has no step limit, so that an episode may never end: give max_steps")
        self.max_steps = limit
        self.action_space = spaces.Box(-1.0, 1.0, (len(self.own_low),), np.float32)
        seconds = getattr(opened.env.unwrapped, "dt", None)
        self.control_hz = 1.0 / seconds if isinstance(seconds, float) and seconds > 0 else None
        self.steps = 0
        self._latest: Any = None
        first = self._begin(seed=0)[0]
        lacking = [part for part in parts or [] if part not in first]
        if lacking:
            known = dict.fromkeys([*opened.look(self._latest), *([opened.rendered] if opened.rendered else [])])
            raise VieError(f"there is no {lacking[0]!r} to see in {name}: observations have {', '.join(known)}")
        self.space = Space(
            {part: (value.shape, value.dtype) for part, value in first.items()},
            self.action_space.low,
            self.action_space.high,
        )
        # Releases of Gymnasium differ in what they say that their Dict holds.
        seen: gym.Space[Any] = spaces.Dict({part: box(*kind) for part, kind in self.space.observations.items()})
        self.observation_space = seen

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Parts, dict[str, Any]]:
        """Begins an episode."""
        seen, info = self._begin(seed, options)
        self._check(seen)
        return seen, info

    def step(self, action: npt.NDArray[np.float32]) -> tuple[Parts, float, bool, bool, dict[str, Any]]:
        """Takes an action (A,) in [-1, 1].

        Raises:
            VieError: The action does not fit, or what the environment gives does not.
        """
        given = np.asarray(action, np.float32)
        bound = 1.0 + TOLERANCE
        if given.shape != self.action_space.shape or not (np.abs(given) <= bound).all():
            raise VieError(
                f"{self.name} was given the action {given.tolist()} in step {self.steps}: it takes "
                f"{len(self.own_low)} numbers in [-1, 1]"
            )
        own = from_unit(np.clip(given, -1.0, 1.0).astype(np.float64), self.own_low, self.own_high)
        # Rounding to float32 must not leave the bounds: some environments refuse such actions.
        own = np.clip(own, self.own_low.astype(np.float32), self.own_high.astype(np.float32))
        env = self.opened.env
        self._latest, gain, terminated, truncated, info = env.step(own.astype(self.own_dtype).reshape(self.own_shape))
        reward = float(gain)
        self.steps += 1
        if not np.isfinite(reward):
            raise VieError(f"{self.name} gave the reward {reward} in step {self.steps - 1}: mend it or leave it out")
        seen = self._parts()
        self._check(seen)
        number, done = reward, bool(terminated)
        if self.reward == "success":
            told = is_success(info)
            if told is None:
                raise VieError(f"{self.name} does not tell success: use reward=task")
            number, done = float(told), done or told
        return seen, number, done, bool(truncated) or self.steps >= self.max_steps, _small(info)

    def demonstrate(self, name: str) -> npt.NDArray[np.float32]:
        """What a scripted policy would do now: an action in [-1, 1].

        Raises:
            VieError: There is no such policy.
        """
        known = self.opened.demonstrations
        if name not in known:
            raise VieError(f"{self.name} has no policy {name!r}: it has {', '.join([*known, 'random'])}")
        own = np.asarray(known[name](self._latest), np.float64)
        return np.clip(to_unit(own, self.own_low, self.own_high), -1.0, 1.0)

    def close(self) -> None:
        self.opened.env.close()

    def _begin(
        self, seed: int | None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        self.steps = 0
        self._latest, info = self.opened.env.reset(seed=seed, options=options)
        return self._parts(), _small(info)

    def _parts(self) -> dict[str, Array]:
        seen = dict(self.opened.look(self._latest))
        rendered = self.opened.rendered
        if rendered is not None and (self.parts is None or rendered in self.parts):
            seen[rendered] = np.asarray(self.opened.env.render())
        wanted = {name: value for name, value in seen.items() if self.parts is None or name in self.parts}
        return {name: self._resized(value) if value.ndim == 3 else value for name, value in wanted.items()}

    def _resized(self, picture: Array) -> Array:
        if picture.dtype != np.uint8 or picture.shape[-1] != 3:
            raise VieError(f"{self.name} gave a picture of {picture.dtype} {list(picture.shape)}: see how it renders")
        if picture.shape[:2] == (self.size, self.size):
            return picture.copy()
        return np.asarray(Image.fromarray(picture).resize((self.size, self.size), Image.Resampling.BILINEAR))

    def _check(self, seen: Parts) -> None:
        for name, (shape, dtype) in self.space.observations.items():
            if name not in seen:
                raise VieError(
                    f"{self.name} gave no {name!r} in step {self.steps}: it gave {', '.join(seen) or 'nothing'}"
                )
            value = seen[name]
            if value.shape != shape or value.dtype != dtype:
                raise VieError(
                    f"{self.name} gave {name!r} of {value.dtype} {list(value.shape)} in step {self.steps}, not of "
                    f"{dtype} {list(shape)} as before: mend it"
                )
            if value.dtype != np.uint8 and not np.isfinite(value).all():
                raise VieError(f"{self.name} gave a {name!r} that is not finite in step {self.steps}: mend it")


def _small(info: Mapping[str, Any]) -> dict[str, Any]:
    """What is a number or a word: it goes through a pipe at every step."""
    kept = {name: value.item() if isinstance(value, np.generic) else value for name, value in info.items()}
    return {name: value for name, value in kept.items() if isinstance(value, bool | int | float | str)}
