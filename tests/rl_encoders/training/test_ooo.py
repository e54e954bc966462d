"""Explore with a bonus, then retrain on what was found."""

import json

import numpy as np
import pytest
import torch

from rl_encoders.agents.action_optimiser import Improvement
from rl_encoders.agents.base_policy import GaussianHead, SeeingPolicy
from rl_encoders.agents.calql import CalQL, CalQLConfig
from rl_encoders.agents.exploration import Exploring
from rl_encoders.agents.parl import PARL, PARLConfig
from rl_encoders.agents.perception import States
from rl_encoders.training.loop import Training
from rl_encoders.training.retraining import RESULTS, retrain, value_bounds
from rl_encoders.training.storage import episodes_until, filled, read_offline
from tests.rl_encoders.training.runs import SMALL, config, same
from tests.rl_encoders.training.worlds import LENGTH, Line, random_walks
from vie import VieError
from vie.history import read_history

EYES = States({"place": 1})


def inner(**settings):
    torch.manual_seed(0)
    settings = {**SMALL, "policy_hidden": (32, 32), "policy_lr": 2e-3, "weight": 0.5, **settings}
    return CalQL(States({"place": 1}), 1, CalQLConfig(**settings))


def exploring(scale=1.0):
    agent = Exploring(inner(), scale, lr=1e-3, width=16)
    agent.make_optimizers()
    return agent


def data(settings, count=10):
    return list(read_offline(random_walks(count), Line().space, EYES, settings.data))


def test_the_bonus_is_in_what_is_learned_and_not_in_what_is_kept(tmp_path, monkeypatch):
    settings = config(tmp_path)
    replay = filled(data(settings), EYES, torch.device("cpu"), settings.data)
    agent, seen = exploring(scale=3.0), []
    update = agent.inner.update
    monkeypatch.setattr(agent.inner, "update", lambda batch: seen.append(batch) or update(batch))
    batch = replay.draw(32, (0,))
    metrics = agent.update(batch)
    added = seen[0].reward - batch.reward
    torch.testing.assert_close(added, 3.0 * agent.rnd.bonus(agent.eyes.vector(batch.next_seen)), atol=0.2, rtol=0.2)
    assert float(metrics["bonus"]) == pytest.approx(float(added.mean()) / 3, rel=1e-4)
    assert torch.equal(replay.draw(32, (0,)).reward, batch.reward)


def test_without_a_bonus_it_is_the_agent_itself(tmp_path):
    settings = config(tmp_path)
    replay = filled(data(settings), EYES, torch.device("cpu"), settings.data)
    plain, agent = inner(), exploring(scale=0.0)
    plain.make_optimizers()
    for number in range(3):
        batch = replay.draw(16, (number,))
        torch.manual_seed(number)
        torch.rand(16)  # what the predictor draws
        plain.update(batch)
        torch.manual_seed(number)
        agent.update(batch)
    same(plain, agent.inner)


def test_an_agent_that_imitates_does_so_while_it_explores(tmp_path):
    given = PARLConfig(**SMALL, critics=3, candidates=6, action_samples=4, improvement=Improvement(3, 2, 0.05))
    policy = SeeingPolicy(States({"place": 1}), GaussianHead(1, 1, (32,)), lr=2e-3)
    agent = Exploring(PARL(States({"place": 1}), 1, given, policy), 1.0, width=16)
    agent.make_optimizers()
    before = next(iter(policy.head.state_dict().values())).clone()
    settings = config(tmp_path, offline_updates=2, online_steps=0, imitation_updates=5)
    run = Training(settings, agent, filled(data(settings), EYES, torch.device("cpu"), settings.data), [Line()])
    run.train()
    assert run.imitated == 5
    assert not torch.equal(before, next(iter(policy.head.state_dict().values())))


def test_what_it_has_seen_becomes_familiar(tmp_path):
    settings = config(tmp_path)
    replay = filled(data(settings), EYES, torch.device("cpu"), settings.data)
    agent = exploring()
    first = agent.update(replay.draw(64, (0,)))["rnd_loss"]
    for number in range(150):
        last = agent.update(replay.draw(64, (number,)))["rnd_loss"]
    assert last < 0.2 * first


def test_new_agents_learn_from_the_data_of_each_time(tmp_path):
    explore = config(tmp_path / "explore", evaluate_every=LENGTH)
    offline = data(explore)
    replay = filled(offline, EYES, torch.device("cpu"), explore.data)
    Training(explore, exploring(), replay, [Line()]).train()
    given = []

    def train_anew(steps, stored):
        given.append((steps, stored))
        return {"return": -1.0, "success": 0.5, "length": LENGTH}

    found = retrain(tmp_path / "explore", offline, [0, LENGTH, 3 * LENGTH], train_anew, tmp_path)
    assert [(steps, len(stored)) for steps, stored in given] == [(0, 10), (LENGTH, 11), (3 * LENGTH, 13)]
    assert all(mine is theirs for mine, theirs in zip(given[2][1], offline, strict=False))
    assert json.loads((tmp_path / RESULTS).read_text()) == found
    rows = {row["environment_steps"]: row for row in read_history(tmp_path / "explore") if "return" in row}
    for steps, each in found.items():
        assert each["explored_return"] == rows[int(steps)]["return"]
        assert each["explored_success"] == rows[int(steps)]["success"]


def test_data_until_a_time_is_a_prefix(tmp_path):
    settings = config(tmp_path, offline_updates=2)
    Training(settings, exploring(), filled(data(settings), EYES, torch.device("cpu"), settings.data), [Line()]).train()
    some, all_of_them = list(episodes_until(tmp_path, 2 * LENGTH)), list(episodes_until(tmp_path, 4 * LENGTH))
    assert (len(some), len(all_of_them)) == (2, 4)
    np.testing.assert_array_equal(some[1].action, all_of_them[1].action)
    assert len(list(episodes_until(tmp_path, 2 * LENGTH + 5))) == 2
    with pytest.raises(VieError, match=f"holds {4 * LENGTH} steps of the environment, not {9 * LENGTH}: train it"):
        list(episodes_until(tmp_path, 9 * LENGTH))


def test_bounds_of_values(tmp_path):
    low, high = value_bounds(data(config(tmp_path)), 0.9)
    assert -10.001 <= low < high <= 0


def test_the_best_transitions_are_those_of_the_largest_reward(tmp_path):
    settings = config(tmp_path)
    replay = filled(data(settings), EYES, torch.device("cpu"), settings.data)
    best = replay.at(replay.of_largest_reward())
    assert len(best.reward) >= 1
    assert (best.reward == replay.at(replay.starts).reward.max()).all()
    assert torch.equal(replay.draw(7, (0,), replay.of_largest_reward()).reward, best.reward[:1].expand(7))
