"""Agents with a bonus for novelty."""

import copy

import pytest
import torch

from rl_encoders import load
from rl_encoders.agents.exploration import Exploring
from rl_encoders.agents.iql import IQL, IQLConfig
from rl_encoders.agents.novelty import novelty_dim, observed
from rl_encoders.agents.perception import Eyes, States
from rl_encoders.agents.sac import SAC, SACConfig
from rl_encoders.replay.buffer import Batch
from tests.rl_encoders.agents.worlds import PIXELS, pictures

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


class TestPixels:
    """Novelty is of what is there to be seen, whatever the agent makes of it."""

    def agent(self, **config):
        torch.manual_seed(0)
        eyes = Eyes(load(**{**PIXELS, "project": 8, **config}), control_hz=10)
        agent = Exploring(SAC(eyes, A, SACConfig(**SMALL)), 1.0, width=16)
        agent.make_optimizers()
        return agent

    @pytest.mark.parametrize("given", [{}, {"pool": "spatial_softmax", "size": 64}, {"mode": "finetune"}], ids=str)
    def test_what_the_agent_learns_changes_no_bonus(self, given):
        agent = self.agent(**given)
        batch = pictures(agent.eyes).draw(6, (0,))
        agent.rnd.loss(observed(agent.eyes, batch.next_seen))
        before, vector = agent.rnd.bonus(observed(agent.eyes, batch.next_seen)), agent.eyes.vector(batch.next_seen)
        with torch.no_grad():
            for group in agent.eyes.param_groups(1.0):
                for parameter in group["params"]:
                    parameter.add_(torch.randn_like(parameter))
        assert not torch.allclose(agent.eyes.vector(batch.next_seen), vector)
        assert torch.equal(agent.rnd.bonus(observed(agent.eyes, batch.next_seen)), before)
        assert len(before.unique()) > 3

    def test_a_trained_trunk_is_run_once_for_each_of_two_frames(self, monkeypatch):
        agent, passes = self.agent(mode="finetune"), []
        encode = agent.eyes.encoder.encode
        monkeypatch.setattr(agent.eyes.encoder, "encode", lambda clips: passes.append(len(clips)) or encode(clips))
        agent.update(pictures(agent.eyes).draw(6, (0,)))
        assert passes == [6, 6]

    def test_a_frozen_trunk_is_not_run(self, monkeypatch):
        agent = self.agent()
        batch = pictures(agent.eyes).draw(6, (0,))
        monkeypatch.setattr(agent.eyes.encoder, "encode", None)
        agent.update(batch)
        assert torch.equal(observed(agent.eyes, batch.next_seen), batch.next_seen["pixels"])

    def test_the_newest_picture_of_a_clip_and_the_numbers_count(self):
        torch.manual_seed(0)
        config = {"source": "vie_slow_r18", "width": 4, "size": 32, "mode": "finetune", "proprio": {"arm": 2}}
        eyes = Eyes(load(**config), control_hz=25)
        clips = torch.randint(0, 256, (3, eyes.encoder.sampling.frames, 32, 32, 3), dtype=torch.uint8)
        found = observed(eyes, {"pixels": clips, "arm": torch.tensor([[1.0, 2.0]] * 3)})
        assert found.shape == (3, novelty_dim(eyes))
        assert found[:, -2:].tolist() == [[1.0, 2.0]] * 3
        cell = clips[1, -1, 2:4, 4:6].float().mean(dim=(0, 1)) / 255  # of 16 x 16, in row 1 and column 2
        torch.testing.assert_close(found[1, :-2].reshape(3, 16, 16)[:, 1, 2], cell)


@pytest.mark.parametrize("kind", ["numbers", "pixels"])
def test_a_checkpoint_holds_eyes_once(kind):
    made = TestPixels().agent() if kind == "pixels" else exploring(SAC, SACConfig(**SMALL))
    names = list(made.state_dict())
    assert not [name for name in names if name.startswith("eyes.")]
    again = copy.deepcopy(made)
    assert again.eyes is again.inner.eyes
    again.load_state_dict(made.state_dict())
    assert len({tensor.data_ptr() for tensor in made.state_dict().values() if tensor.numel()}) == len(
        [tensor for tensor in made.state_dict().values() if tensor.numel()]
    )
