"""Environments of all kinds look alike, and those that misbehave are named."""

import time
from contextlib import contextmanager

import numpy as np
import pytest

pytest.importorskip("gymnasium")
from rl_encoders.demonstrators import random_actions
from rl_encoders.environments import make_environment
from rl_encoders.environments.mazes import shortest_way
from rl_encoders.rollout import EpisodeError, run_episode
from tests.rl_encoders.faulty import NAME
from tests.rl_encoders.rendering import need_environment
from vie import VieError


@contextmanager
def opened(*arguments, **settings):
    environment = make_environment(*arguments, **settings)
    try:
        yield environment
    finally:
        environment.close()


def random_episode(environment, seed=7):
    return run_episode(environment, random_actions(environment, seed), "episode 4", seed)


KINDS = [
    ("gym:Pendulum-v1", "pygame", ["state"], 1),
    ("ale:Pong", "ale_py", [], 3),
    ("metaworld:door-open-v3", "metaworld", ["state"], 4),
    ("robotics:AdroitHandDoor-v1", "gymnasium_robotics", ["state"], 28),
    ("robotics:PointMaze_UMaze-v3", "gymnasium_robotics", ["state"], 2),
    ("ogbench:visual-cube-single-play-singletask-v0", "ogbench", [], 5),
]
SLOW = ("metaworld", "ogbench")


@pytest.mark.parametrize(
    ("name", "package", "numbers", "actions"),
    [pytest.param(*kind, id=kind[0], marks=[pytest.mark.long] if kind[1] in SLOW else []) for kind in KINDS],
)
def test_same_seed_same_trajectory(name, package, numbers, actions):
    need_environment(name, package)
    with opened(name, size=48, max_steps=8) as environment:
        assert environment.space.action_dim == actions
        assert set(environment.space.observations) == {"pixels", *numbers}
        assert environment.space.observations["pixels"] == ((48, 48, 3), np.uint8)
        one, two = random_episode(environment), random_episode(environment)
        other = random_episode(environment, seed=8)
    assert len(one.trajectory) == 8
    assert not one.trajectory.terminal
    for part, values in one.trajectory.observations.items():
        np.testing.assert_array_equal(values, two.trajectory.observations[part])
        assert len(values) == 9
    np.testing.assert_array_equal(one.trajectory.rewards, two.trajectory.rewards)
    assert any(
        (one.trajectory.observations[part] != other.trajectory.observations[part]).any()
        for part in one.trajectory.observations
    )
    assert one.trajectory.observations["pixels"].std() > 5


def test_ends_and_limits_are_told_apart_and_actions_are_rescaled():
    with opened(NAME) as environment:
        environment.reset(seed=1)
        before = environment.reset(seed=1)[0]["state"]
        after, *_ = environment.step(np.array([1.0, -1.0], np.float32))
        np.testing.assert_allclose(after["state"] - before, [1.0, -3.0], atol=1e-5)
        whole = random_episode(environment)
    with opened(NAME, max_steps=4) as environment:
        cut = random_episode(environment)
    with opened(NAME, reward="success") as environment:
        won = random_episode(environment)
    assert (len(whole.trajectory), whole.trajectory.terminal, whole.success) == (6, True, True)
    assert (len(cut.trajectory), cut.trajectory.terminal, cut.success) == (4, False, False)
    assert won.trajectory.terminal
    assert won.trajectory.rewards.tolist() == [0, 0, 0, 0, 1]
    with opened(NAME, reward="success", arguments={"fault": "falls"}) as environment:
        fallen = random_episode(environment)
    assert (len(fallen.trajectory), fallen.trajectory.terminal, fallen.success) == (3, True, False)


def test_the_episodes_of_an_environment_follow_its_seed():
    firsts = []
    for seed in (3, 3, 4):
        with opened(NAME, seed) as environment:
            firsts.append([environment.reset()[0]["state"].tolist() for _ in range(2)])
    assert firsts[0] == firsts[1] != firsts[2]
    assert firsts[0][0] != firsts[0][1]


