"""A controller that walks a point through a maze, as D4RL's datasets were made."""

from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt

GAIN, DAMPING = 10.0, 1.0  # D4RL's waypoint controller
REACHED = 0.25  # of a cell: as near as a waypoint counts as reached
Cell = tuple[int, int]


class WaypointControl:
    """Heads for the middle of the next cell on a shortest way, and for the goal in its own cell."""

    def __init__(self, env: Any) -> None:
        """Takes one of gymnasium-robotics' mazes; its goal may change later."""
        self.maze = env.maze

    def __call__(self, seen: Any) -> npt.NDArray[np.float64]:
        """Action of the environment, (2,) in [-1, 1], for its observation."""
        place, speed, goal = seen["achieved_goal"], seen["observation"][2:4], seen["desired_goal"]
        action = GAIN * (self._target(place, goal) - place) - DAMPING * speed
        return np.clip(action, -1.0, 1.0)

    def _target(self, place: npt.NDArray[np.float64], goal: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        way = shortest_way(self.maze.maze_map, self._cell(place), self._cell(goal))
        if len(way) < 2:
            return goal
        # Corners are cut only from the middle of a cell, where nothing is in the way.
        middle = self.maze.cell_rowcol_to_xy(np.array(way[0]))
        toward = self.maze.cell_rowcol_to_xy(np.array(way[1]))
        ahead = (toward - middle) / np.linalg.norm(toward - middle)
        aside = (place - middle) - ahead * np.dot(place - middle, ahead)
        return toward if np.linalg.norm(aside) < REACHED * self.maze.maze_size_scaling else middle

    def _cell(self, place: npt.NDArray[np.float64]) -> Cell:
        row, column = self.maze.cell_xy_to_rowcol(place)
        return int(row), int(column)


def shortest_way(maze: list[list[Any]], start: Cell, goal: Cell) -> list[Cell]:
    """Cells from start to goal, both included; walls are 1. The start alone if there is no way."""
    before: dict[Cell, Cell] = {start: start}
    waiting = deque([start])
    while waiting and goal not in before:
        row, column = cell = waiting.popleft()
        for near in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
            inside = 0 <= near[0] < len(maze) and 0 <= near[1] < len(maze[0])
            if inside and near not in before and maze[near[0]][near[1]] != 1:
                before[near] = cell
                waiting.append(near)
    if goal not in before:
        return [start]
    way = [goal]
    while way[-1] != start:
        way.append(before[way[-1]])
    return way[::-1]
