"""Behaviour cloning."""

import copy

import numpy as np
import pytest
import torch

from rl_encoders import load
from rl_encoders.agents.base_policy import GaussianHead, SeeingPolicy
from rl_encoders.agents.bc import BC, RegressionHead
from rl_encoders.agents.perception import Eyes, States
from tests.rl_encoders.agents.worlds import line


def cloned(head, eyes=None, ema=1.0):
    torch.manual_seed(0)
    agent = BC(SeeingPolicy(eyes or States({"place": 1}), head, lr=3e-3, ema=ema))
    agent.make_optimizers()
    return agent


def test_squared_error_is_that_of_the_formula():
    torch.manual_seed(0)
    head = RegressionHead(3, 2, (8,)).double().eval()
    state, action = torch.randn(5, 3).double(), torch.randn(5, 2).double()
    norm, first, _, last = head.layers
    inside = (state - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
    hidden = (inside @ first.weight.T + first.bias).clamp(min=0)
    expected = ((hidden @ last.weight.T + last.bias - action) ** 2).sum() / 10
    torch.testing.assert_close(head.loss(state, action), expected)
    assert head.sample(state * 1e3, 4).abs().max() <= 1
    assert head.sample(state, 4).shape == (5, 4, 2)


@pytest.mark.parametrize(
    "head", [RegressionHead(1, 1, (32,)), GaussianHead(1, 1, (32,))], ids=["regression", "gaussian"]
)
def test_it_does_what_the_data_does(head):
    agent, replay = cloned(head), line()
    for number in range(400):
        batch = replay.draw(64, (number,))
        agent.update(batch._replace(action=-0.8 * batch.seen["place"]))
    places = torch.linspace(-0.9, 0.9, 7)[:, None]
    found = np.mean([agent.act({"place": places}) for _ in range(20)], axis=0)
    np.testing.assert_allclose(found, -0.8 * places.numpy(), atol=0.12)


def test_the_slow_copy_has_the_statistics_of_the_trained_one():
    agent, replay = cloned(RegressionHead(1, 1, (8,)), ema=0.1), line()
    for number in range(3):
        agent.update(replay.draw(32, (number,)))
    slow, trained = agent.policy.slow_head.layers[0], agent.policy.head.layers[0]
    assert torch.equal(slow.running_mean, trained.running_mean)
    assert not torch.equal(slow.running_mean, torch.zeros(1))
    assert not torch.equal(slow.weight, trained.weight)


@pytest.mark.parametrize("mode", ["frozen", "finetune"])
def test_encoders_are_trained_or_not(mode):
    eyes = Eyes(load("vie_single_r18", mode, width=4, size=32), control_hz=10)
    agent = cloned(RegressionHead(eyes.dim, 1, (8,)), eyes)
    pictures = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
    seen = eyes.keep({"pixels": pictures})
    before = eyes.encoder.fingerprint()
    agent.policy.imitate(seen, torch.zeros(9, 1))
    assert (eyes.encoder.fingerprint() == before) == (mode == "frozen")
    eyes.encoder.verify()


def test_a_checkpoint_holds_eyes_once():
    agent = cloned(RegressionHead(4, 1, (8,)), Eyes(load("vie_single_r18", width=4, size=32, project=4), control_hz=10))
    assert not [name for name in agent.state_dict() if name.startswith("eyes.")]
    assert [name for name in agent.state_dict() if name.startswith("policy.eyes.")]
    assert copy.deepcopy(agent).eyes is not agent.eyes
