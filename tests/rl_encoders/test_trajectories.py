"""Trajectories out of other people's datasets."""

import numpy as np
import pytest

pytest.importorskip("gymnasium")
h5py = pytest.importorskip("h5py")
from rl_encoders.trajectories import open_trajectories  # noqa: E402
from tests.rl_encoders.lerobot_folders import CAMERA, LENGTHS, numbers, write_version_3  # noqa: E402
from vie import VieError  # noqa: E402

SEEN = np.arange(8, dtype=np.float32)[:, None] * np.array([1.0, 10.0], np.float32)


def d4rl(path, **change):
    """Three episodes: terminal after 3 steps, cut off after 2, and what there is of the last: 3."""
    after = SEEN + 0.5
    after[[0, 1, 3, 5, 6]] = SEEN[[1, 2, 4, 6, 7]]
    columns = {
        "observations": SEEN,
        "actions": np.linspace(-1, 1, 8, dtype=np.float32)[:, None],
        "rewards": np.arange(8, dtype=np.float32),
        "terminals": np.array([0, 0, 1, 0, 0, 0, 0, 0], bool),
        "timeouts": np.array([0, 0, 0, 0, 1, 0, 0, 0], bool),
        "next_observations": after,
    } | change
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            if values is not None:
                file[name] = values
    return str(path)


@pytest.mark.parametrize("change", [{}, {"timeouts": None}], ids=["timeouts", "jumps"])
def test_episodes_of_d4rl_end_where_they_end(change, tmp_path):
    found = list(open_trajectories(d4rl(tmp_path / "a.hdf5", **change)))
    assert [len(one) for one in found] == [3, 2, 3]
    assert [one.terminal for one in found] == [True, False, False]
    np.testing.assert_array_equal(found[1].observations["state"], [SEEN[3], SEEN[4], SEEN[4] + 0.5])
    np.testing.assert_array_equal(np.concatenate([one.rewards for one in found]), np.arange(8))


def test_without_next_observations_nothing_is_made_up(tmp_path):
    found = list(open_trajectories(d4rl(tmp_path / "a.hdf5", next_observations=None)))
    assert [len(one) for one in found] == [3, 1, 2]
    np.testing.assert_array_equal(found[0].observations["state"], SEEN[[0, 1, 2, 2]])
    np.testing.assert_array_equal(found[1].observations["state"], SEEN[[3, 4]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rewards": None}, "has no rewards"),
        ({"timeouts": None, "next_observations": None}, "nobody knows where its episodes end"),
        ({"rewards": np.zeros(7)}, "columns of different lengths"),
    ],
)
def test_files_that_lack_something(change, message, tmp_path):
    with pytest.raises(VieError, match=message):
        open_trajectories(d4rl(tmp_path / "a.hdf5", **change))


def test_what_is_no_dataset(tmp_path):
    (tmp_path / "a.hdf5").write_bytes(b"no")
    for path, message in (
        (tmp_path / "a.hdf5", "cannot be read"),
        (tmp_path, "holds no trajectories that are known"),
    ):
        with pytest.raises(VieError, match=message):
            open_trajectories(str(path))


def test_lerobot(tmp_path):
    frames = write_version_3(tmp_path / "set")
    with pytest.raises(VieError, match=r"episode 0 of .* has no rewards"):
        list(open_trajectories(str(tmp_path / "set")))
    found = list(open_trajectories(str(tmp_path / "set"), demonstrations=True))
    assert [len(one) for one in found] == list(LENGTHS)
    for number, one in enumerate(found):
        camera = CAMERA.removeprefix("observation.").removeprefix("images.")
        seen = one.observations["pixels" if camera == "image" else camera]
        assert seen.dtype == np.uint8
        assert len(seen) == len(one) + 1
        assert np.abs(seen[:-1].astype(float) - np.asarray(frames[number]).astype(float)).mean() < 6
        assert one.observations["state"].shape == (len(one) + 1, 4)
        np.testing.assert_allclose(one.actions, [row["action"] for row in numbers(number, LENGTHS[number])], rtol=1e-6)
        assert one.rewards.tolist() == [0.0] * (len(one) - 1) + [1.0]
        assert one.terminal


def test_minari_datasets_of_others(tmp_path, monkeypatch):
    minari = pytest.importorskip("minari")
    from gymnasium import spaces
    from minari.data_collector import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    space = spaces.Dict({"robot": spaces.Dict({"hand": spaces.Box(-9, 9, (2,), np.float64)})})

    def write(name, ends):
        minari.create_dataset_from_buffers(
            name,
            [
                EpisodeBuffer(
                    observations={"robot": {"hand": np.ones((4, 2))}},
                    actions=np.array([[0.0], [2.0], [4.0]], np.float32),
                    rewards=[0.0, 0.0, 1.0],
                    terminations=[False] * 3,
                    truncations=ends,
                )
            ],
            observation_space=space,
            action_space=spaces.Box(0, 4, (1,), np.float32),
        )

    write("walk/good-v0", [False, False, True])
    (found,) = open_trajectories("minari:walk/good-v0")
    np.testing.assert_array_equal(found.actions, [[-1.0], [0.0], [1.0]])
    assert found.observations["robot.hand"].shape == (4, 2)
    assert not found.terminal
    write("walk/endless-v0", [False] * 3)
    with pytest.raises(VieError, match="episode 0 of minari:walk/endless-v0 does not end at its last step"):
        list(open_trajectories("minari:walk/endless-v0"))
    with pytest.raises(VieError, match="cannot be opened"):
        open_trajectories("minari:nobody/nothing-v0")
