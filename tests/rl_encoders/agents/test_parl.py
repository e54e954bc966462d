"""PA-RL over policies of every kind."""

import copy

import numpy as np
import pytest
import torch

from rl_encoders import load
from rl_encoders.agents.action_optimiser import Improvement
from rl_encoders.agents.autoregressive import AutoregressiveHead
from rl_encoders.agents.base_policy import GaussianHead, SeeingPolicy
from rl_encoders.agents.calql import cql_regularizer
from rl_encoders.agents.diffusion import DiffusionHead
from rl_encoders.agents.external_policy import ExternalPolicy
from rl_encoders.agents.parl import PARL, PARLConfig
from rl_encoders.agents.perception import Eyes, States
from tests.rl_encoders.agents.worlds import PIXELS, pictures
from vie import VieError

SMALL = {
    **{"critic_hidden": (32, 32), "gamma": 0.9, "tau": 0.05, "critics": 4, "careful": 2},
    **{"critic_lr": 2e-3, "candidates": 8, "action_samples": 4, "weight": 0.1},
    "improvement": Improvement(keep=4, steps=3, step_size=0.03),
}
HEADS = {
    "diffusion": lambda: DiffusionHead(1, 1, width=32, blocks=1, dropout=0.0),
    "transformer": lambda: AutoregressiveHead(1, 1, bins=21, width=16, layers=1, heads=2, dropout=0.0),
    "gaussian": lambda: GaussianHead(1, 1, (32, 32)),
}
PLACES = {"place": torch.tensor([[-0.9], [-0.5], [0.5], [0.9]])}


def made(name, **config):
    torch.manual_seed(0)
    policy = SeeingPolicy(States({"place": 1}), HEADS[name](), lr=2e-3, ema=0.1)
    agent = PARL(States({"place": 1}), 1, PARLConfig(**{**SMALL, **config}), policy)
    agent.make_optimizers()
    return agent


HISTOGRAM = {"bins": 31, "q_low": -12.0, "q_high": 2.0}
KINDS = [*((name, {}) for name in HEADS), ("diffusion", HISTOGRAM)]
KINDS += [("gaussian", {"critic": "iql"}), ("gaussian", {"critic": "iql", **HISTOGRAM})]


@pytest.fixture(scope="module")
def taught(replay):
    """Agents that have imitated and whose critics have learned, by their settings; what the last update told."""
    found = {}

    def teach(name, **critics):
        key = name, *sorted(critics.items())
        if key not in found:
            agent = made(name, **critics)
            for update in range(120):
                batch = replay.draw(64, (0, update))
                agent.imitate(batch)
                metrics = agent.update(batch)
            found[key] = agent, metrics
        return found[key]

    return teach


@pytest.mark.parametrize(("name", "critics"), KINDS)
def test_the_critic_picks_good_actions_of_a_policy_that_knows_none(name, critics, taught):
    """The data's actions are random, and so are the policy's; what is done is not."""
    agent, metrics = taught(name, **critics)
    torch.manual_seed(1)
    assert all(value.isfinite().all() for value in metrics.values())
    done = np.mean([agent.act(PLACES) for _ in range(5)], axis=0)
    assert (done[:2] > 0.15).all()
    assert (done[2:] < -0.15).all()
    blind = agent.policy.sample(PLACES, 200).mean(dim=1)
    assert blind.abs().max() < 0.35


@pytest.mark.parametrize("name", HEADS)
def test_the_policy_learns_what_was_optimised(name, replay, taught):
    agent = copy.deepcopy(taught(name)[0])
    torch.manual_seed(1)
    before = agent.policy.sample(PLACES, 300).mean(dim=1)
    for update in range(150):
        agent.distil(replay.draw(64, (1, update)))
    after = agent.policy.sample(PLACES, 300).mean(dim=1)
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


def test_iqls_critics_go_on_where_they_stopped(replay):
    """Their value is in the checkpoint, and in the optimizer."""

    def learn(agent, numbers):
        for number in numbers:
            torch.manual_seed(number)
            agent.distil(replay.draw(16, (number,)))
            agent.update(replay.draw(16, (number,)))

    whole, first = made("gaussian", critic="iql"), made("gaussian", critic="iql")
    value = copy.deepcopy(whole.value.state_dict())
    learn(whole, range(6))
    learn(first, range(3))
    again = made("gaussian", critic="iql")
    again.load_state_dict(copy.deepcopy(first.state_dict()))
    for key, optimizer in again.optimizers().items():
        optimizer.load_state_dict(copy.deepcopy(first.optimizers()[key].state_dict()))
    learn(again, range(3, 6))
    for (key, tensor), other in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(tensor, other), key
    assert not torch.equal(whole.value.state_dict()["last.weight"], value["last.weight"])


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


def test_the_policy_acts_alone_until_the_critics_have_learned(replay):
    agent = made("diffusion")
    agent.imitate(replay.draw(8, (0,)))

    def acted_and_sampled():
        found = []
        for draw in (lambda: agent.act(PLACES), lambda: agent.policy.sample(PLACES, 1)[:, 0].numpy()):
            torch.manual_seed(3)
            found.append(draw())
        return found

    np.testing.assert_array_equal(*acted_and_sampled())
    agent.update(replay.draw(8, (0,)))
    acted, sampled = acted_and_sampled()
    assert (acted != sampled).any()
    again = made("diffusion")
    again.load_state_dict(agent.state_dict())
    assert again.learned


