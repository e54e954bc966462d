"""Data is of the world that a run acts in, unless one says otherwise."""

import json

import pytest

pytest.importorskip("minari")
from rl_encoders.cli import main
from rl_encoders.training.commands import opened_worlds
from rl_encoders.training.data import space_of_run
from rl_encoders.training.settings import parse_train_config
from tests.rl_encoders.faulty import NAME
from vie import VieError

OTHER = "gym:tests.rl_encoders.faulty:Endless-v0"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "set"
    main(["collect", NAME, "--episodes", "1", "--size", "40", "--out", str(folder)])
    return folder


def check(dataset, *overrides):
    own = [f"environment.name={NAME}", "environment.size=40", f"dataset={dataset}", "encoder.source=vie_single_r18"]
    config = parse_train_config([], [*own, *overrides])
    with opened_worlds(config) as worlds:
        return space_of_run(config, worlds)


def test_the_same_world(dataset):
    assert check(dataset).action_dim == 2
    assert check(dataset, "environment.max_steps=10").action_dim == 2  # its own limit


@pytest.mark.parametrize(
    ("setting", "recorded", "wanted"),
    [
        (f"environment.name={OTHER} environment.max_steps=10", f"environment='{NAME}'", f"'{OTHER}'"),
        ("environment.size=32", "size=40", "32"),
        ("environment.max_steps=5", "max_steps=10", "5"),
        ("environment.reward=success", "reward='task'", "'success'"),
        ('environment.arguments={"share":0.5}', "arguments={}", "{'share': 0.5}"),
    ],
)
def test_another_world_is_refused_unless_one_means_it(dataset, setting, recorded, wanted):
    with pytest.raises(VieError) as error:
        check(dataset, *setting.split())
    assert f"was collected with {recorded}, and the run's environment has {wanted}: give" in str(error.value)
    assert check(dataset, *setting.split(), "data.of_another_world=true")


def test_of_data_that_others_recorded_the_bounds_of_actions_are_compared_alone(dataset):
    metadata = dataset / "data/metadata.json"
    before = metadata.read_text()
    facts = {name: value for name, value in json.loads(before).items() if name != "vie_rl"}
    space = json.loads(facts["action_space"])
    try:
        metadata.write_text(json.dumps(facts))
        told = r"lie between \[-1.0, -1.0\] and \[1.0, 1.0\], and .* between \[0.0, -3.0\] and \[1.0, 5.0\]"
        with pytest.raises(VieError, match=told):
            check(dataset)
        assert check(dataset, "data.of_another_world=true")
        facts["action_space"] = json.dumps({**space, "low": [0.0, -3.0], "high": [1.0, 5.0]})
        metadata.write_text(json.dumps(facts))
        assert check(dataset, "environment.max_steps=5")
    finally:
        metadata.write_text(before)


def test_the_size_of_pictures_that_nobody_sees(dataset):
    assert check(dataset, "encoder.source=", "environment.size=32")


@pytest.mark.parametrize(
    ("overrides", "seen"),
    [(["films=0", "encoder.source="], ["state"]), (["films=0"], ["pixels", "state"]), (["encoder.source="], None)],
)
def test_worlds_show_what_the_agent_sees_and_all_where_films_are_kept(overrides, seen):
    given = [f"environment.name={NAME}", "environment.state=[state]", "encoder.source=vie_single_r18", *overrides]
    with opened_worlds(parse_train_config([], given)) as worlds:
        assert sorted(worlds[0].space.observations) == (seen or ["pixels", "state"])