FAULTS = {
    "raises": r"raised ZeroDivisionError in a step \(a wheel came off\)",
    "dies": "crashed in a step",
    "NaN reward": "gave the reward nan in step 2",
    "NaN state": "gave a 'state' that is not finite in step 3",
    "missing": "gave no 'state' in step 3: it gave pixels",
    "shape": r"gave 'state' of float32 \[3\] in step 3, not of float32 \[2\]",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_names_the_episode_and_keeps_what_was_before(fault):
    with opened(NAME, arguments={"fault": fault}) as environment:
        for _ in range(2):  # it can be begun anew
            with pytest.raises(EpisodeError, match=f"^episode 4, step 2: {NAME} {FAULTS[fault]}") as failed:
                random_episode(environment)
            assert len(failed.value.before) == 2
            assert not failed.value.before.terminal
            failed.value.before.check(environment.space)


def test_one_that_hangs_is_ended():
    with opened(NAME, arguments={"fault": "hangs"}) as environment:
        environment.timeout = 1.0
        begun = time.monotonic()
        with pytest.raises(EpisodeError, match=f"^episode 4, step 2: {NAME} hung: no answer to a step within 1 sec"):
            random_episode(environment)
        assert time.monotonic() - begun < 8
        with pytest.raises(VieError, match="ended in the middle of an episode: reset it"):
            environment.step(np.zeros(2, np.float32))
        environment.timeout = 60.0
        environment.reset()
        environment.step(np.zeros(2, np.float32))


@pytest.mark.parametrize("action", [[0.0, 1.5], [0.0], [0.0, np.nan]])
def test_actions_that_do_not_fit_are_refused(action):
    with opened(NAME) as environment, pytest.raises(EpisodeError, match=r"episode 9, .* 2 numbers in \[-1, 1\]"):
        run_episode(environment, lambda seen: np.array(action, np.float32), "episode 9", 0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gym:tests.rl_encoders.faulty:Endless-v0", "has no step limit, so that an episode may never end: give max_s"),
        ("gym:CartPole-v1", "agents act by bounded numbers"),
        ("gym:Nothing-v0", "cannot be made"),
        ("Pendulum-v1", "is no environment: write one of ale:TASK"),
        ("mario:1", "is no environment"),
    ],
)
def test_what_cannot_be_made_says_why(name, message):
    with pytest.raises(VieError, match=message):
        make_environment(name)


def test_only_the_parts_that_are_wanted_are_shown():
    with opened(NAME, size=40, parts=["state"]) as environment:
        found = random_episode(environment)
    assert list(found.trajectory.observations) == list(environment.observation_space.spaces) == ["state"]
    with pytest.raises(VieError, match=f"no 'speed' to see in {NAME}: observations have pixels, state"):
        make_environment(NAME, parts=["speed", "pixels"])


def test_numbers_alone_need_no_renderer():
    name = "gym:tests.rl_encoders.faulty:Unseen-v0"
    with opened(name, parts=["state"]) as environment:
        assert len(random_episode(environment).trajectory) == 10
    with pytest.raises(VieError, match=r"no pictures and cannot be rendered \(there is no display\): install its ext"):
        make_environment(name)


def test_a_missing_package_names_the_extra():
    from rl_encoders.environments.kinds import need

    with pytest.raises(VieError, match=r"pip install 'vie\[ogbench\]'"):
        need("no_such_package", "ogbench")


def test_shortest_ways_through_mazes():
    maze = [[1, 1, 1, 1, 1], [1, 0, 0, "g", 1], [1, 1, 1, 0, 1], [1, "r", 0, 0, 1], [1, 1, 1, 1, 1]]
    way = shortest_way(maze, (3, 1), (1, 1))
    assert way == [(3, 1), (3, 2), (3, 3), (2, 3), (1, 3), (1, 2), (1, 1)]
    assert shortest_way(maze, (1, 1), (0, 0)) == [(1, 1)]