def test_what_is_sampled_has_no_dropout():
    head = AutoregressiveHead(1, 1, bins=5, width=16, layers=1, heads=2, dropout=0.5)
    policy = SeeingPolicy(States({"place": 1}), head)
    agent = PARL(States({"place": 1}), 1, PARLConfig(**SMALL), policy).train()
    assert policy.head.training
    assert not any(module.training for module in agent.policy.slow_head.modules())
    bins = torch.empty(4, 0, dtype=torch.long)
    one, two = (policy.slow_head.logits(PLACES["place"], bins) for _ in range(2))
    assert torch.equal(one, two)


def test_it_draws_by_value_to_explore():
    agent = made("gaussian", explore_best=False)
    drawn = {tuple(agent.act(PLACES, explore=True)[:, 0].round(4)) for _ in range(8)}
    assert len(drawn) == 8


@pytest.mark.parametrize("mode", ["frozen", "finetune"])
def test_through_pixels(mode):
    """Critic and policy each train their own eyes, if any; the slow eyes follow those of the policy."""
    torch.manual_seed(0)
    eyes, own = (Eyes(load(**PIXELS, mode=mode, project=8), control_hz=10) for _ in range(2))
    policy = SeeingPolicy(own, DiffusionHead(eyes.dim, 2, width=16, blocks=1), ema=0.5)
    agent = PARL(eyes, 2, PARLConfig(**SMALL), policy)
    agent.make_optimizers()
    batch = pictures(eyes).draw(8, (0,))

    def prints():
        return [one.encoder.fingerprint() for one in (agent.eyes, policy.eyes, policy.slow_eyes)]

    before = prints()
    agent.update(batch)
    between = prints()
    agent.distil(batch)
    after = prints()
    trained = mode == "finetune"
    assert (before[0] != between[0], between[0] != after[0]) == (trained, False)
    assert (before[1] != between[1], between[1] != after[1]) == (False, trained)
    assert (before[2] != between[2], between[2] != after[2]) == (False, trained)
    agent.eyes.encoder.verify(agent.critic_optimizer)
    policy.eyes.encoder.verify(policy.optimizer)
    fast, slow = (one.encoder.project[0].weight for one in (policy.eyes, policy.slow_eyes))
    assert not torch.equal(fast, slow)
    assert agent.act(batch.seen).shape == (8, 2)


class TestExternal:
    """A small model behind the interface of a large one."""

    def policy(self, **options):
        weight = np.zeros((1, 1), np.float32)
        asked = []

        def ask(seen, count):
            asked.append(len(seen["place"]))
            noise = np.random.default_rng(0).normal(0, 0.5, (len(seen["place"]), count, 1))
            return (seen["place"] @ weight)[:, None] + noise

        def teach(seen, action):
            error = seen["place"] @ weight - action
            weight[:] -= 0.5 * (seen["place"].T @ error) / len(action)
            return float((error**2).mean())

        return ExternalPolicy(ask, teach, 1, **options), asked, weight

    def test_it_is_improved(self, replay):
        policy, _, weight = self.policy(refresh_every=20)
        torch.manual_seed(0)
        agent = PARL(States({"place": 1}), 1, PARLConfig(**SMALL), policy)
        agent.make_optimizers()
        for update in range(80):
            agent.update(replay.draw(64, (0, update)))
        for update in range(60):
            agent.distil(replay.draw(64, (1, update)))
        assert weight[0, 0] < -0.3  # towards 0, from either side

    def test_candidates_are_asked_for_once_until_it_has_learned(self):
        policy, asked, _ = self.policy(refresh_every=2)
        first = policy.sample(PLACES, 6)
        assert torch.equal(policy.sample(PLACES, 6), first)
        assert asked == [4]
        half = {"place": torch.tensor([[0.5], [0.7]])}
        assert torch.equal(policy.sample(half, 6)[0], first[2])
        assert asked == [4, 1]
        policy.imitate(PLACES, PLACES["place"])
        policy.sample(PLACES, 6)
        assert asked == [4, 1]
        policy.imitate(PLACES, PLACES["place"])
        assert not torch.equal(policy.sample(PLACES, 6), first)
        assert asked == [4, 1, 4]

    def test_what_is_kept_is_bounded(self):
        policy, asked, _ = self.policy(most=2)
        policy.sample(PLACES, 3)
        policy.sample({"place": PLACES["place"][2:]}, 3)
        assert asked == [4]
        policy.sample({"place": PLACES["place"][:1]}, 3)
        assert asked == [4, 1]

    def test_what_it_gives_is_looked_at(self):
        policy = ExternalPolicy(lambda seen, count: np.zeros((4, count, 7)), lambda *_: 0.0, action_dim=1)
        with pytest.raises(VieError, match=r"gave \(4, 3, 7\) actions.*where \(4, 3, 1\) were asked for"):
            policy.sample(PLACES, 3)
