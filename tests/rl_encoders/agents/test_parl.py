"""PA-RL over policies of every kind."""

import copy

import numpy as np
import pytest
import torch

from rl_encoders import load
from rl_encoders.agents.action_optimiser import Improvement
from rl_encoders.agents.autoregressive import AutoregressivePolicy
from rl_encoders.agents.base_policy import GaussianPolicy
from rl_encoders.agents.calql import cql_regularizer
from rl_encoders.agents.diffusion import DiffusionPolicy
from rl_encoders.agents.parl import PARL, PARLConfig
from rl_encoders.agents.perception import Eyes, States
from tests.rl_encoders.agents.worlds import PIXELS, pictures
from vie import VieError

SMALL = {
    **{"policy_hidden": (32, 32), "critic_hidden": (32, 32), "gamma": 0.9, "tau": 0.05, "critics": 4, "careful": 2},
    **{"policy_lr": 2e-3, "critic_lr": 2e-3, "candidates": 8, "action_samples": 4, "ema": 0.1, "weight": 0.1},
    "improvement": Improvement(keep=4, steps=3, step_size=0.03),
}
POLICIES = {
    "diffusion": lambda: DiffusionPolicy(1, 1, width=32, blocks=1, dropout=0.0),
    "transformer": lambda: AutoregressivePolicy(1, 1, bins=21, width=16, layers=1, heads=2, dropout=0.0),
    "gaussian": lambda: GaussianPolicy(1, 1, (32, 32)),
}
PLACES = {"place": torch.tensor([[-0.9], [-0.5], [0.5], [0.9]])}


def made(name, **config):
    torch.manual_seed(0)
    agent = PARL(States({"place": 1}), 1, PARLConfig(**{**SMALL, **config}), POLICIES[name]())
    agent.make_optimizers()
    return agent


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("histogram", [False, True])
def test_the_critic_picks_good_actions_of_a_policy_that_knows_none(name, histogram, replay):
    """The data's actions are random, and so are the policy's; what is done is not."""
    if histogram and name != "diffusion":
        pytest.skip("one policy is enough for the other kind of critic")
    agent = made(name, **({"bins": 31, "q_low": -12.0, "q_high": 2.0} if histogram else {}))
    for update in range(120):
        batch = replay.draw(64, (0, update))
        agent.imitate(batch)
        metrics = agent.update(batch)
    assert all(value.isfinite().all() for value in metrics.values())
    done = np.mean([agent.act(PLACES) for _ in range(5)], axis=0)
    assert (done[:2] > 0.15).all()
    assert (done[2:] < -0.15).all()
    blind = agent.slow_policy.sample(PLACES["place"], 200).mean(dim=1)
    assert blind.abs().max() < 0.35


@pytest.mark.parametrize("name", POLICIES)
def test_the_policy_learns_what_was_optimised(name, replay):
    agent = made(name)
    for update in range(120):
        batch = replay.draw(64, (0, update))
        agent.imitate(batch)
        agent.update(batch)
    before = agent.slow_policy.sample(PLACES["place"], 300).mean(dim=1)
    for update in range(150):
        agent.distil(replay.draw(64, (1, update)))
    after = agent.slow_policy.sample(PLACES["place"], 300).mean(dim=1)
    assert (after[:2] > before[:2]).all()
    assert (after[2:] < before[2:]).all()


def test_one_optimised_action_counts_as_often_as_it_would_be_drawn(replay):
    """What the release computes ten times over, and this once."""
    agent, batch = made("gaussian", careful=None), replay.draw(16, (0,))
    seen = {}
    twin = copy.deepcopy(agent)

    def spy(*given, **options):
        seen["gap"] = cql_regularizer(*given, **options)
        seen["given"] = given
        return seen["gap"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rl_encoders.agents.parl.cql_regularizer", spy)
        torch.manual_seed(5)
        agent.update(batch)
    q_data, q_random, q_current, q_next = (tensor.detach() for tensor in seen["given"][:4])
    floor = batch.mc_return[:, None]
    terms = torch.cat(
        [q_random, q_data[..., None]] + [torch.maximum(q, floor)[..., :1] + np.log(4) for q in (q_current, q_next)],
        dim=-1,
    )
    torch.testing.assert_close(seen["gap"], torch.logsumexp(terms, dim=-1) - q_data)
    with torch.no_grad():
        state = twin.eyes.vector(batch.seen)
        scores = twin.critic(state, batch.action)  # the members in any order
        torch.testing.assert_close(scores.sort(dim=0).values, q_data.sort(dim=0).values)


def test_critics_learn_of_actions_and_policies_of_demonstrations_alone(replay):
    agent, batch = made("diffusion"), replay.draw(16, (0,))
    policy, critic = (copy.deepcopy(part.state_dict()) for part in (agent.policy, agent.critic))

    def same(part, before):
        return all(torch.equal(tensor, before[name]) for name, tensor in part.state_dict().items())

    agent.update(batch)
    assert same(agent.policy, policy)
    assert not same(agent.critic, critic)
    critic = copy.deepcopy(agent.critic.state_dict())
    agent.distil(batch)
    assert same(agent.critic, critic)
    assert not same(agent.policy, policy)


def test_what_is_sampled_has_no_dropout():
    policy = AutoregressivePolicy(1, 1, bins=5, width=16, layers=1, heads=2, dropout=0.5)
    agent = PARL(States({"place": 1}), 1, PARLConfig(**SMALL), policy).train()
    assert agent.policy.training
    assert not any(module.training for module in agent.slow_policy.modules())
    bins = torch.empty(4, 0, dtype=torch.long)
    one, two = (agent.slow_policy.logits(PLACES["place"], bins) for _ in range(2))
    assert torch.equal(one, two)


def test_it_draws_by_value_to_explore():
    agent = made("gaussian", explore_best=False)
    drawn = {tuple(agent.act(PLACES, explore=True)[:, 0].round(4)) for _ in range(8)}
    assert len(drawn) == 8


def test_through_pixels():
    torch.manual_seed(0)
    eyes = Eyes(load(**PIXELS, mode="finetune"), control_hz=10)
    agent = PARL(eyes, 2, PARLConfig(**SMALL), DiffusionPolicy(eyes.dim, 2, width=16, blocks=1))
    agent.make_optimizers()
    batch = pictures(eyes).draw(8, (0,))
    before = [one.encoder.fingerprint() for one in (agent.eyes, agent.actor_eyes)]
    agent.update(batch)
    between = [one.encoder.fingerprint() for one in (agent.eyes, agent.actor_eyes)]
    agent.distil(batch)
    after = [one.encoder.fingerprint() for one in (agent.eyes, agent.actor_eyes)]
    assert (before[0] != between[0], between[0] == after[0]) == (True, True)
    assert (before[1] == between[1], between[1] != after[1]) == (True, True)


def test_densities_are_refused():
    with pytest.raises(VieError, match="importance_sampling=True: an optimised action has no density"):
        made("gaussian", importance_sampling=True)
