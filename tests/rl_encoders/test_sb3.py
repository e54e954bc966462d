"""Encoders in Stable-Baselines3's own training loops."""

import copy

import gymnasium
import numpy as np
import pytest
import torch

pytest.importorskip("stable_baselines3")

import stable_baselines3
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack

from rl_encoders import load
from rl_encoders.adapters import sb3
from rl_encoders.adapters.sb3 import UnfreezeCallback, VieExtractor, encoders, verify
from tests.rl_encoders.environments import Dot
from vie import VieError

MODES = {
    "frozen": {"mode": "frozen"},
    "partial": {"mode": "partial"},
    "finetune": {"mode": "finetune"},
    "statistics": {"mode": "finetune", "update_statistics": True},
}


def policy(source, **encoder):
    return {
        "features_extractor_class": VieExtractor,
        "features_extractor_kwargs": {"encoder": {"source": source, "size": 32, **encoder}},
        "net_arch": [16],
    }


def agent(kind, source, env=None, name="CnnPolicy", **encoder):
    if kind is PPO:
        more = {"n_steps": 8, "batch_size": 8, "n_epochs": 1}
    else:
        more = {"buffer_size": 100, "learning_starts": 4, "batch_size": 8}
    return kind(name, env or Dot(), policy_kwargs=policy(source, **encoder), seed=0, device="cpu", **more)


@pytest.fixture(scope="module")
def pictures():
    env = Dot()
    env.reset(seed=0)
    return np.stack([env.picture() for _ in range(4)])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", [PPO, SAC])
def test_an_agent_learns_and_keeps_the_contract(kind, source, pictures, tmp_path, mode):
    model = agent(kind, source, **MODES[mode])
    verify(model, as_loaded=True)
    with torch.no_grad():
        loaded = load(source, size=32)(pictures)
        before = [encoder.eval()(pictures) for encoder in encoders(model)]
    assert all(torch.equal(each, loaded) for each in before)
    model.learn(16)
    verify(model)
    with torch.no_grad():
        after = [encoder.eval()(pictures) for encoder in encoders(model)]
    changed = [not torch.equal(one, other) for one, other in zip(before, after, strict=True)]
    # SB3's SAC trains its actor's extractor too, and moves its target's slowly.
    assert changed == [mode != "frozen"] * (1 if kind is PPO else 3)

    model.save(tmp_path / "agent.zip")
    again = kind.load(tmp_path / "agent.zip", device="cpu")
    verify(again)
    with torch.no_grad():
        assert all(
            torch.equal(encoder.eval()(pictures), wanted)
            for encoder, wanted in zip(encoders(again), after, strict=True)
        )


class Steps(gymnasium.ActionWrapper[np.ndarray, int, np.ndarray]):
    """The dot moved by numbered steps."""

    def __init__(self) -> None:
        super().__init__(Dot())
        self.action_space = gymnasium.spaces.Discrete(3)

    def action(self, action: int) -> np.ndarray:
        return np.full(self.env.action_space.shape, action - 1, np.float32)


@pytest.mark.parametrize("mode", ["frozen", "finetune"])
@pytest.mark.parametrize("kind", ["DQN", "SAC", "TD3"])
def test_targets_and_shared_extractors(kind, source, tmp_path, mode):
    """DQN's target lies beside what its one optimizer trains; an extractor that is shared is trained by the actor."""
    algorithm = getattr(stable_baselines3, kind)
    more = {"buffer_size": 100, "learning_starts": 4, "batch_size": 8, "train_freq": (1, "step")}
    shared = {} if kind == "DQN" else {"share_features_extractor": True}
    settings = policy(source, mode=mode) | shared
    env = Steps() if kind == "DQN" else Dot()
    model = algorithm("CnnPolicy", env, policy_kwargs=settings, seed=0, device="cpu", **more)
    verify(model, as_loaded=True)
    before = encoders(model)[0].fingerprint()
    model.learn(16)
    verify(model)
    assert (encoders(model)[0].fingerprint() != before) == (mode == "finetune")
    model.save(tmp_path / "agent.zip")
    again = sb3.load(algorithm, tmp_path / "agent.zip", device="cpu")
    verify(again)
    assert [each.fingerprint() for each in encoders(again)] == [each.fingerprint() for each in encoders(model)]


