"""Agents of Stable-Baselines3 for ``benchmarks.speed.hosts``."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from benchmarks.speed.plain import PlainTrunk
from benchmarks.speed.setting import Setting
from rl_encoders.adapters.sb3 import VieExtractor

STEPS = 128


class Noise(gym.Env[Any, Any]):
    """Pictures of noise, out of a few that are drawn once: nothing that would cost time."""

    def __init__(self, size: int) -> None:
        self.pictures = np.random.default_rng(0).integers(0, 256, (STEPS, size, size, 3), np.uint8)
        self.observation_space = spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.action_space = spaces.Box(-1, 1, (4,), np.float32)
        self.at = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.pictures[self.at % STEPS], {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.at += 1
        return self.pictures[self.at % STEPS], float(self.at % 3), False, self.at % 50 == 0, {}


class PlainExtractor(BaseFeaturesExtractor):
    """The trunk as SB3's users put it there."""

    def __init__(self, observation_space: Any, source: str, frozen: bool) -> None:
        trunk = PlainTrunk(source, frozen)
        super().__init__(observation_space, trunk.model.num_features)
        self.trunk = trunk

    def forward(self, observations: Tensor) -> Tensor:
        """Pooled features (B, C) of pictures (B, 3, H, W) in [0, 1]."""
        pooled: Tensor = self.trunk(observations)
        return pooled


class Sb3Agent:
    """PPO or SAC after one rollout."""

    def __init__(self, kind: Callable[..., Any], setting: Setting) -> None:
        extractor: dict[str, Any] = {
            "features_extractor_class": VieExtractor if setting.ours else PlainExtractor,
            "features_extractor_kwargs": {
                "encoder": {"source": setting.source, "size": setting.size, "mode": setting.mode}
            }
            if setting.ours
            else {"source": setting.source, "frozen": setting.mode == "frozen"},
        }
        more: dict[str, Any] = (
            {"n_steps": setting.batch, "n_epochs": 1}
            if kind is PPO
            else {"buffer_size": 2 * STEPS, "learning_starts": 10 * STEPS}
        )
        self.model = kind(
            "CnnPolicy",
            Noise(setting.size),
            policy_kwargs=extractor,
            batch_size=setting.batch,
            device=setting.device,
            seed=0,
            **more,
        )
        self.batch = setting.batch
        self._fill()

    def modules(self) -> Iterator[nn.Module]:
        """Of the policy, targets too."""
        return iter(self.model.policy.modules())

    def holders(self) -> Iterator[nn.Module]:
        """All: each has weights of its own."""
        return self.modules()

    def update(self) -> None:
        """One minibatch of PPO's rollout, or of SAC's buffer."""
        if isinstance(self.model, PPO):
            self.model.train()
        else:
            self.model.train(gradient_steps=1, batch_size=self.batch)

    def _fill(self) -> None:
        """Observations for the updates, without the library's own updates between them."""
        model = self.model
        _, callback = model._setup_learn(10 * STEPS, None)
        if isinstance(model, PPO):
            assert model.env is not None
            model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
        else:
            model.collect_rollouts(model.env, callback, model.train_freq._replace(frequency=STEPS), model.replay_buffer)


HOSTS = {f"Stable-Baselines3 {kind.__name__}": partial(Sb3Agent, kind) for kind in (PPO, SAC)}
