"""What a run has learned acts outside it, in the units of its data."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

pytest.importorskip("gymnasium")
from rl_encoders import load
from rl_encoders.agents.perception import Eyes
from rl_encoders.environments import make_environment
from rl_encoders.rollout import run_episode
from rl_encoders.training import load_policy
from rl_encoders.training.actor import Actor
from rl_encoders.training.commands import train
from rl_encoders.training.data import read_data, space_of_run
from rl_encoders.training.policy import Policy, config_of, trained_agent
from tests.rl_encoders.lerobot_folders import LENGTHS, write_version_2, write_version_3
from tests.rl_encoders.training.runs import agent
from tests.rl_encoders.training.worlds import Line
from tests.videos import pictures
from vie import VieError

REAL = Path(__file__).parents[4] / "shared/data/g1_bottle_lerobot"
SCALE, OFFSET = np.array([30.0, 0.0]), np.array([100.0, 2.5])
SMALL = [
    *("device=cpu", "data.demonstrations=true", "data.batch=8", "log_every=5", "agent.policy=regression"),
    *("encoder.source=vie_single_r18", "encoder.size=32", "encoder.arguments={width: 4}", "encoder.project=8"),
]
SEES = ["environment.cameras=[front]", "environment.state=[state]", "environment.control_hz=10"]


@pytest.fixture(scope="module", params=[write_version_2, write_version_3], ids=["v2", "v3"])
def robots(request, tmp_path_factory):
    """A LeRobot dataset of a joint in degrees, and one that never moves."""
    folder = tmp_path_factory.mktemp("data") / "set"
    request.param(folder)
    for file in sorted(folder.glob("data/**/*.parquet")):
        table = pq.read_table(file)
        moved = np.stack(table["action"].to_pylist()) * SCALE + OFFSET
        column = table.schema.get_field_index("action")
        field = table.schema.field(column)
        pq.write_table(table.set_column(column, field, [moved.astype(np.float32).tolist()]), file)
    return folder


def settings(folder, run, *others):
    return [f"dataset={folder}", f"run={run}", *SMALL, *SEES, "data.scale_actions=true", *others]


def test_a_policy_of_robot_data_acts_in_its_units(robots, tmp_path):
    run = tmp_path / "run"
    train(["bc"], settings(robots, run, "offline_updates=10"))
    policy = load_policy(run, device="cpu")
    low, high = policy.space.low, policy.space.high
    assert OFFSET[0] - SCALE[0] <= low[0] < OFFSET[0] < high[0] <= OFFSET[0] + SCALE[0]
    assert (low[1], high[1]) == (0, 5)
    config = config_of(run, [])
    space = space_of_run(config, [])
    np.testing.assert_array_equal(space.low, low)
    learner = trained_agent(config, space)
    data = read_data(config, space, learner.eyes)
    actions = np.concatenate([one.action for one in data])
    assert len(actions) == sum(LENGTHS)
    edge = config.data.edge
    np.testing.assert_allclose([actions[:, 0].min(), actions[:, 0].max()], [-edge, edge], atol=1e-6)
    np.testing.assert_allclose(actions[:, 1], 0, atol=1e-6)
    seen = {"front": pictures(1)[0], "state": np.zeros(4, np.float32), "another": np.zeros(1)}
    chosen = policy(seen)
    unit = Actor(learner, explore=False)({0: {name: seen[name] for name in ("front", "state")}})[0]
    np.testing.assert_allclose(chosen, (unit + 1) / 2 * (high - low) + low, rtol=1e-5)
    assert low[0] <= chosen[0] <= high[0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"front": None}, "there is no 'front' to see: the observation has state"),
        ({"front": np.zeros((8, 8, 3), np.float32)}, r"'front' is float32 \[8, 8, 3\]: give a picture, uint8"),
        ({"state": np.zeros(5)}, r"'state' is of \[5\] numbers: the agent learned from \[4\]"),
    ],
)
def test_what_it_cannot_see_is_named(robots, tmp_path, change, says):
    run = tmp_path / "run"
    train(["bc"], settings(robots, run, "offline_updates=1"))
    policy = load_policy(run, device="cpu")
    seen = {"front": pictures(1)[0], "state": np.zeros(4, np.float32)} | change
    with pytest.raises(VieError, match=says):
        policy({name: part for name, part in seen.items() if part is not None})


def test_without_scaling_such_data_are_refused_and_the_setting_is_named(robots, tmp_path):
    with pytest.raises(VieError, match=r"outside \[-1, 1\]: .*data.scale_actions=true"):
        train(["bc"], [*settings(robots, tmp_path / "run", "offline_updates=1"), "data.scale_actions=false"])


def test_actions_of_an_environment_are_not_scaled(robots, tmp_path):
    world = ["environment.name=gym:Pendulum-v1", "environment.size=32"]
    with pytest.raises(VieError, match=r"data\.scale_actions=true is for data without an environment"):
        train(["bc"], settings(robots, tmp_path / "run", *world))


def as_one(actor):
    return lambda seen: actor({0: seen})[0]


def test_a_policy_of_an_environment_acts_as_its_evaluation_did(tmp_path):
    pytest.importorskip("pygame")
    run = tmp_path / "run"
    world = ["environment.name=gym:Pendulum-v1", "environment.max_steps=6", "environment.size=32"]
    given = [f"run={run}", *world, "environment.state=[state]", *SMALL, "encoder.source=vie_trn_r18", "online_steps=6"]
    train(["sac"], [*given, "environment.control_hz=20", "data.demonstrations=false", "evaluation_episodes=1"])
    policy = load_policy(run, device="cpu")
    environment = make_environment("gym:Pendulum-v1", size=32, max_steps=6)
    try:
        learner = trained_agent(config_of(run, []), environment.space)
        for _ in range(2):  # an episode after another is as the first: clips do not reach back into it
            policy.reset()
            actor = Actor(learner, explore=False)
            mine = run_episode(environment, policy, "mine", 3).trajectory
            theirs = run_episode(environment, as_one(actor), "theirs", 3).trajectory
            np.testing.assert_array_equal(mine.actions, theirs.actions)
        assert len(policy._actor._rows[0]) < len(mine.actions)
    finally:
        environment.close()


def test_chunks_are_carried_out_before_the_next_look():
    torch.manual_seed(0)
    learner = agent()
    learner.choose = lambda seen, explore: seen["place"].repeat(1, 3) + torch.arange(3.0)
    policy = Policy(learner, Line().space, chunk=3)
    places = [np.array([place], np.float32) for place in (0.0, 5.0, 6.0, 7.0)]
    assert [float(policy({"place": place})[0]) for place in places] == [0.0, 1.0, 2.0, 7.0]
    policy.reset()
    assert float(policy({"place": places[1]})[0]) == 5.0


def test_a_frozen_trunk_looks_only_when_it_chooses(tmp_path):
    """A dynamic one: its clip is of what was seen meanwhile too."""
    torch.manual_seed(0)
    source = {"source": "vie_trn_r18", "width": 4, "size": 32, "proprio": {"place": 1}, "project": 8}
    learner = agent(eyes=Eyes(load(**source), control_hz=10))
    learner.choose = lambda seen, explore: learner.eyes.vector(seen).sum(dim=1, keepdim=True).repeat(1, 3)
    looks = []
    learner.eyes.encoder.trunk.register_forward_hook(lambda *_: looks.append(1))
    observations = [
        {"pixels": np.full((32, 32, 3), 20 * number, np.uint8), "place": np.zeros(1, np.float32)} for number in range(7)
    ]
    policy, remembering = Policy(learner, Line(pixels=True).space, 3), Actor(learner, explore=False, chunk=3)
    mine = [float(policy(one)[0]) for one in observations]
    assert len(looks) == 3
    assert mine == [float(remembering({0: one})[0][0]) for one in observations]
    assert len(set(mine)) == 3


def test_a_dataset_that_has_changed_is_not_gone_on_with(robots, tmp_path):
    run = tmp_path / "run"
    given = settings(robots, run, "offline_updates=2")
    train(["bc"], given)
    content = json.loads((run / "space.json").read_text())
    content["high"][0] += 1
    (run / "space.json").write_text(json.dumps(content))
    with pytest.raises(VieError, match="learned actions within other bounds"):
        train(["bc"], [*given, "offline_updates=4"])


def test_runs_that_have_nothing_to_act_with(tmp_path):
    with pytest.raises(VieError, match="holds no run: give the folder of one that vie-rl train has begun"):
        load_policy(tmp_path)
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    with pytest.raises(VieError, match=r"space.json cannot be read .*: go on with the run, which writes it"):
        load_policy(tmp_path)
    content = {"observations": {"place": [[1], "float32"]}, "low": [-1.0], "high": [1.0]}
    (tmp_path / "space.json").write_text(json.dumps(content))
    with pytest.raises(VieError, match="holds no checkpoint yet: train it first"):
        load_policy(tmp_path)


@pytest.mark.long
@pytest.mark.skipif(not REAL.exists(), reason="the dataset of a real robot is not there")
def test_a_real_robot(tmp_path):
    """Unitree G1 with two hands: 26 joints, whose bounds lie far from [-1, 1]."""
    run = tmp_path / "run"
    camera = next(iter((REAL / "videos/chunk-000").iterdir())).name.removeprefix("observation.images.")
    sees = [f"environment.cameras=[{camera}]", "environment.state=[state]", "environment.control_hz=30"]
    given = [f"dataset={REAL}", f"run={run}", *SMALL, *sees, "data.scale_actions=true", "offline_updates=50"]
    train(["bc"], given)
    policy = load_policy(run, device="cpu")
    assert policy.space.action_dim == 26
    assert (np.abs(policy.space.high) > 1).any()
    shape = policy.space.observations[camera][0]
    chosen = policy({camera: np.zeros(shape, np.uint8), "state": np.zeros(26, np.float32)})
    assert ((policy.space.low <= chosen) & (chosen <= policy.space.high)).all()