def test_an_optimizer_that_lost_the_encoder_is_named(source):
    model = agent(SAC, source, mode="finetune")
    model.actor.optimizer = torch.optim.Adam(model.actor.mu.parameters())
    with pytest.raises(VieError, match=r"optimi[sz]er"):
        verify(model)


def test_extractors_hold_the_frozen_trunk_once(source):
    model = agent(SAC, source)
    tensors = [tensor for encoder in encoders(model) for tensor in encoder.trunk.stream.state_dict().values()]
    one = encoders(model)[0].trunk.stream.state_dict().values()
    assert len(encoders(model)) == 3
    assert {tensor.data_ptr() for tensor in tensors} == {tensor.data_ptr() for tensor in one}
    assert not any("encoder.trunk" in name for name, _ in model.policy.named_parameters())


def test_the_encoder_sees_the_camera_s_own_pixels(source, pictures):
    model = agent(PPO, source)
    seen = []
    encoders(model)[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.predict(pictures)
    np.testing.assert_array_equal(seen[0].numpy(), pictures)


def test_frame_stacks_are_frames(source):
    env = VecFrameStack(DummyVecEnv([lambda: Dot()] * 2), 3)
    model = agent(PPO, source, env, history=3)
    seen = []
    encoders(model)[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    observation = env.reset()
    model.predict(observation)
    assert seen[0].shape == (2, 3, 32, 32, 3)
    np.testing.assert_array_equal(seen[0][:, 2].numpy(), observation[..., 6:])
    assert model.policy.features_extractor.features_dim == 3 * 64


def test_cameras_and_state(source):
    env = Dot(cameras=("front", "wrist"), state=3)
    heads = {"views": ["front", "wrist"], "proprio": {"state": 3}, "project": 10, "proprio_project": 5}
    model = agent(SAC, source, env, "MultiInputPolicy", **heads)
    assert model.policy.actor.features_extractor.features_dim == 15
    before = copy.deepcopy(encoders(model)[0].project.state_dict())
    model.learn(12)
    verify(model)
    after = encoders(model)[0].project.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("kind", [PPO, SAC])
def test_a_schedule_is_followed_by_targets_too(kind, source, tmp_path):
    model = agent(kind, source, mode="partial", train_from={0: "none", 10: "last", 20: "all"})
    model.learn(8, callback=UnfreezeCallback())
    assert {encoder.trunk.is_trained for encoder in encoders(model)} == {False}
    model.learn(24, callback=UnfreezeCallback(), reset_num_timesteps=False)
    assert {encoder.trunk.first_trained for encoder in encoders(model)} == {0}
    verify(model, as_loaded=False)
    optimizers = [model.policy.optimizer] if kind is PPO else [model.actor.optimizer, model.critic.optimizer]
    for encoder, optimizer in zip(encoders(model), optimizers, strict=False):
        encoder.verify(optimizer)
        assert len({group["lr"] for group in optimizer.param_groups}) == 1
    model.save(tmp_path / "agent.zip")
    again = sb3.load(kind, tmp_path / "agent.zip", env=Dot(), device="cpu")
    assert type(again) is kind
    verify(again)
    for one, other in zip(encoders(again), encoders(model), strict=True):
        assert one.fingerprint() == other.fingerprint()
    again.learn(8, callback=UnfreezeCallback(), reset_num_timesteps=False)
    verify(again)


def test_a_schedule_that_nobody_follows_is_named(source):
    model = agent(PPO, source, mode="partial", train_from={0: "none", 4: "last"})
    model.learn(8)
    with pytest.raises(VieError, match="schedule is not followed: give callback=UnfreezeCallback"):
        verify(model)
    with pytest.raises(VieError, match="layer_decay"):
        agent(PPO, source, mode="finetune", layer_decay=0.5)


def test_mistakes_are_named(source):
    with pytest.raises(VieError, match="is no picture"):
        PPO("MlpPolicy", "Pendulum-v1", policy_kwargs=policy(source), device="cpu")
    with pytest.raises(VieError, match="no camera 'top': they have front"):
        agent(PPO, source, Dot(cameras=("front",)), "MultiInputPolicy", views=["top"])
    model = agent(PPO, source)
    with pytest.raises(VieError, match=r"does not hold pixels divided by 255: leave normalize_images=True"):
        model.policy.features_extractor(torch.full((1, 3, 32, 32), 255.0))
