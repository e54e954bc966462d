"""``maze:ID``: PointMaze of gymnasium-robotics from above, drawn here, so that no renderer has to be there."""

import contextlib
import io
import os
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from rl_encoders.environments.kinds import Opened, need
from rl_encoders.environments.mazes import WaypointControl
from rl_encoders.replay.trajectory import Array
from vie import VieError

WALL, FLOOR, GOAL, POINT = (52, 70, 94), (238, 240, 243), (210, 69, 61), (42, 103, 177)
GOAL_RADIUS, POINT_RADIUS = 0.45, 0.25
"""Of a cell; within the first of the goal the task is done, where cells are as large as in PointMaze."""
EDGE = 0.25
"""Of a cell: what is shown of the walls around the maze."""
FASTEST = 5.0
"""Speed that PointMaze allows in each direction."""
HELD = 4
"""Steps of the physics that an action lasts: in one, a hundredth of a second, there is little to see."""

Picture = npt.NDArray[np.uint8]
Place = npt.NDArray[np.float64]


def open_environment(task: str, size: int, arguments: Mapping[str, Any]) -> Opened:
    """Opens ``PointMaze_UMaze-v3`` and its like, at 25 actions in a second.

    An agent feels its velocity; it has to see where it is, and where the goal.

    Raises:
        VieError: It is no PointMaze.
    """
    if not task.startswith("PointMaze"):
        raise VieError(f"maze:{task} is no PointMaze: write one as maze:PointMaze_UMaze-v3, or robotics:{task}")
    # MuJoCo loads no renderer, which may be missing.
    os.environ["MUJOCO_GL"] = "disabled"
    with contextlib.redirect_stderr(io.StringIO()):  # it tells of Adroit's rewards, in every process
        gym.register_envs(need("gymnasium_robotics", "robotics"))
    env: Any = gym.make(task, **arguments)
    view = View(env.unwrapped.maze, size)

    def look(seen: Any) -> dict[str, Array]:
        velocity = np.asarray(seen["observation"][2:4] / FASTEST, np.float32)
        return {"pixels": view.draw(seen["achieved_goal"], seen["desired_goal"]), "velocity": velocity}

    control = WaypointControl(env.unwrapped)
    packages = ("gymnasium", "gymnasium-robotics", "mujoco")
    steps = env.spec.max_episode_steps // HELD
    return Opened(_Held(env), look, None, steps, {"waypoint": control}, packages)


class _Held(gym.Wrapper[Any, Any, Any, Any]):
    """Every action lasts, unless the task is done before; its rewards are added up."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        total = 0.0
        for _ in range(HELD):
            seen, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if terminated or truncated or info["success"]:
                break
        return seen, total, terminated, truncated, info


class View:
    """A maze from above, a square picture: walls, floor, goal and point, with soft edges that tell parts of a pixel."""

    def __init__(self, maze: Any, size: int) -> None:
        """Takes a maze of gymnasium-robotics, and the side of the picture in pixels."""
        self.maze, self.rows = maze, np.arange(size) + 0.5
        walls = np.array([[cell == 1 for cell in row] for row in maze.maze_map])
        shown = np.array(walls.shape) - 2 * (1 - EDGE)
        self.scale = size / shown.max()
        self.corner = (shown.max() - shown) / 2 - (1 - EDGE)
        # Each pixel takes the share of it that is wall: its edges need not fall between pixels.
        fine = (np.arange(8 * size) + 0.5) / (8 * self.scale)
        cells = [np.floor(fine - corner).astype(int) for corner in self.corner]
        row, column = (part.clip(0, count - 1) for part, count in zip(cells, walls.shape, strict=True))
        share = walls[np.ix_(row, column)].reshape(size, 8, size, 8).mean(axis=(1, 3))[..., None]
        self.empty = share * np.array(WALL) + (1 - share) * np.array(FLOOR)

    def draw(self, point: Place, goal: Place) -> Picture:
        """A picture uint8 (size, size, 3) of a point and a goal at places (x, y) of the maze."""
        picture = self.empty
        for place, radius, colour in ((goal, GOAL_RADIUS, GOAL), (point, POINT_RADIUS, POINT)):
            row, column = self._pixels(place)
            distance = np.hypot(self.rows[:, None] - row, self.rows[None] - column)
            share = np.clip(radius * self.scale - distance + 0.5, 0, 1)[..., None]
            picture = share * np.array(colour) + (1 - share) * picture
        return picture.round().astype(np.uint8)

    def _pixels(self, place: Place) -> tuple[float, float]:
        side = self.maze.maze_size_scaling
        row = (self.maze.y_map_center - place[1]) / side
        column = (place[0] + self.maze.x_map_center) / side
        return float((row + self.corner[0]) * self.scale), float((column + self.corner[1]) * self.scale)
