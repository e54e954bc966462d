"""Mazes that are drawn from above: what there is to see is where it is."""

import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("gymnasium_robotics")
from rl_encoders.environments import make_environment
from rl_encoders.environments.drawn_mazes import GOAL, POINT, POINT_RADIUS, WALL, View, open_environment
from rl_encoders.rollout import run_episode
from vie import VieError


class Maze:
    """Of gymnasium-robotics, cells twice as large as usual; x to the right, y up, the origin in the middle."""

    maze_map = ([1, 1, 1, 1, 1, 1], [1, 0, 1, 0, 0, 1], [1, 0, 0, 0, "g", 1], [1, 1, 1, 1, 1, 1])
    maze_size_scaling, x_map_center, y_map_center = 2.0, 6.0, 4.0


def middle(picture, colour):
    share = np.clip(1 - np.abs(picture.astype(float) - colour).sum(axis=-1) / 100, 0, None)
    row, column = np.indices(share.shape) + 0.5
    return (share * row).sum() / share.sum(), (share * column).sum() / share.sum()


@pytest.mark.parametrize("size", [64, 90])
def test_what_is_seen_is_where_it_is(size):
    view = View(Maze(), size)
    cell = size / 4.5  # six columns, three quarters of the outer ones left out
    for point, goal in (((-3.0, 1.0), (3.0, 1.0)), ((-2.7, -0.6), (2.2, -1.3))):
        picture = view.draw(np.array(point), np.array(goal))
        for colour, (x, y) in ((POINT, point), (GOAL, goal)):
            row, column = middle(picture, colour)
            assert column == pytest.approx((x / 2 + 3 - 0.75) * cell, abs=0.15)
            assert row == pytest.approx(size / 2 - y / 2 * cell, abs=0.15)
    blue = (np.abs(picture.astype(int) - POINT).sum(axis=-1) < 30).sum()
    assert blue == pytest.approx(np.pi * (POINT_RADIUS * cell) ** 2, rel=0.25)
    assert tuple(picture[0, 0]) == WALL
    assert tuple(picture[int(size / 2 - cell / 2), int((2.5 - 0.75) * cell)]) == WALL


def test_a_small_step_is_seen():
    view, goal = View(Maze(), 64), np.array([3.0, 1.0])
    one, other = (view.draw(np.array([-3.0 + x, -1.0]), goal) for x in (0.0, 0.02))
    assert (one != other).any()


def test_it_needs_no_renderer():
    """Not even one that can be loaded."""
    program = (
        "import sys; from rl_encoders.environments.drawn_mazes import open_environment; "
        "opened = open_environment('PointMaze_UMaze-v3', 32, {}); "
        "print(opened.look(opened.env.reset(seed=0)[0])['pixels'].shape, 'OpenGL.EGL' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.strip().endswith("(32, 32, 3) False"), done.stderr


def test_the_controller_does_the_task_and_the_velocity_is_felt():
    environment = make_environment("maze:PointMaze_UMaze-v3", 1, 48, reward="success")
    assert environment.max_steps == 75
    assert environment.space.observations["velocity"] == ((2,), np.float32)
    episodes = [run_episode(environment, lambda seen: environment.demonstrate("waypoint"), "", k) for k in range(4)]
    assert all(episode.success for episode in episodes)
    environment.reset(seed=3)
    speeds = [np.abs(environment.step(np.ones(2, np.float32))[0]["velocity"]).max() for _ in range(3)]
    assert 0 < speeds[0] < speeds[1] < 1.1
    environment.close()


def test_an_action_lasts_until_something_can_be_seen():
    env = open_environment("PointMaze_Open-v3", 32, {}).env
    env.reset(seed=0)
    before = env.unwrapped.point_env.data.time
    env.step(np.zeros(2, np.float32))
    assert env.unwrapped.point_env.data.time - before == pytest.approx(0.04)
    env.unwrapped.goal = env.unwrapped.point_env.data.qpos + 0.1
    before = env.unwrapped.point_env.data.time
    _, reward, _, _, info = env.step(np.zeros(2, np.float32))
    assert env.unwrapped.point_env.data.time - before == pytest.approx(0.01)
    assert (reward, info["success"]) == (1.0, True)


def test_other_tasks_have_another_name():
    with pytest.raises(VieError, match=r"^maze:AntMaze_UMaze-v4 is no PointMaze: .* robotics:AntMaze_UMaze-v4"):
        open_environment("AntMaze_UMaze-v4", 48, {})
