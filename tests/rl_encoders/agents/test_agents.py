"""Whole agents: what they learn of a little world, and what of them is trained by what."""

import copy

import numpy as np
import pytest
import torch

from rl_encoders import load
from rl_encoders.agents.calql import CalQL, CalQLConfig
from rl_encoders.agents.iql import IQL, IQLConfig
from rl_encoders.agents.perception import Eyes, States
from rl_encoders.agents.sac import SAC, SACConfig
from tests.rl_encoders.agents.worlds import PIXELS, pictures
from vie import VieError

HIDDEN = (32, 32)
SMALL = {"policy_hidden": HIDDEN, "critic_hidden": HIDDEN, "gamma": 0.9}
FAST = {**SMALL, "policy_lr": 2e-3, "critic_lr": 2e-3, "tau": 0.05}
AGENTS = {
    "sac": (SAC, SACConfig(**FAST)),
    "cal-ql": (CalQL, CalQLConfig(**FAST, weight=0.5)),
    "cql": (CalQL, CalQLConfig(**FAST, weight=0.5, calibrated=False, importance_sampling=False)),
    "cal-ql, Lagrange": (CalQL, CalQLConfig(**FAST, weight=0.5, target_gap=0.8)),
    "cal-ql, histograms": (CalQL, CalQLConfig(**FAST, weight=0.5, bins=51, q_low=-12, q_high=2, layer_norm=True)),
    "cal-ql, ensemble": (CalQL, CalQLConfig(**FAST, weight=0.5, critics=5, careful=2, max_target_backup=False)),
    "iql": (IQL, IQLConfig(**FAST, expectile=0.8)),
}


def made(name, eyes=None, action_dim=1):
    torch.manual_seed(0)
    kind, config = AGENTS[name]
    agent = kind(eyes or States({"place": 1}), action_dim, config)
    agent.make_optimizers()
    return agent


@pytest.mark.parametrize("name", AGENTS)
def test_it_learns_where_to_go(name, replay):
    agent = made(name)
    for update in range(250):
        metrics = agent.update(replay.draw(64, (0, update)))
    assert all(value.isfinite().all() for value in metrics.values())
    places = torch.tensor([[-0.9], [-0.5], [0.5], [0.9]])
    actions = agent.act({"place": places})
    assert actions.shape == (4, 1)
    assert (actions[:2] > 0.15).all()
    assert (actions[2:] < -0.15).all()


@pytest.mark.parametrize("name", AGENTS)
def test_it_goes_on_exactly(name, replay):
    def learn(agent, updates):
        for update in updates:
            torch.manual_seed(update)
            agent.update(replay.draw(16, (0, update)))

    whole, first = made(name), made(name)
    learn(whole, range(6))
    learn(first, range(3))
    again = made(name)
    again.load_state_dict(copy.deepcopy(first.state_dict()))
    for key, optimizer in again.optimizers().items():
        optimizer.load_state_dict(copy.deepcopy(first.optimizers()[key].state_dict()))
    learn(again, range(3, 6))
    for (key, tensor), other in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(tensor, other), key


def test_calibration_is_of_use_where_data_is_good(replay):
    """With a heavy weight CQL values the policy's actions far below what the data has got; Cal-QL does not."""
    found = {}
    for calibrated in (True, False):
        torch.manual_seed(0)
        agent = CalQL(States({"place": 1}), 1, CalQLConfig(**FAST, weight=20.0, calibrated=calibrated))
        agent.make_optimizers()
        for update in range(150):
            agent.update(replay.draw(64, (0, update)))
        batch = replay.draw(500, (9,))
        with torch.no_grad():
            state = agent.eyes.vector(batch.seen)
            q = agent.critic(state, agent.policy.sample(state, 1)[0])[..., 0].min(dim=0).values
        found[calibrated] = float((q - batch.mc_return).mean())
    assert found[True] > found[False] + 0.5


