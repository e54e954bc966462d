"""``metaworld:TASK``: Meta-World's tasks, goals drawn anew in every episode, with their scripted policies."""

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from rl_encoders.environments.kinds import Opened, need
from vie import VieError

SHADOWS = 16
"""Side of the maps of shadows in pixels of a picture's side; Meta-World's own of 4,096, for each of four lights, take
most of the time of a small picture (one H200, 64 pixels: 312 pictures a second, 1,010 with 1,024)."""
HAND = 4  # position of the hand, and how far it is open: all that the robot knows of itself


class _Task(gym.Wrapper[Any, Any, Any, Any]):
    """Goals follow the seed of ``reset``: Meta-World draws them from a generator that only ``seed`` sets."""

    def __init__(self, env: Any, upside_down: bool) -> None:
        super().__init__(env)
        self.upside_down = upside_down

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            task: Any = self.env.unwrapped
            task.seed(seed)
        return self.env.reset(seed=seed, options=options)

    def render(self) -> Any:
        picture: Any = self.env.render()
        return picture[::-1, ::-1] if self.upside_down else picture


def open_environment(task: str, size: int, arguments: Mapping[str, Any]) -> Opened:
    """Opens a task as ``metaworld:door-open-v3``; camera ``corner2`` unless ``camera_name`` tells another."""
    need("metaworld", "metaworld")
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS
    from metaworld.policies import ENV_POLICY_MAP

    if task not in ALL_V3_ENVIRONMENTS:
        raise VieError(f"metaworld:{task} is no task: write one of {', '.join(sorted(ALL_V3_ENVIRONMENTS))}")
    settings = {"camera_name": "corner2", "width": size, "height": size, **arguments}
    env = ALL_V3_ENVIRONMENTS[task](render_mode="rgb_array", **settings)
    shadows = env.model.vis.quality
    shadows.shadowsize = min(shadows.shadowsize, SHADOWS * size)
    # What `set_task` of its benchmarks would set, but for the goal, which they freeze.
    env._set_task_called, env._freeze_rand_vec, env._partially_observable = True, False, False
    env.seeded_rand_vec = True
    # Observations are clipped to it, the goal to 0: computed anew, as by `set_task`.
    vars(env).pop("sawyer_observation_space", None)
    script = ENV_POLICY_MAP[task]()
    return Opened(
        # Its cameras in the corners hang upside down.
        _Task(env, settings["camera_name"].startswith("corner")),
        lambda seen: {"state": np.asarray(seen[:HAND], np.float32)},
        max_steps=env.max_path_length,
        demonstrations={"scripted": script.get_action},
        packages=("gymnasium", "metaworld", "mujoco"),
    )
