"""Agents of d3rlpy for ``benchmarks.speed.hosts``."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import d3rlpy
import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.speed.plain import PlainTrunk
from benchmarks.speed.setting import Setting
from rl_encoders.adapters.d3rlpy import VieEncoderFactory

HIDDEN = 256
STEPS = 128
ACTION = 4
BATCHES = 64


class _Plain(nn.Module):
    def __init__(self, source: str, frozen: bool, action: int) -> None:
        super().__init__()
        self.trunk = PlainTrunk(source, frozen)
        self.layer = nn.Linear(self.trunk.model.num_features + action, HIDDEN)

    def read(self, x: Tensor, *action: Tensor) -> Tensor:
        read: Tensor = torch.relu(self.layer(torch.cat([self.trunk(x.float() / 255), *action], dim=1)))
        return read


class PlainEncoder(_Plain, d3rlpy.models.torch.Encoder):
    """Of observations."""

    def forward(self, x: Tensor) -> Tensor:
        return self.read(x)


class PlainEncoderWithAction(_Plain, d3rlpy.models.torch.EncoderWithAction):
    """Of observations and actions."""

    def forward(self, x: Tensor, action: Tensor) -> Tensor:
        return self.read(x, action)


@dataclass()
class PlainFactory(d3rlpy.models.EncoderFactory):
    """The trunk as d3rlpy's users put it there."""

    source: str = ""
    frozen: bool = False

    def create(self, observation_shape: Any) -> PlainEncoder:
        return PlainEncoder(self.source, self.frozen, 0)

    def create_with_action(
        self, observation_shape: Any, action_size: int, discrete_action: bool = False
    ) -> PlainEncoderWithAction:
        return PlainEncoderWithAction(self.source, self.frozen, action_size)

    @staticmethod
    def get_type() -> str:
        return "plain"


class CalQL:
    """Cal-QL on one episode of noise."""

    def __init__(self, setting: Setting) -> None:
        factory = (
            VieEncoderFactory({"source": setting.source, "size": setting.size, "mode": setting.mode}, [HIDDEN])
            if setting.ours
            else PlainFactory(setting.source, setting.mode == "frozen")
        )
        config = d3rlpy.algos.CalQLConfig(
            actor_encoder_factory=factory, critic_encoder_factory=factory, batch_size=setting.batch
        )
        self.algorithm = config.create(device="cuda:0" if setting.device.type == "cuda" else "cpu:0")
        self.algorithm.create_impl((3, setting.size, setting.size), ACTION)
        chance = np.random.default_rng(0)
        episode = d3rlpy.dataset.Episode(
            chance.integers(0, 256, (STEPS, 3, setting.size, setting.size), np.uint8),
            chance.uniform(-1, 1, (STEPS, ACTION)).astype(np.float32),
            chance.uniform(size=(STEPS, 1)).astype(np.float32),
            terminated=True,
        )
        data = d3rlpy.dataset.ReplayBuffer(d3rlpy.dataset.InfiniteBuffer(), episodes=[episode])
        # Never the same one twice in a row: what was seen last is remembered.
        self.batches = cycle([data.sample_transition_batch(setting.batch) for _ in range(BATCHES)])

    def modules(self) -> Iterator[nn.Module]:
        """Of the actor, the critics and their targets."""
        for part in vars(self.algorithm.impl.modules).values():
            if isinstance(part, nn.Module):
                yield from part.modules()

    def holders(self) -> Iterator[nn.Module]:
        """All: each has weights of its own."""
        return self.modules()

    def update(self) -> None:
        """One batch."""
        self.algorithm.update(next(self.batches))


HOSTS = {"d3rlpy Cal-QL": CalQL}
