"""Rates of data and environment that clips are not made for."""

import pytest

pytest.importorskip("gymnasium")
from rl_encoders.environments import make_environment
from rl_encoders.training.build import build_eyes
from rl_encoders.training.data import read_data, space_of_run
from rl_encoders.training.rates import check_rates
from rl_encoders.training.settings import parse_train_config
from tests.rl_encoders.lerobot_folders import FPS, LENGTHS, write_version_3
from vie import VieError

CLIPS, STILL = "vie_trn_r18", "vie_single_r18"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "set"
    write_version_3(folder)
    return folder


def settings(dataset, source, hz, *others):
    given = [f"dataset={dataset}", f"encoder.source={source}", "encoder.arguments={width: 4}", "encoder.size=32"]
    given += ["environment.cameras=[front]", f"environment.control_hz={hz}", "device=cpu", "data.demonstrations=true"]
    return parse_train_config([], [*given, *others])


@pytest.mark.parametrize(("source", "hz", "warned"), [(CLIPS, FPS, 0), (CLIPS, 2 * FPS, 1), (STILL, 2 * FPS, 0)])
def test_a_dataset_of_another_rate(dataset, caplog, source, hz, warned):
    config = settings(dataset, source, hz)
    check_rates(config, [], build_eyes(config, space_of_run(config, [])))
    assert len(caplog.records) == warned
    if warned:
        assert "has 10 steps in a second, and the encoder's clips are made for 20: give environment.control_hz=10" in (
            caplog.text
        )


def test_demonstrations_without_rewards(dataset):
    config = settings(dataset, STILL, FPS)
    space = space_of_run(config, [])
    found = read_data(config, space, build_eyes(config, space))
    assert [one.reward.sum() for one in found] == [1.0] * len(LENGTHS)
    with pytest.raises(VieError, match=r"has no rewards .*: give data.demonstrations=true if every episode"):
        space_of_run(settings(dataset, STILL, FPS, "data.demonstrations=false"), [])


def test_an_environment_of_another_rate(caplog):
    pytest.importorskip("pygame")
    config = parse_train_config([], [f"encoder.source={CLIPS}", "encoder.arguments={width: 4}", "device=cpu"])
    world = make_environment("gym:Pendulum-v1", size=32)
    try:
        assert world.control_hz == 20
        check_rates(config, [world], build_eyes(config, world.space))
    finally:
        world.close()
    assert "environment gym:Pendulum-v1 has 20 steps in a second" in caplog.text
