"""``ogbench:ID``: OGBench's visual tasks of one goal."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rl_encoders.environments.kinds import Opened, need
from vie import VieError


def open_environment(task: str, size: int, arguments: Mapping[str, Any]) -> Opened:
    """Opens a task by the name of its dataset, as ``ogbench:visual-cube-single-play-singletask-v0``."""
    ogbench = need("ogbench", "ogbench")
    if not task.startswith("visual-") or "singletask" not in task:
        raise VieError(f"ogbench:{task} is no visual task with one goal: write visual-…-singletask-v0")
    env = ogbench.make_env_and_datasets(task, env_only=True, **arguments)
    return Opened(
        env,
        lambda seen: {"pixels": np.asarray(seen)},
        None,
        packages=("gymnasium", "ogbench", "mujoco"),
    )
