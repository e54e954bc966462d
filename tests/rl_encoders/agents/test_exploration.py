"""Agents with a bonus for novelty."""

import pytest
import torch

from rl_encoders.agents.exploration import Exploring
from rl_encoders.agents.iql import IQL, IQLConfig
from rl_encoders.agents.perception import States
from rl_encoders.agents.sac import SAC, SACConfig
from rl_encoders.replay.buffer import Batch

Z, A, B = 3, 2, 5
SMALL = {"policy_hidden": (8,), "critic_hidden": (8,), "gamma": 0.9}


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    terminal = torch.tensor([0.0, 1, 0, 0, 1])
    return Batch({"s": normal(B, Z)}, {"s": normal(B, Z)}, normal(B, A).tanh(), normal(B), terminal, normal(B))


def exploring(kind, config, scale=2.0):
    torch.manual_seed(0)
    agent = Exploring(kind(States({"s": Z}), A, config), scale, lr=1e-2, width=16)
    agent.make_optimizers()
    return agent


def targets(agent, monkeypatch):
    """What the critics are taught."""
    found = []
    real = agent.inner.values.loss
    monkeypatch.setattr(agent.inner.values, "loss", lambda q, target: found.append(target) or real(q, target))
    return found


def test_the_bonus_of_where_an_action_led_is_added_to_its_reward(batch, monkeypatch):
    """Once the predictor has learned of it; what is stored stays the task's."""
    agent, before = exploring(SAC, SACConfig(**SMALL)), batch.reward.clone()
    given = []
    monkeypatch.setattr(agent.inner, "update", lambda batch: given.append(batch.reward) or {})
    predictor = [one.clone() for one in agent.rnd.predictor.parameters()]
    metrics = agent.update(batch)
    torch.testing.assert_close(given[0], before + 2 * agent.rnd.bonus(batch.next_seen["s"]))
    assert torch.equal(batch.reward, before)
    assert (given[0] > before).all()
    assert not all(map(torch.equal, predictor, agent.rnd.predictor.parameters()))
    assert metrics["bonus"] > 0
    assert len(agent.optimizers()) == 4


@pytest.mark.parametrize("scale", [0.0, 2.0])
def test_bounds_of_iqls_values_leave_the_bonus_alone(batch, monkeypatch, scale):
    """OOO cuts the whole target to what rewards of the task can amount to, and adds the bonus to that."""
    low, high = -0.2, 0.1
    agent = exploring(IQL, IQLConfig(**SMALL, q_low=low, q_high=high), scale)
    taught = targets(agent, monkeypatch)
    with torch.no_grad():
        following = agent.inner.value(batch.next_seen["s"])[0, :, 0]
    whole = batch.reward + 0.9 * (1 - batch.terminal) * following
    agent.update(batch)
    bonus = scale * agent.rnd.bonus(batch.next_seen["s"])
    assert whole.min() < low < high < whole.max()
    torch.testing.assert_close(taught[0], whole.clamp(low, high) + bonus)


def test_iqls_value_learns_of_bounded_critics(batch, monkeypatch):
    agent = exploring(IQL, IQLConfig(**SMALL, q_low=-0.01, q_high=0.01)).inner
    for parameter in agent.target.parameters():
        parameter.data.add_(torch.randn_like(parameter))
    seen = []
    monkeypatch.setattr("rl_encoders.agents.iql.value_loss", lambda q, value, expectile: seen.append(q) or value.sum())
    with torch.no_grad():
        said = agent.target(batch.seen["s"], batch.action)
    agent.update(batch)
    assert said.min() < -0.01 < 0.01 < said.max()
    torch.testing.assert_close(seen[0], said.clamp(-0.01, 0.01))


def test_cal_qls_bounds_are_of_what_comes_next(batch, monkeypatch):
    """OOO bounds the value of s', before reward and bonus."""
    agent = exploring(SAC, SACConfig(**SMALL, q_low=-0.01, q_high=0.01))
    taught = targets(agent, monkeypatch)
    monkeypatch.setattr(agent.inner, "next_value", lambda *_: torch.linspace(-1, 1, B))
    agent.update(batch)
    bonus = 2 * agent.rnd.bonus(batch.next_seen["s"])
    bounded = torch.linspace(-1, 1, B).clamp(-0.01, 0.01)
    torch.testing.assert_close(taught[0], batch.reward + bonus + 0.9 * (1 - batch.terminal) * bounded)
