"""Encoders in d3rlpy's own offline training."""

import numpy as np
import pytest
import torch

d3rlpy = pytest.importorskip("d3rlpy")

from rl_encoders import load, recent  # noqa: E402
from rl_encoders.adapters.d3rlpy import VieEncoderFactory, encoders, verify  # noqa: E402
from tests.rl_encoders.environments import Dot  # noqa: E402
from vie import VieError  # noqa: E402

CONFIGS = {
    "cql": d3rlpy.algos.CQLConfig,
    "cal_ql": d3rlpy.algos.CalQLConfig,
    "iql": d3rlpy.algos.IQLConfig,
    "td3_bc": d3rlpy.algos.TD3PlusBCConfig,
}
BATCH = 8


def episodes(env, count=4):
    env.action_space.seed(0)
    parts = []
    for seed in range(count):
        seen, actions, rewards = [env.reset(seed=seed)[0]], [], []
        over = False
        while not over:
            actions.append(env.action_space.sample())
            observation, reward, _, over, _ = env.step(actions[-1])
            seen.append(observation)
            rewards.append([reward])
        parts.append(
            d3rlpy.dataset.Episode(
                arranged(env, seen[:-1]), np.array(actions), np.array(rewards, np.float32), terminated=False
            )
        )
    return d3rlpy.dataset.ReplayBuffer(d3rlpy.dataset.InfiniteBuffer(), episodes=parts)


def arranged(env, seen):
    """As d3rlpy wants them: channels in front, mappings as lists."""
    if not env.cameras:
        return np.stack(seen).transpose(0, 3, 1, 2)
    pictures = [np.stack([each[name] for each in seen]).transpose(0, 3, 1, 2) for name in env.cameras]
    return [*pictures, np.stack([each["state"] for each in seen])]


def algorithm(kind, source, data, scaler=False, **encoder):
    factory = VieEncoderFactory({"source": source, "size": 32, **encoder}, hidden_units=[16], scaled=scaler)
    more = {"observation_scaler": d3rlpy.preprocessing.PixelObservationScaler()} if scaler else {}
    if kind == "iql":
        more["value_encoder_factory"] = factory
    config = CONFIGS[kind](actor_encoder_factory=factory, critic_encoder_factory=factory, batch_size=BATCH, **more)
    made = config.create(device="cpu:0")
    parts = data.sample_transition().observation_signature.shape
    # d3rlpy's build_with_dataset knows the first part alone.
    made.create_impl(parts if len(parts) > 1 else parts[0], data.dataset_info.action_size)
    return made


@pytest.fixture(scope="module")
def data():
    return episodes(Dot())


@pytest.fixture(scope="module")
def pictures():
    env = Dot()
    env.reset(seed=0)
    return np.stack([env.picture() for _ in range(4)])


@pytest.mark.parametrize("mode", ["frozen", "partial", "finetune"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_an_algorithm_learns_and_keeps_the_contract(kind, source, data, pictures, tmp_path, mode):
    made = algorithm(kind, source, data, mode=mode)
    verify(made, as_loaded=True)
    with torch.no_grad():
        loaded = load(source, size=32)(pictures)
        assert all(torch.equal(encoder.eval()(pictures), loaded) for encoder in encoders(made))
    batch = data.sample_transition_batch(BATCH)
    for _ in range(2):
        made.update(batch)
    verify(made)
    with torch.no_grad():
        after = [encoder.eval()(pictures) for encoder in encoders(made)]
    assert any(not torch.equal(each, loaded) for each in after) == (mode != "frozen")
    actions = made.predict(batch.observations)

    made.save(str(tmp_path / "agent.d3"))
    again = d3rlpy.load_learnable(str(tmp_path / "agent.d3"), device="cpu:0")
    verify(again)
    np.testing.assert_allclose(again.predict(batch.observations), actions, atol=1e-5)
    with torch.no_grad():
        for encoder, wanted in zip(encoders(again), after, strict=True):
            assert torch.equal(encoder.eval()(pictures), wanted)


@pytest.mark.parametrize(("mode", "most"), [("frozen", 2), ("finetune", 99)])
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_frozen_trunk_sees_every_picture_once_in_an_update(kind, source, data, mode, most):
    made = algorithm(kind, source, data, mode=mode)
    recent.forget()
    seen = []
    for encoder in encoders(made):
        encoder.trunk.register_forward_hook(lambda _, inputs, output: seen.append(len(inputs[0])))
    made.update(data.sample_transition_batch(BATCH))
    # Of observations and of next observations.
    assert len(seen) <= most
    assert (sum(seen) <= 2 * BATCH) == (mode == "frozen")


def test_encoders_hold_the_frozen_trunk_once(source, data):
    made = algorithm("cal_ql", source, data)
    assert len(encoders(made)) == 5
    tensors = [value for encoder in encoders(made) for value in encoder.trunk.stream.state_dict().values()]
    one = {value.data_ptr() for value in encoders(made)[0].trunk.stream.state_dict().values()}
    assert {value.data_ptr() for value in tensors} == one


def test_scaled_pixels_are_the_same_pixels(source, data):
    batch = data.sample_transition_batch(BATCH)
    found = []
    for scaler in (False, True):
        made = algorithm("td3_bc", source, data, scaler)
        encoder = encoders(made)[0]
        encoder.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
        made.predict(batch.observations)
    assert torch.equal(*found)
    np.testing.assert_array_equal(found[0].numpy(), batch.observations.transpose(0, 2, 3, 1))


def test_the_wrong_scale_is_refused(source, data):
    batch = data.sample_transition_batch(BATCH)
    factory = VieEncoderFactory({"source": source, "size": 32}, [16], scaled=True)
    made = CONFIGS["td3_bc"](actor_encoder_factory=factory, critic_encoder_factory=factory).create(device="cpu:0")
    made.build_with_dataset(data)
    with pytest.raises(VieError, match="does not hold pixels divided by 255: say by scaled=True"):
        made.predict(batch.observations)


def test_cameras_and_state(source):
    env = Dot(cameras=("front", "wrist"), state=3)
    data = episodes(env)
    heads = {"views": ["front", "wrist"], "proprio": {"state": 3}, "project": 10}
    made = algorithm("cal_ql", source, data, **heads)
    made.update(data.sample_transition_batch(BATCH))
    verify(made)
    assert encoders(made)[0].output_dim == 13


def test_the_first_pictures_are_seen(source, pictures):
    encoder = VieEncoderFactory({"source": source, "size": 32}, [16]).create((3, 32, 32))
    floats = torch.from_numpy(pictures.transpose(0, 3, 1, 2)).float()
    assert torch.equal(encoder(floats), encoder(floats))


def test_mistakes_are_named(source, data):
    for more, hidden, message in (
        ({"mode": "finetune", "layer_decay": 0.5}, [16], "leave out layer_decay"),
        ({"mode": "partial", "train_from": {0: "none", 9: "all"}}, [16], "give train_from one stage"),
        ({}, [], "hidden_units is empty"),
    ):
        with pytest.raises(VieError, match=message):
            VieEncoderFactory({"source": source, "size": 32, **more}, hidden).create((3, 32, 32))
    with pytest.raises(VieError, match="observations have 2 parts, the encoder takes front"):
        algorithm("iql", source, episodes(Dot(cameras=("front",), state=2)), views=["front"])
