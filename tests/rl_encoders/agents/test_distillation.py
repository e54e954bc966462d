"""What PA-RL's policy is taught, under a critic whose values are known."""

import pytest
import torch
from torch import nn

from rl_encoders.agents.action_optimiser import Improvement
from rl_encoders.agents.base_policy import BasePolicy, GaussianHead, SeeingPolicy
from rl_encoders.agents.bc import BC
from rl_encoders.agents.parl import PARL, PARLConfig
from rl_encoders.agents.perception import States
from rl_encoders.replay.buffer import Batch

B, N = 40, 8


class Given(BasePolicy):
    """The same actions for every observation; remembers what it is taught."""

    def __init__(self):
        super().__init__()
        self.actions, self.taught = torch.linspace(-0.9, -0.2, N)[:, None], []

    def sample(self, seen, count):
        return self.actions.expand(len(seen["s"]), N, 1)

    def imitate(self, seen, action, shifts=None):
        self.taught.append(action)
        return {}


class Known(nn.Module):
    """Two critics: one wants 0.5, the other, which is ten times as sure, -0.4; or both say nothing."""

    def __init__(self, steep=(1.0, 10.0)):
        super().__init__()
        self.steep = steep

    def forward(self, state, action):
        one, other = -(action - 0.5).square().sum(-1), -(action + 0.4).square().sum(-1)
        return torch.stack([self.steep[0] * one, self.steep[1] * other])


def made(critic, **options):
    torch.manual_seed(0)
    config = PARLConfig(
        critics=2, critic_hidden=(8,), candidates=N, improvement=Improvement(keep=4, steps=0), **options
    )
    agent = PARL(States({"s": 1}), 1, config, Given())
    agent.critic = critic
    return agent


@pytest.fixture
def batch():
    action = torch.where(torch.arange(B) < B // 2, -0.32, 0.9)[:, None]
    state, number = {"s": torch.zeros(B, 1)}, torch.zeros(B)
    return Batch(state, state, action, number, number, number)


def test_actions_are_ranked_by_the_mean_of_all_critics(batch):
    agent = made(Known())
    found = agent.optimised(torch.zeros(B, 1), batch.seen)
    values = Known()(None, agent.policy.sample(batch.seen, N)).mean(dim=0)
    torch.testing.assert_close(found.values, values.topk(4).values)
    assert not torch.allclose(values[0].argsort(), Known()(None, agent.policy.actions[None])[0, 0].argsort())


def test_the_datas_action_competes(batch):
    """Of the first half it is the best there is, of the second the worst."""
    agent = made(Known(), imitate_best=True)
    agent.distil(batch)
    (taught,) = agent.policy.taught
    wanted = torch.where(torch.arange(B) < B // 2, -0.32, -0.3)
    torch.testing.assert_close(taught[:, 0], wanted)


@pytest.mark.parametrize("imitate_best", [True, False])
def test_one_is_drawn_by_its_value_unless_the_best_is_wanted(batch, imitate_best):
    agent = made(Known(steep=(0.0, 0.0)), imitate_best=imitate_best)
    agent.distil(batch)
    assert (len(torch.unique(agent.policy.taught[0])) > 3) != imitate_best


def test_a_slow_copy_follows():
    torch.manual_seed(0)
    policy = SeeingPolicy(States({"s": 1}), GaussianHead(1, 1, (8,)), lr=0.1, ema=0.25)
    policy.make_optimizers()
    before = [one.clone() for one in policy.slow_head.parameters()]
    policy.imitate({"s": torch.randn(16, 1)}, torch.rand(16, 1) - 0.5)
    for old, fast, slow in zip(before, policy.head.parameters(), policy.slow_head.parameters(), strict=True):
        torch.testing.assert_close(slow, 0.75 * old + 0.25 * fast)
        assert not torch.equal(fast, old)


def test_the_data_is_imitated_at_a_rate_of_its_own(batch):
    """By an optimizer of its own, which checkpoints hold too; one is enough where the rates are the same."""
    torch.manual_seed(0)
    policy = SeeingPolicy(States({"s": 1}), GaussianHead(1, 1, (8,)), lr=1e-4, imitation_lr=1e-2)
    agent = PARL(States({"s": 1}), 1, PARLConfig(critic_hidden=(8,)), policy)
    agent.make_optimizers()

    def step(learn):
        before = [one.detach().clone() for one in policy.head.parameters()]
        learn(batch)
        return max(
            float((old - new).abs().max().detach()) for old, new in zip(before, policy.head.parameters(), strict=True)
        )

    assert step(agent.imitate) == pytest.approx(1e-2, rel=1e-2)  # as of Adam's first step
    assert step(agent.distil) == pytest.approx(1e-4, rel=1e-2)
    assert set(agent.optimizers()) == {"critic_optimizer", "policy", "cloning"}
    cloning = BC(SeeingPolicy(States({"s": 1}), GaussianHead(1, 1, (8,)), lr=1e-4, imitation_lr=1e-2))
    policy = cloning.policy
    cloning.make_optimizers()
    assert step(cloning.update) == pytest.approx(1e-2, rel=1e-2)
    alone = SeeingPolicy(States({"s": 1}), GaussianHead(1, 1, (8,)))
    alone.make_optimizers()
    assert list(alone.optimizers()) == ["policy"]
