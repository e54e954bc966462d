"""Encoders in TorchRL's own training loops."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("torchrl")

from tensordict import TensorDict
from tensordict.nn import NormalParamExtractor, TensorDictModule, TensorDictSequential
from torchrl import collectors
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import (
    CatFrames,
    Compose,
    SerialEnv,
    ToTensorImage,
    TransformedEnv,
    check_env_specs,
)
from torchrl.modules import MLP, ActorValueOperator, ProbabilisticActor, TanhNormal, ValueOperator
from torchrl.objectives import ClipPPOLoss, SACLoss, SoftUpdate
from torchrl.objectives.value import GAE

from rl_encoders import ClipBuffer, load, recent
from rl_encoders.adapters.torchrl import (
    ClipTransform,
    EncodeTransform,
    encoder_module,
    encoders,
    reload,
    verify,
)
from tests.rl_encoders.environments import Dot
from tests.rl_encoders.torchrl_environment import wrapped
from vie import VieError, create_model, save_pretrained

Collector = getattr(collectors, "Collector", None) or collectors.SyncDataCollector
pytestmark = pytest.mark.filterwarnings("ignore")

MODES = {
    "frozen": {"mode": "frozen"},
    "partial": {"mode": "partial"},
    "finetune": {"mode": "finetune"},
    "statistics": {"mode": "finetune", "update_statistics": True},
}
WIDTH = 64
BATCH = 8


def saved(folder, name):
    torch.manual_seed(0)
    model = create_model(name, width=8).eval()
    save_pretrained(model, folder, model.sampling)
    return str(folder)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("encoder"), "vie_single_r18")


@pytest.fixture(scope="module")
def dynamic(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("dynamic"), "vie_resnet3d_r18")


@pytest.fixture(scope="module")
def pictures():
    env = Dot()
    env.reset(seed=0)
    return np.stack([env.picture() for _ in range(4)])


def eyes(source, **encoder):
    return encoder_module(load(source, size=32, **encoder), ["pixels"], channels_first=False)


def actor_on(*before):
    head = nn.Sequential(nn.Linear(WIDTH, 4), NormalParamExtractor())
    return ProbabilisticActor(
        TensorDictSequential(*before, TensorDictModule(head, ["embedding"], ["loc", "scale"])),
        in_keys=["loc", "scale"],
        distribution_class=TanhNormal,
        return_log_prob=True,
    )


def critic(source, **encoder):
    head = ValueOperator(MLP(WIDTH + 2, 1, num_cells=[8]), in_keys=["embedding", "action"])
    return TensorDictSequential(eyes(source, **encoder), head)


def sac(source, seed=0, critics=1, **encoder):
    torch.manual_seed(seed)
    networks = [critic(source, **encoder) for _ in range(critics)]
    loss = SACLoss(actor_on(eyes(source, **encoder)), networks if critics > 1 else networks[0], target_entropy=-2.0)
    loss.make_value_estimator(gamma=0.9)
    reload(loss)
    return loss, loss.actor_network


def ppo(source, seed=0, **encoder):
    torch.manual_seed(seed)
    operator = ActorValueOperator(
        eyes(source, **encoder), actor_on(), ValueOperator(MLP(WIDTH, 1, num_cells=[8]), in_keys=["embedding"])
    )
    loss = ClipPPOLoss(operator.get_policy_operator(), operator.get_value_operator())
    loss.make_value_estimator(gamma=0.9, lmbda=0.9)
    return loss, operator


def collected(policy, frames=16):
    policy.eval()
    collector = Collector(wrapped(Dot()), policy, frames_per_batch=frames, total_frames=frames)
    batches = list(collector)
    collector.shutdown()
    policy.train()
    return batches[0]


def learn_sac(loss, actor, steps=2):
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(100), batch_size=BATCH)
    buffer.extend(collected(actor))
    optimizer, targets = torch.optim.Adam(loss.parameters(), 1e-3), SoftUpdate(loss, tau=0.1)
    for _ in range(steps):
        step(loss, buffer.sample(), optimizer)
        targets.step()


def learn_ppo(loss, operator, steps=2):
    batch = collected(operator.get_policy_operator())
    GAE(gamma=0.9, lmbda=0.9, value_network=operator.eval().get_value_operator())(batch)
    operator.train()
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(100), batch_size=BATCH)
    buffer.extend(batch)
    optimizer = torch.optim.Adam(loss.parameters(), 1e-3)
    for _ in range(steps):
        step(loss, buffer.sample(), optimizer)


def step(loss, batch, optimizer):
    found = loss(batch)
    sum(value for name, value in found.items() if name.startswith("loss")).backward()
    optimizer.step()
    optimizer.zero_grad()


KINDS = {"sac": (sac, learn_sac, 5), "ppo": (ppo, learn_ppo, 2)}


def embedded(module, pictures):
    with torch.no_grad():
        return [encoder.eval()(pictures) for encoder in encoders(module)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_an_agent_learns_and_keeps_the_contract(kind, source, pictures, tmp_path, mode):
    make, learn, count = KINDS[kind]
    loss, policy = make(source, **MODES[mode])
    verify(loss, as_loaded=True)
    verify(policy, as_loaded=True)
    with torch.no_grad():
        loaded = load(source, size=32)(pictures)
    # An actor, two critics and their targets; or one encoder in an actor and a critic.
    assert len(encoders(loss)) == count
    assert all(torch.equal(each, loaded) for each in embedded(loss, pictures))
    learn(loss, policy)
    verify(loss)
    verify(policy)
    after = embedded(loss, pictures)
    assert [not torch.equal(each, loaded) for each in after] == [mode != "frozen"] * count

    torch.save(loss.state_dict(), tmp_path / "loss.pt")
    again, _ = make(source, seed=1, **MODES[mode])
    again.load_state_dict(torch.load(tmp_path / "loss.pt", weights_only=True))
    verify(again)
    found = embedded(again, pictures)
    assert all(torch.equal(one, other) for one, other in zip(found, after, strict=True))


def trained(encoder):
    return {name: value.detach().clone() for name, value in encoder.named_parameters() if "trunk" in name}


def test_critics_learn_and_targets_follow(source):
    loss, actor = sac(source, mode="finetune")
    before = [trained(encoder) for encoder in encoders(loss)]
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(100), batch_size=BATCH)
    buffer.extend(collected(actor))
    targets = SoftUpdate(loss, tau=0.25)
    optimizer = torch.optim.SGD(loss.parameters(), 1e-2)
    found = loss(buffer.sample())
    (found["loss_actor"] + found["loss_qvalue"] + found["loss_alpha"]).backward()
    weights = dict(loss.named_parameters())
    assert len([name for name in weights if "trunk" in name]) == 2 * len(before[0])
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in weights.values())
    optimizer.step()
    targets.step()
    _, *critics_before = before
    _, *after = [trained(encoder) for encoder in encoders(loss)]
    for number in range(2):
        for name, old in critics_before[number].items():
            live, target = after[number][name], after[number + 2][name]
            assert not torch.equal(live, old)
            torch.testing.assert_close(target, old.lerp(live, 0.25))


def test_critics_drawn_anew_are_found_and_put_back(source):
    torch.manual_seed(0)
    loss = SACLoss(actor_on(eyes(source, mode="finetune")), critic(source, mode="finetune"), target_entropy=-2.0)
    with pytest.raises(VieError, match=r"is not as it was loaded.*call reload\(loss\)"):
        verify(loss, as_loaded=True)
    reload(loss)
    verify(loss, as_loaded=True)
    heads = loss.qvalue_network_params.get(("module", "1", "module", "0", "weight"))
    assert not torch.equal(heads[0], heads[1])


def test_a_list_of_critics_keeps_its_weights(source):
    torch.manual_seed(0)
    critics = [critic(source, mode="finetune") for _ in range(2)]
    try:
        loss = SACLoss(actor_on(eyes(source, mode="finetune")), critics, target_entropy=-2.0)
    except AttributeError:
        pytest.skip("this TorchRL takes no list of critics")
    verify(loss, as_loaded=True)
    learn_sac(loss, loss.actor_network)
    verify(loss)


@pytest.mark.parametrize("deactivate_vmap", [False, True])
@pytest.mark.parametrize("mode", ["frozen", "finetune"])
def test_the_first_version_of_sac_runs_networks_over_split_batches(source, mode, deactivate_vmap):
    torch.manual_seed(0)
    value = TensorDictSequential(eyes(source, mode=mode), ValueOperator(nn.Linear(WIDTH, 1), in_keys=["embedding"]))
    loss = SACLoss(
        actor_on(eyes(source, mode=mode)),
        critic(source, mode=mode),
        value,
        target_entropy=-2.0,
        deactivate_vmap=deactivate_vmap,
    )
    loss.make_value_estimator(gamma=0.9)
    reload(loss)
    learn_sac(loss, loss.actor_network)
    verify(loss)


@pytest.mark.parametrize("mode", ["frozen", "finetune"])
def test_a_frozen_trunk_sees_every_picture_once_in_an_update(source, mode):
    loss, actor = sac(source, mode=mode)
    batch = collected(actor)
    recent.forget()
    seen = []
    for network in (loss.actor_network, loss.qvalue_network):
        for encoder in encoders(network):
            encoder.trunk.register_forward_hook(lambda _, inputs, output: seen.append(len(inputs[0])))
    loss(batch)
    # Of observations and of next observations.
    assert (sum(seen) <= 2 * len(batch)) == (mode == "frozen")


def test_networks_hold_the_frozen_trunk_once(source):
    loss, _ = sac(source)
    tensors = [tensor for encoder in encoders(loss) for tensor in encoder.trunk.stream.state_dict().values()]
    one = encoders(loss)[0].trunk.stream.state_dict().values()
    assert {tensor.data_ptr() for tensor in tensors} == {tensor.data_ptr() for tensor in one}
    assert not any("trunk" in name for name, _ in loss.named_parameters())
    assert {name.rpartition(".")[2] for name in loss.state_dict() if "trunk" in name} == {"frozen_digest"}


def test_the_weights_of_another_encoder_are_found(source, tmp_path):
    loss, _ = sac(source)
    torch.manual_seed(1)
    other = create_model("vie_single_r18", width=8).eval()
    save_pretrained(other, tmp_path, other.sampling)
    loss.load_state_dict(sac(str(tmp_path))[0].state_dict())
    with pytest.raises(VieError, match="loaded a checkpoint of another encoder"):
        verify(loss)


def test_a_schedule_needs_the_loss_anew(source):
    loss, _ = sac(source, mode="partial", train_from={0: "none", 5: "last"})
    verify(loss)
    for network in (loss.actor_network, loss.qvalue_network):
        for encoder in encoders(network):
            encoder.advance(5)
    with pytest.raises(VieError, match="make the loss anew"):
        verify(loss)


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
@pytest.mark.parametrize("form", ["last", "first", "scaled", "stack"])
def test_pictures_of_any_form(source, pictures, form, lead):
    encoder = load(source, size=32, history=2 if form == "stack" else 1)
    frames = torch.from_numpy(np.resize(pictures, (*lead, 2, 32, 32, 3)))
    pixels = frames.movedim(-1, -3).flatten(-4, -3) if form == "stack" else frames[..., 0, :, :, :]
    if form in {"first", "scaled"}:
        pixels = pixels.movedim(-1, -3)
    if form == "scaled":
        pixels = pixels / 255
    module = encoder_module(encoder, ["pixels"], channels_first=form != "last", scaled=form == "scaled")
    found = module(TensorDict({"pixels": pixels}, lead))["embedding"]
    flat = frames.reshape(-1, 2, 32, 32, 3)
    wanted = encoder(flat if form == "stack" else flat[:, 0])
    assert torch.equal(found, wanted.reshape(*lead, -1))


def test_an_environment_gives_vectors(source):
    encoder = load(source, size=32)
    env = TransformedEnv(wrapped(Dot()), EncodeTransform(encoder, ["pixels"], channels_first=False))
    check_env_specs(env)
    assert env.observation_spec["embedding"].shape == (WIDTH,)
    assert "pixels" not in env.observation_spec
    rollout = env.rollout(12, break_when_any_done=False)
    assert rollout["next", "embedding"].shape == (12, WIDTH)
    verify(env)


def test_a_batch_of_environments_with_cameras_and_state(source):
    encoder = load(source, size=32, views=["front", "wrist"], proprio={"state": 3}, project=10)
    env = SerialEnv(2, lambda: wrapped(Dot(cameras=("front", "wrist"), state=3)))
    keys = ["front", "wrist", "observation"]  # GymWrapper's name for a state
    transform = EncodeTransform(encoder, keys, "seen", channels_first=False, del_keys=False)
    env = TransformedEnv(env, transform)
    check_env_specs(env)
    rollout = env.rollout(12, break_when_any_done=False)
    assert rollout["seen"].shape == (2, 12, 13)
    with torch.no_grad():
        parts = {name: rollout[key].flatten(0, 1) for name, key in zip(["front", "wrist", "state"], keys, strict=True)}
        wanted = encoder(parts)
    torch.testing.assert_close(rollout["seen"].flatten(0, 1), wanted)


def test_torchrl_s_own_transforms_of_pictures(source):
    encoder = load(source, size=32, history=3)
    prepared = Compose(ToTensorImage(in_keys=["pixels"], out_keys=["pixels"]), CatFrames(3, -3, in_keys=["pixels"]))
    kept = TransformedEnv(wrapped(Dot()), prepared)
    transform = EncodeTransform(encoder, ["pixels"], channels_first=True, scaled=True, del_keys=False)
    env = TransformedEnv(kept, transform)
    check_env_specs(env)
    rollout = env.rollout(4)
    pixels = (rollout["pixels"] * 255).round().to(torch.uint8).unflatten(1, (3, 3)).movedim(2, -1)
    torch.testing.assert_close(rollout["embedding"], encoder(pixels))


def test_a_replay_buffer_gives_vectors_with_gradients(source):
    encoder = load(source, mode="finetune", size=32)
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(100), batch_size=BATCH)
    buffer.append_transform(EncodeTransform(encoder, ["pixels"], channels_first=False))
    buffer.extend(wrapped(Dot()).rollout(10))
    sample = buffer.sample()
    assert sample["embedding"].shape == sample["next", "embedding"].shape == (BATCH, WIDTH)
    assert "pixels" not in sample
    sample["embedding"].square().sum().backward()
    assert all(value.grad is not None for value in encoder.parameters())


def test_a_frozen_encoder_sees_the_pictures_of_a_sample_once(source):
    encoder = load(source, size=32)
    transform = EncodeTransform(encoder, ["pixels"], channels_first=False, del_keys=False)
    batch = wrapped(Dot()).rollout(6)
    recent.forget()
    seen = []
    encoder.trunk.register_forward_hook(lambda _, inputs, output: seen.append(len(inputs[0])))
    for _ in range(3):
        transform(batch.clone())
    assert seen == [6, 6]


def test_moving_a_host_leaves_the_encoder_where_it_computes(source):
    encoder = load(source, size=32, project=4)
    transform = EncodeTransform(encoder, ["pixels"], channels_first=False)
    TransformedEnv(wrapped(Dot()), transform).to(torch.device("meta"))
    transform.to(torch.float64)
    assert encoder.device.type == "cpu"
    assert {value.dtype for value in encoder.parameters()} == {torch.float32}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device")
def test_an_encoder_on_another_device_than_the_buffer(source):
    encoder = load(source, size=32, device="cuda")
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(100), batch_size=BATCH)
    buffer.append_transform(EncodeTransform(encoder, ["pixels"], channels_first=False))
    buffer.extend(wrapped(Dot()).rollout(10))
    assert buffer.sample()["embedding"].device.type == "cpu"
    assert encoder.device.type == "cuda"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device")
@pytest.mark.parametrize("mode", ["frozen", "partial"])
def test_a_loss_moves_with_its_encoders(source, mode):
    loss, actor = sac(source, mode=mode)
    batch = collected(actor)
    loss.to("cuda")(batch.to("cuda"))
    verify(loss)


def rolled(envs, dynamic, **encoder):
    made = load(dynamic, size=32, **encoder)
    clips = ClipTransform(made.sampling, ["pixels"], ["clips"], control_hz=10)
    encode = EncodeTransform(made, ["clips"], channels_first=False, clips=True, del_keys=False)
    return made, TransformedEnv(envs, Compose(clips, encode))


def test_clips_begin_anew_with_each_episode(dynamic):
    lengths = [3, 5]
    envs = SerialEnv(2, [lambda n=n: wrapped(Dot(length=n)) for n in lengths])
    encoder, env = rolled(envs, dynamic)
    check_env_specs(env)
    rollout = env.rollout(9, break_when_any_done=False)
    for number, length in enumerate(lengths):
        buffer = ClipBuffer(encoder.sampling, 10)
        for at in range(9):
            frame = rollout[number, at]["pixels"].numpy()
            clip = buffer.reset(frame) if at % length == 0 else buffer.append(frame)
            np.testing.assert_array_equal(rollout[number, at]["clips"].numpy(), clip)
            after = copy.deepcopy(buffer).append(rollout[number, at]["next", "pixels"].numpy())
            np.testing.assert_array_equal(rollout[number, at]["next", "clips"].numpy(), after)
    with torch.no_grad():
        torch.testing.assert_close(rollout["embedding"].flatten(0, 1), encoder(rollout["clips"].flatten(0, 1)))


def test_a_dynamic_encoder_learns_from_clips_in_a_buffer(dynamic):
    encoder, env = rolled(wrapped(Dot()), dynamic, mode="partial")
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(20), batch_size=2)
    buffer.extend(env.rollout(4).exclude("embedding", ("next", "embedding")))
    module = encoder_module(encoder, ["clips"], channels_first=False, clips=True)
    module(buffer.sample())["embedding"].sum().backward()
    assert all(value.grad is not None for value in encoder.parameters())


def test_mistakes_are_named(source, dynamic):
    encoder = load(source, size=32)
    with pytest.raises(VieError, match="in_keys has 2 keys: the encoder takes pixels, in order"):
        EncodeTransform(encoder, ["a", "b"], channels_first=False)
    pixels = torch.zeros(2, 32, 32, 3, dtype=torch.uint8)
    for given, options, error in [
        (pixels, {"channels_first": True}, "with 32 channels first: say by channels_first"),
        (pixels / 255, {"channels_first": False}, "is torch.float32: give the camera's uint8 pixels, or scaled=True"),
        (pixels + 2.0, {"channels_first": False, "scaled": True}, "does not hold pixels divided by 255: say by scaled"),
    ]:
        with pytest.raises(VieError, match=error):
            encoder_module(encoder, ["pixels"], **options)(TensorDict({"pixels": given}, [2]))
    with pytest.raises(VieError, match=r"have no 'top': they have pixels"):
        TransformedEnv(wrapped(Dot()), EncodeTransform(encoder, ["top"], channels_first=False)).observation_spec  # noqa: B018
    learns = load(source, mode="partial", size=32)
    env = TransformedEnv(wrapped(Dot()), EncodeTransform(learns, ["pixels"], channels_first=False))
    with pytest.raises(VieError, match=r"the encoder learns .* keep the pixels"):
        env.observation_spec  # noqa: B018
    with pytest.raises(VieError, match="the Linear has no encoder"):
        verify(nn.Linear(1, 1))
    clips = ClipTransform(encoder.sampling, ["pixels"], control_hz=10)
    with pytest.raises(VieError, match="ClipTransform is for environments"):
        clips(TensorDict({"pixels": pixels}, [2]))
