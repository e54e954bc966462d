"""Pretrained visual encoders for reinforcement learning: one line of any agent's config."""

from rl_encoders.cache import FeatureCache
from rl_encoders.clip_buffer import ClipBuffer
from rl_encoders.encoder import VisualEncoder
from rl_encoders.loading import from_config, load
from rl_encoders.sources import Source, open_source
from rl_encoders.stages import stages

__all__ = [
    "ClipBuffer",
    "FeatureCache",
    "Source",
    "VisualEncoder",
    "from_config",
    "load",
    "open_source",
    "stages",
]
