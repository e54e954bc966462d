"""``gym:ID``: any Gymnasium environment with continuous actions."""

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from rl_encoders.environments.kinds import Opened
from rl_encoders.replay.trajectory import Array
from vie import VieError


def open_environment(task: str, size: int, arguments: Mapping[str, Any]) -> Opened:
    """Opens ``ID`` or ``MODULE:ID``; it can be rendered if its observations hold no picture."""
    plain = gym.make(task, **arguments)
    look, sees = reader(plain.observation_space)
    if sees:
        return Opened(plain, look, None)
    try:
        env = gym.make(task, render_mode="rgb_array", **arguments)
    except Exception as error:  # renderers raise errors of many kinds where there is no display or no package
        return Opened(_Unseen(plain, f"gym:{task}", error), look, "pixels")
    plain.close()
    return Opened(env, look, "pixels")


class _Unseen(gym.Wrapper[Any, Any, Any, Any]):
    """Cannot be rendered, which matters to those alone who want its pictures."""

    def __init__(self, env: gym.Env[Any, Any], name: str, error: Exception) -> None:
        super().__init__(env)
        self.name, self.error = name, error

    def render(self) -> Any:
        raise VieError(
            f"{self.name} gives no pictures and cannot be rendered ({self.error}): install its extras, or do without "
            "pictures"
        ) from self.error


def reader(space: spaces.Space[Any]) -> tuple[Callable[[Any], Mapping[str, Array]], bool]:
    """What reads the parts out of observations, and whether there are pictures among them."""
    parts: Mapping[str, Any] = space.spaces if isinstance(space, spaces.Dict) else {"": space}
    pictures = [name for name, part in parts.items() if _is_picture(part)]
    numbers = [name for name, part in parts.items() if _is_vector(part)]

    def look(observation: Any) -> dict[str, Array]:
        named = observation if isinstance(observation, Mapping) else {"": observation}
        seen: dict[str, Array] = {name or "pixels": np.asarray(named[name]) for name in pictures if name in named}
        seen |= {name or "state": np.asarray(named[name], np.float32) for name in numbers if name in named}
        return seen

    return look, bool(pictures)


def _is_picture(space: spaces.Space[Any]) -> bool:
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3 and space.shape[-1] == 3


def _is_vector(space: spaces.Space[Any]) -> bool:
    return isinstance(space, spaces.Box) and len(space.shape) == 1 and np.issubdtype(space.dtype or object, np.floating)
