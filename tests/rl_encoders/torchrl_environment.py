"""Gymnasium's environments in TorchRL, with the one gymnasium that d3rlpy takes and TorchRL's own wrapper refuses."""

import gymnasium as gym
import torch
from gymnasium import spaces
from tensordict import TensorDict
from torchrl.data import Bounded, Categorical, Composite, Unbounded
from torchrl.envs import EnvBase, GymWrapper

REFUSED = "1.0."


def wrapped(env):
    return Plain(env) if gym.__version__.startswith(REFUSED) else GymWrapper(env)


class Plain(EnvBase):
    """What ``GymWrapper`` makes of such an environment."""

    def __init__(self, env):
        super().__init__()
        self.gym = env
        self.observation_spec = Composite({name: _spec(space) for name, space in self._named(env.observation_space)})
        self.action_spec = _spec(env.action_space)
        self.reward_spec = Unbounded((1,))
        flag = Categorical(2, (1,), dtype=torch.bool)
        self.done_spec = Composite(done=flag, terminated=flag.clone(), truncated=flag.clone())

    def _named(self, parts):
        if not isinstance(self.gym.observation_space, spaces.Dict):
            return [("pixels", parts)]
        return [("observation" if name == "state" else name, part) for name, part in parts.items()]

    def _reset(self, tensordict, **options):
        return self._seen(self.gym.reset()[0])

    def _step(self, tensordict):
        seen, reward, terminated, truncated, _ = self.gym.step(tensordict["action"].numpy())
        ends = {"done": terminated or truncated, "terminated": terminated, "truncated": truncated}
        flags = {name: torch.tensor([value]) for name, value in ends.items()}
        return self._seen(seen).update({"reward": torch.tensor([reward]), **flags})

    def _seen(self, seen):
        return TensorDict({name: torch.as_tensor(part) for name, part in self._named(seen)}, [])

    def _set_seed(self, seed):
        self.gym.reset(seed=seed)


def _spec(space):
    dtype = torch.uint8 if space.dtype == "uint8" else torch.float32
    if space.is_bounded():
        return Bounded(torch.as_tensor(space.low), torch.as_tensor(space.high), space.shape, dtype=dtype)
    return Unbounded(space.shape, dtype=dtype)
