"""What checkpoints hold of a policy behind two functions, and what it learns from."""

import copy

import numpy as np
import pytest
import torch

from rl_encoders.agents.external_policy import ExternalPolicy
from rl_encoders.agents.perception import States
from rl_encoders.agents.raw import WithRaw
from rl_encoders.training.checkpoint import load_state, save_state
from vie import VieError

PLACES = {"place": torch.tensor([[-0.9], [-0.5], [0.5], [0.9]])}


class Line:
    """Actions around ``slope`` times the place; every draw is another."""

    def __init__(self, slope=0.0):
        self.slope = torch.tensor([slope], requires_grad=True)
        self.optimizer = torch.optim.Adam([self.slope], 0.1)
        self.draws, self.taught = np.random.default_rng(0), []

    def ask(self, seen, count):
        middle = seen["place"] * self.slope.detach().numpy()
        return middle[:, None] + self.draws.normal(size=(len(middle), count, 1))

    def teach(self, seen, actions):
        self.taught.append(seen["place"])
        loss = (torch.from_numpy(seen["place"]) * self.slope - torch.from_numpy(actions)).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def weights(self):
        return {"slope": self.slope}

    def load_weights(self, weights):
        self.slope.data.copy_(weights["slope"])

    def policy(self, **options):
        given = {"optimizer": self.optimizer, "weights": self.weights, "load_weights": self.load_weights}
        return ExternalPolicy(self.ask, self.teach, 1, **given | options)


def kept_and_found(policy, folder):
    """Through a checkpoint on disk, into a policy that knows nothing."""
    optimizers = {name: one.state_dict() for name, one in policy.optimizers().items()}
    save_state(folder, {"agent": policy.state_dict(), "optimizers": optimizers})
    state = load_state(folder)
    again = Line(slope=9.0).policy(refresh_every=policy.refresh_every)
    again.load_state_dict(state["agent"])
    for name, optimizer in again.optimizers().items():
        optimizer.load_state_dict(state["optimizers"][name])
    return again


def test_it_goes_on_exactly(tmp_path):
    """With weights and optimizer, with candidates of older weights, and to the step at which new ones are asked for."""
    policy = Line().policy(refresh_every=4)
    for _ in range(5):
        policy.imitate(PLACES, 0.5 * PLACES["place"])
    drawn = policy.sample(PLACES, 3)
    few = policy.sample({"place": PLACES["place"][:2]}, 5)
    policy.imitate(PLACES, 0.5 * PLACES["place"])
    again = kept_and_found(policy, tmp_path)
    assert (again.steps, again.asked) == (6, 6)
    for one in (policy, again):
        for step in (7, 8):
            assert torch.equal(one.sample(PLACES, 3), drawn)
            assert torch.equal(one.sample({"place": PLACES["place"][:2]}, 5), few)
            one.imitate(PLACES, 0.5 * PLACES["place"])
            assert one.steps == step
        assert not torch.equal(one.sample(PLACES, 3), drawn)
    assert torch.equal(again.weights()["slope"], policy.weights()["slope"])


def test_without_anything_to_keep(tmp_path):
    policy = Line().policy(optimizer=None, weights=None, load_weights=None)
    policy.imitate(PLACES, PLACES["place"])
    save_state(tmp_path, policy.state_dict())
    again = Line().policy(optimizer=None, weights=None, load_weights=None)
    again.load_state_dict(load_state(tmp_path))
    assert again.steps == 1
    assert again.optimizers() == {}


def test_weights_that_nobody_takes_are_refused():
    state = Line().policy().state_dict()
    with pytest.raises(VieError, match="the checkpoint holds weights of the external policy: give load_weights"):
        Line().policy(load_weights=None).load_state_dict(state)


def test_it_learns_from_some_of_both_halves_of_a_batch():
    line = Line()
    policy = line.policy(learn_from=3)
    policy.imitate({"place": torch.arange(9.0)[:, None]}, torch.zeros(9, 1))
    policy.imitate({"place": torch.arange(2.0)[:, None]}, torch.zeros(2, 1))
    assert [one[:, 0].tolist() for one in line.taught] == [[0, 4, 8], [0, 1]]


def test_a_copy_keeps_for_itself():
    policy = Line().policy()
    policy.sample(PLACES, 3)
    again = copy.deepcopy(policy)
    again.imitate(PLACES, PLACES["place"])
    assert policy.weights()["slope"] == 0


def test_eyes_keep_what_a_policy_wants_to_see():
    eyes = WithRaw(States({"place": 1}), ["pixels"])
    assert (eyes.dim, eyes.reach, eyes.augments, eyes.back, eyes.param_groups(0.1)) == (1, 0, False, {}, [])
    seen = {
        "place": np.arange(5, dtype=np.float64)[:, None],
        "pixels": np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8),
    }
    kept = eyes.keep(seen)
    assert kept["raw.pixels"].dtype == torch.uint8
    np.testing.assert_array_equal(kept["raw.pixels"], seen["pixels"])
    assert eyes.vector(kept)[:, 0].tolist() == [0, 1, 2, 3, 4]
    steps = [{name: part[step] for name, part in seen.items()} for step in range(5)]
    newest = eyes.keep_newest([steps[:3], steps])
    assert newest["place"].tolist() == [[2], [4]]
    np.testing.assert_array_equal(newest["raw.pixels"], seen["pixels"][[2, 4]])
