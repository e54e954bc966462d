"""``robotics:ID``: Adroit's hands and PointMaze of gymnasium-robotics."""

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from rl_encoders.environments.kinds import Opened, need
from rl_encoders.environments.mazes import WaypointControl
from rl_encoders.replay.trajectory import Array
from vie import VieError

JOINTS = {"Door": 27, "Hammer": 27, "Pen": 24, "Relocate": 30}
"""How many of Adroit's numbers are of the hand itself; the others tell of the object, which is to be seen."""


def open_environment(task: str, size: int, arguments: Mapping[str, Any]) -> Opened:
    """Opens ``AdroitHandDoor-v1``, ``PointMaze_UMaze-v3`` and their like."""
    gym.register_envs(need("gymnasium_robotics", "robotics"))
    env = gym.make(task, render_mode="rgb_array", **{"width": size, "height": size, **arguments})
    packages = ("gymnasium", "gymnasium-robotics", "mujoco")
    if task.startswith("PointMaze"):
        control = WaypointControl(env.unwrapped)
        return Opened(env, _own("observation"), demonstrations={"waypoint": control}, packages=packages)
    for name, joints in JOINTS.items():
        if task.startswith(f"AdroitHand{name}"):
            return Opened(env, _first(joints), packages=packages)
    raise VieError(f"robotics:{task} is neither an AdroitHand nor a PointMaze: try gym:gymnasium_robotics:{task}")


def _own(name: str) -> Callable[[Any], Mapping[str, Array]]:
    return lambda seen: {"state": np.asarray(seen[name], np.float32)}


def _first(count: int) -> Callable[[Any], Mapping[str, Array]]:
    return lambda seen: {"state": np.asarray(seen[:count], np.float32)}
