"""Pretrained encoders for reinforcement learning: the front door."""

from rl_encoders.sources import Source, open_source
from rl_encoders.stages import stages

__all__ = ["Source", "open_source", "stages"]
