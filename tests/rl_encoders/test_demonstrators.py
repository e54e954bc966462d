"""Recorded actions, done again."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gymnasium")
from rl_encoders.demonstrators import make_policy
from rl_encoders.environments import make_environment
from rl_encoders.rollout import run_episode
from rl_encoders.trajectories.recorded import read_recordings
from tests.rl_encoders.faulty import NAME
from tests.rl_encoders.rendering import need_environment
from vie import VieError

DEMONSTRATIONS = Path(__file__).parents[3] / "shared/data/adroit_door_human/demos.npz"
ACTIONS = [np.linspace(-1, 1, 8, dtype=np.float32).reshape(4, 2), np.full((3, 2), 0.5, np.float32)]


@pytest.fixture
def environment():
    made = make_environment(NAME, size=40, max_steps=5)
    yield made
    made.close()


@pytest.fixture
def recorded(tmp_path):
    content = {}
    for number, actions in enumerate(ACTIONS):
        content[f"{number:02d}/actions"] = actions
        content[f"{number:02d}/init/place"] = np.full(2, 10.0 * number + 1)
    np.savez(tmp_path / "recorded.npz", **content)
    return tmp_path / "recorded.npz"


def test_they_begin_where_they_began_and_go_on_in_turn(environment, recorded):
    policy = make_policy(environment, f"replay:{recorded}")
    for number, actions in ((0, ACTIONS[0]), (1, ACTIONS[1]), (2, ACTIONS[0])):
        plan = policy(environment, number, 7)
        found = run_episode(environment, plan.act, "again", 0, plan.options).trajectory
        np.testing.assert_array_equal(found.actions[: len(actions)], actions)
        # It is not over when the recording is.
        np.testing.assert_array_equal(found.actions[len(actions) :], actions[-1:].repeat(5 - len(actions), axis=0))
        np.testing.assert_array_equal(found.observations["state"][0], np.full(2, 10.0 * (number % 2) + 1))


def test_noise_is_drawn_by_the_seed_and_stays_within_bounds(environment, recorded):
    policy = make_policy(environment, f"replay:{recorded}", noise=0.3)
    runs = []
    for seed in (1, 1, 2):
        plan = policy(environment, 0, seed)
        runs.append(run_episode(environment, plan.act, "noisy", 0, plan.options).trajectory.actions)
    np.testing.assert_array_equal(runs[0], runs[1])
    assert (runs[0] != runs[2]).any()
    assert np.abs(runs[0]).max() <= 1
    assert 0.05 < np.abs(runs[0][1:3] - ACTIONS[0][1:3]).mean() < 0.6


def test_files_of_d4rl(tmp_path):
    h5py = pytest.importorskip("h5py")
    actions, place = np.random.default_rng(0).uniform(-1, 1, (7, 2)), np.arange(14.0).reshape(7, 2)
    with h5py.File(tmp_path / "door.hdf5", "w") as file:
        file["observations"], file["actions"], file["rewards"] = place, actions, np.zeros(7)
        file["terminals"], file["timeouts"] = np.eye(7)[2] > 0, np.eye(7)[5] > 0
        file["infos/qpos"], file["infos/qvel"] = place, -place
        file["infos/action_mean"] = actions
    found = read_recordings(tmp_path / "door.hdf5")
    assert [len(one.actions) for one in found] == [3, 3, 1]
    assert all(one.state.keys() == {"qpos", "qvel"} for one in found)
    np.testing.assert_array_equal(found[1].state["qvel"], -place[3])
    np.testing.assert_allclose(found[1].actions, actions[3:6], rtol=1e-6)


def test_mistakes_are_named(environment, tmp_path, recorded):
    h5py = pytest.importorskip("h5py")
    np.savez(tmp_path / "stateless.npz", **{"one/actions": ACTIONS[0]})
    np.savez(tmp_path / "other.npz", **{"one/actions": np.zeros((3, 5)), "one/init/place": np.zeros(2)})
    (tmp_path / "broken.npz").write_bytes(b"no archive")
    np.savez(tmp_path / "empty.npz", **{"one/acts": ACTIONS[0]})
    with h5py.File(tmp_path / "endless.hdf5", "w") as file:
        file["actions"], file["timeouts"] = ACTIONS[0], np.zeros(len(ACTIONS[0]), bool)
    for name, message in (
        ("stateless.npz", "recording one of .*stateless.npz does not say in which state of the simulation it began"),
        ("other.npz", "recording one of .* has actions of 5 numbers where .* takes 2: give recordings of this"),
        ("broken.npz", "broken.npz cannot be read"),
        ("missing.npz", "missing.npz cannot be read"),
        ("empty.npz", "empty.npz holds no recordings: give NAME/actions and NAME/init"),
        ("endless.hdf5", "endless.hdf5 lacks terminals: give a file as D4RL's"),
    ):
        with pytest.raises(VieError, match=message):
            make_policy(environment, f"replay:{tmp_path / name}")
    with pytest.raises(VieError, match="has no policy 'replay': it has random, replay:FILE"):
        make_policy(environment, "replay")


@pytest.mark.long
def test_human_demonstrations_of_a_door():
    need_environment("robotics:AdroitHandDoor-v1", "gymnasium_robotics")
    if not DEMONSTRATIONS.exists():
        pytest.skip("the demonstrations of a door are not at hand")
    environment = make_environment("robotics:AdroitHandDoor-v1", size=32, max_steps=300, reward="success")
    policy = make_policy(environment, f"replay:{DEMONSTRATIONS}")
    # Done again without looking, most of the 25 miss the handle; this one does not.
    plan = policy(environment, 25 + 24, 0)
    found = run_episode(environment, plan.act, "demonstration 24", 0, plan.options)
    environment.close()
    assert found.success
    assert found.trajectory.terminal
    assert len(found.trajectory) <= 225