class TestEyes:
    def agent(self, share_encoder=True, **config):
        torch.manual_seed(0)
        eyes = Eyes(load(**PIXELS, **config), control_hz=10)
        agent = CalQL(eyes, 2, CalQLConfig(**SMALL, share_encoder=share_encoder))
        agent.make_optimizers()
        return agent

    def test_a_frozen_trunk_sees_a_picture_once(self, monkeypatch):
        agent, passes = self.agent(project=8), []
        encode = agent.eyes.encoder.encode
        monkeypatch.setattr(agent.eyes.encoder, "encode", lambda clips: passes.append(len(clips)) or encode(clips))
        buffer = pictures(agent.eyes)
        assert sum(passes) == 3 * 7
        before = agent.eyes.encoder.project[0].weight.clone()
        for update in range(3):
            agent.update(buffer.draw(8, (update,)))
        agent.act(buffer.draw(1, (0,)).seen)
        assert sum(passes) == 3 * 7
        agent.eyes.encoder.verify(agent.critic_optimizer)
        assert not torch.equal(agent.eyes.encoder.project[0].weight, before)

    @pytest.mark.parametrize("share_encoder", [True, False])
    def test_critics_train_the_trunk_and_actors_their_own(self, share_encoder):
        agent = self.agent(share_encoder, mode="finetune")
        buffer = pictures(agent.eyes)
        assert {name: tensor.dtype for name, tensor in buffer.columns.items()} == {"pixels": torch.uint8}
        before = agent.eyes.encoder.fingerprint(), agent.actor_eyes.encoder.fingerprint()
        agent.update(buffer.draw(8, (0,)))
        agent.eyes.encoder.verify(agent.critic_optimizer)
        after = agent.eyes.encoder.fingerprint(), agent.actor_eyes.encoder.fingerprint()
        assert before[0] != after[0]
        assert before[1] != after[1]
        assert (after[0] == after[1]) == share_encoder
        if not share_encoder:
            agent.actor_eyes.encoder.verify(agent.actor_optimizer)

    def test_a_shared_trunk_gets_no_gradient_of_the_actor(self):
        agent = self.agent(mode="finetune")
        batch = pictures(agent.eyes).draw(8, (0,))
        _, _, actor_state, _ = agent.look(batch)
        assert not actor_state.requires_grad

    def test_both_frames_of_a_transition_are_shifted_alike(self, monkeypatch):
        agent, seen = self.agent(mode="finetune"), []
        monkeypatch.setattr("rl_encoders.agents.perception.shift", lambda frames, by: seen.append(by) or frames)
        agent.look(pictures(agent.eyes).draw(8, (0,)))
        assert len(seen) == 2
        assert torch.equal(seen[0], seen[1])
        assert len(torch.unique(seen[0], dim=0)) > 1

    def test_features_and_pixels_are_seen_alike(self):
        """What a frozen trunk keeps is what it would see, for a dynamic one too, at the start of a trajectory too."""
        torch.manual_seed(0)
        config = {"source": "vie_slow_r18", "width": 4, "size": 32}
        frozen = Eyes(load(**config), control_hz=25)
        later = Eyes(load(**config, mode="partial", train_from={0: "none", 10: "all"}), control_hz=25)
        later.encoder.load_state_dict(later.encoder.state_dict())
        assert frozen.keeps_features
        assert not later.keeps_features
        later.encoder = copy.deepcopy(frozen.encoder)
        batches = [pictures(eyes).draw(10, (0,)) for eyes in (frozen, later)]
        assert batches[1].seen["pixels"].shape[1] == frozen.encoder.sampling.frames
        torch.testing.assert_close(frozen.vector(batches[0].seen), later.vector(batches[1].seen), atol=1e-5, rtol=1e-4)

    def test_rows_one_by_one_are_rows_together(self):
        torch.manual_seed(0)
        eyes = Eyes(load(source="vie_slow_r18", width=4, size=32), control_hz=25)
        seen = {"pixels": np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)}
        whole = eyes.keep(seen)["pixels"]
        for step in range(9):
            history = [{"pixels": frame} for frame in seen["pixels"][max(0, step - eyes.reach) : step + 1]]
            short = [{"pixels": seen["pixels"][0]}]
            both = eyes.keep_newest([history, short])["pixels"]
            torch.testing.assert_close(both, torch.stack([whole[step], whole[0]]), atol=1e-5, rtol=1e-4)

    def test_several_clips_are_refused(self):
        with pytest.raises(VieError, match="history=2: agents keep single clips"):
            Eyes(load(**PIXELS, history=2), control_hz=10)


def test_a_histogram_needs_its_ends():
    with pytest.raises(VieError, match="bins=51 needs the ends of the histogram: give q_low and q_high"):
        SAC(States({"place": 1}), 1, SACConfig(bins=51))
