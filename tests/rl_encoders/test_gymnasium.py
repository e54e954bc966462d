import numpy as np
import pytest
import torch

gym = pytest.importorskip("gymnasium")

from rl_encoders import load  # noqa: E402
from rl_encoders.adapters.gymnasium import EncodeObservation, VectorEncodeObservation  # noqa: E402
from tests.rl_encoders.environments import Dot  # noqa: E402
from vie import VieError  # noqa: E402

STILL = {"source": "vie_single_r18", "width": 8, "size": 32}
CLIPS = {"source": "vie_resnet3d_r18", "width": 8, "size": 32}


def observations(env, steps=25):
    """What an environment gives, over the ends of episodes."""
    found = [env.reset(seed=3)[0]]
    env.action_space.seed(3)
    for _ in range(steps):
        observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
        found.append(observation)
        if not hasattr(env, "num_envs") and (terminated or truncated):
            found.append(env.reset()[0])
    return found


def test_pictures_become_what_the_encoder_makes_of_them():
    encoder = load(**STILL)
    env = EncodeObservation(Dot(), encoder)
    plain, encoded = observations(Dot()), observations(env)
    with torch.no_grad():
        wanted = encoder(np.stack(plain)).numpy()
    np.testing.assert_allclose(np.stack(encoded), wanted, atol=1e-5)
    assert all(env.observation_space.contains(each) for each in encoded)
    encoder.verify()


def test_cameras_and_state_become_one_vector_beside_the_rest():
    env = Dot(cameras=("front", "wrist"), state=3)
    one = EncodeObservation(env, load(**STILL, views=["front", "wrist"], proprio={"state": 3}))
    assert one.observation_space.shape == (2 * 64 + 3,)
    found, _ = one.reset(seed=1)
    assert one.observation_space.contains(found)
    np.testing.assert_array_equal(found[-3:], env.look()["state"])
    part = EncodeObservation(env, load(**STILL, views=["wrist"]))
    found, _ = part.reset(seed=1)
    assert set(found) == {"front", "state", "embedding"}
    assert part.observation_space.contains(found)


@pytest.mark.parametrize("config", [STILL, CLIPS], ids=["still", "clips"])
def test_many_environments_are_each_alone(config):
    """In one forward pass, and over the ends of episodes, where clips begin anew."""
    encoder = load(**config)
    hz = 25.0 if config is CLIPS else None
    many = VectorEncodeObservation(gym.vector.SyncVectorEnv([Dot] * 3), encoder, hz)
    forwards = []
    handle = encoder.trunk.register_forward_hook(lambda *_: forwards.append(1))
    many.reset(seed=[3, 4, 5])
    many.action_space.seed(0)
    actions = [many.action_space.sample() for _ in range(14)]
    together = [many.reset(seed=[3, 4, 5])[0], *(many.step(action)[0] for action in actions)]
    assert len(forwards) == 15  # what came again with the second reset was encoded before
    handle.remove()
    for number in range(3):
        one = EncodeObservation(Dot(), encoder, hz)
        alone, over = [one.reset(seed=3 + number)[0]], False
        for action in actions:
            if over:
                observation, over = one.reset()[0], False
            else:
                observation, _, _, over, _ = one.step(action[number])
            alone.append(observation)
        np.testing.assert_allclose(np.stack(alone), np.stack(together)[:, number], atol=1e-5)


def test_a_clip_ends_with_the_newest_frame_and_begins_with_the_episode():
    encoder = load(**CLIPS)
    seen = []
    encoder.trunk.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    env = EncodeObservation(Dot(length=40), encoder, control_hz=50.0)  # of which the trunk wants every second frame
    frames = observations(Dot(length=40), 36)
    observations(env, 36)
    with torch.no_grad():
        encoder.encode(torch.from_numpy(np.stack([frames[max(0, 36 - back)] for back in range(30, -1, -2)]))[None])
    assert torch.equal(seen[36], seen[-1])
    assert torch.equal(seen[0][:, :, :1].expand_as(seen[0]), seen[0])


def test_an_encoder_that_learns_is_refused():
    for more in ({"mode": "finetune"}, {"pool": "attention"}, {"project": 8}):
        with pytest.raises(VieError, match=r"the encoder learns .*: load it with mode=frozen, pool=mean"):
            EncodeObservation(Dot(), load(**STILL, **more))


def test_a_camera_that_is_not_there_is_named():
    with pytest.raises(VieError, match="observations have no 'top': they have front, state"):
        EncodeObservation(Dot(cameras=("front",), state=2), load(**STILL, views=["top"]))
    with pytest.raises(VieError, match="a mapping of front, state: load the encoder with views"):
        EncodeObservation(Dot(cameras=("front",), state=2), load(**STILL))
