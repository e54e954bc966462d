"""From settings to agents."""

import numpy as np
import pytest
import torch

from rl_encoders.agents.bc import BC
from rl_encoders.agents.calql import CalQL
from rl_encoders.agents.exploration import Exploring
from rl_encoders.agents.iql import IQL
from rl_encoders.agents.parl import PARL
from rl_encoders.agents.sac import SAC
from rl_encoders.replay.trajectory import Space
from rl_encoders.training.build import bounded_agent, build_agent, build_eyes, gamma_of
from rl_encoders.training.settings import RECIPES, parse_train_config
from tests.rl_encoders.training.worlds import random_walks
from vie import VieError

SPACE = Space(
    {"pixels": ((32, 32, 3), np.dtype(np.uint8)), "place": ((1,), np.dtype(np.float32))},
    np.full(1, -1, np.float32),
    np.ones(1, np.float32),
)
KINDS = {"calql": CalQL, "cql": CalQL, "iql": IQL, "sac": SAC, "ooo_explore": Exploring, "parl_diffusion": PARL}
KINDS |= {"parl_transformer": PARL, "bc": BC}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    from vie import create_model, save_pretrained

    folder = tmp_path_factory.mktemp("saved") / "encoder"
    model = create_model("vie_single_r18", width=4).eval()
    save_pretrained(model, folder, model.sampling)
    return folder


@pytest.mark.parametrize(
    "recipe", sorted(path.stem for path in RECIPES.glob("*.yaml") if path.stem not in {"pixels", "ooo", "demo_maze"})
)
def test_every_recipe_builds_an_agent_that_learns(recipe, source):
    config = parse_train_config(
        [recipe], [f"encoder.source={source}", "encoder.size=32", "environment.state=[place]", "device=cpu"]
    )
    agent = build_agent(config, SPACE)
    assert type(agent) is KINDS[recipe]
    assert agent.eyes.dim == (32 if recipe == "bc" else 256) + 1
    kept = agent.eyes.keep(random_walks(1, pixels=True)[0].observations)
    assert kept["pixels"].dtype == torch.float16
    action = agent.act({name: tensor[:2] for name, tensor in kept.items()})
    assert action.shape == (2, 1)
    assert np.abs(action).max() <= 1
    agent.eyes.encoder.verify()


def test_only_cal_ql_is_calibrated():
    given = ["environment.state=[place]", "device=cpu"]
    found = [
        build_agent(parse_train_config([], [*given, f"agent.algorithm={name}"]), SPACE) for name in ("calql", "cql")
    ]
    assert [agent.config.calibrated for agent in found] == [True, False]


def test_weights_are_drawn_by_the_seed():
    def made(seed):
        config = parse_train_config([], ["environment.state=[place]", f"seed={seed}", "device=cpu"])
        return build_agent(config, SPACE).critic.of_state.weight

    assert torch.equal(made(0), made(0))
    assert not torch.equal(made(0), made(1))


def test_actions_in_chunks_are_longer_and_discounted_over_their_steps():
    given = ["environment.state=[place]", "device=cpu", "agent.calql.gamma=0.9", "data.chunk=3"]
    agent = build_agent(parse_train_config([], given), SPACE)
    assert agent.config.gamma == pytest.approx(0.729)
    assert agent.act({"place": torch.zeros(2, 1)}).shape == (2, 3)


def test_encoders_take_whatever_load_takes(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "over: calql\nencoder: {source: vie_single_r18, size: 32, mode: partial, arguments: {width: 4},"
        " train_from: {0: none, 100: all}}\ndevice: cpu\n"
    )
    config = parse_train_config([tmp_path / "mine.yaml"], [])
    eyes = build_eyes(config, SPACE)
    assert eyes.encoder.trunk.stream.num_features == 32
    assert eyes.encoder.schedule.trained == {0: "none", 100: "all"}
    config = parse_train_config([tmp_path / "mine.yaml"], ["encoder.arguments={width: 8}"])
    assert build_eyes(config, SPACE).encoder.trunk.stream.num_features == 64


def test_values_are_bounded_where_no_bounds_are_given():
    config = parse_train_config([], ["agent.algorithm=cql", "agent.calql.q_high=5"]).agent
    assert (bounded_agent(config, -1.0, 2.0).calql.q_low, bounded_agent(config, -1.0, 2.0).calql.q_high) == (-1, 5)


def test_a_random_trunk_sees_alike_whenever_it_is_built():
    given = ["encoder.source=vie_single_r18", "encoder.size=32", "encoder.arguments={width: 4}", "device=cpu"]

    def fingerprint(seed):
        torch.rand(5)  # what has been drawn before does not matter
        return build_eyes(parse_train_config([], [*given, f"seed={seed}"]), SPACE).encoder.fingerprint()

    assert fingerprint(0) == fingerprint(0) != fingerprint(1)
    agent = build_agent(parse_train_config([], given), SPACE)
    assert agent.eyes.encoder.fingerprint() == fingerprint(0)


def test_the_discount_is_that_of_the_agent_that_counts():
    config = parse_train_config([], ["agent.algorithm=cql", "agent.calql.gamma=0.9", "agent.iql.gamma=0.8"])
    assert gamma_of(config.agent) == 0.9


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "the agent sees nothing: give encoder.source, or parts of the state"),
        (["environment.state=[speed]"], "there is no 'speed' to see: observations have pixels, place"),
        (["encoder.source=vie_single_r18", "environment.cameras=[wrist]"], "there is no 'wrist' to see"),
        (["agent.calql.wieght=3"], "did you mean 'agent.calql.weight'"),
        (["agent.algorithm=dqn"], "bad setting"),
        (["agent.algorithm=bc", "online_steps=5"], "imitates data alone: give online_steps=0, not 5"),
        (["agent.sac.gamma=1.5"], "agent.sac.gamma=1.5 is out of range"),
        *(
            ([f"{key}={value}"], f"{key}={float(value):g}(\\.0)? is out of range: give ")
            for key, value in (
                *(("online_steps", -1), ("offline_updates", -5), ("updates_per_step", -1), ("evaluation_episodes", -1)),
                *(("evaluate_every_steps", -2), ("data.extra", -1), ("environment.max_steps", 0), ("encoder.size", 0)),
                *(("encoder.most_shift", -1), ("environment.control_hz", 0), ("agent.exploration", -0.5)),
                *(("agent.policy_ema", 2), ("agent.policy_lr", -1), ("agent.parl.critic_lr", -1)),
                *(("agent.calql.weight", -1), ("agent.iql.temperature", -1)),
            )
        ),
    ],
)
def test_mistakes_are_named(overrides, message):
    with pytest.raises(VieError, match=message):
        build_agent(parse_train_config([], overrides), SPACE)
