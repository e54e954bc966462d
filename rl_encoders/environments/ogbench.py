"""``ogbench:ID``: OGBench's visual tasks of one goal; moving a single cube has its scripted policy."""

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from rl_encoders.environments.kinds import Opened, need
from vie import VieError


def open_environment(task: str, size: int, arguments: Mapping[str, Any]) -> Opened:
    """Opens a task by the name of its dataset, as ``ogbench:visual-cube-single-play-singletask-v0``."""
    ogbench = need("ogbench", "ogbench")
    if not task.startswith("visual-") or "singletask" not in task:
        raise VieError(f"ogbench:{task} is no visual task with one goal: write visual-…-singletask-v0")
    env = ogbench.make_env_and_datasets(task, env_only=True, **arguments)
    scripts = {}
    if task.startswith("visual-cube-single-"):
        env = _Scripted(env)
        scripts["scripted"] = env.demonstrate
    return Opened(
        env,
        lambda seen: {"pixels": np.asarray(seen)},
        None,
        demonstrations=scripts,
        packages=("gymnasium", "ogbench", "mujoco"),
    )


class _Scripted(gym.Wrapper[Any, Any, Any, Any]):
    """With the policy that OGBench's datasets were made by, which heads for the goal of the task here."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        from ogbench.manipspace.oracles.markov.cube_markov import CubeMarkovOracle

        self.script = CubeMarkovOracle(env=env)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        found = self.env.reset(seed=seed, options=options)
        # Where the script rests in the end it draws from NumPy's own generator.
        np.random.seed(seed)
        self.script.reset(*found)
        return found

    def demonstrate(self, seen: Any) -> npt.NDArray[np.float64]:
        """Action, (5,) in [-1, 1], from the state of the simulation."""
        plain: Any = self.env.unwrapped
        goal = {
            "privileged/target_block": 0,
            "privileged/target_block_pos": plain.cur_task_info["goal_xyzs"][0],
            "privileged/target_block_yaw": np.zeros(1),
        }
        return self.script.select_action(seen, plain.compute_ob_info() | goal)
