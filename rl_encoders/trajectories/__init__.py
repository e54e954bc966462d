"""Trajectories from disk, whatever format they lie in, and to it."""

from rl_encoders.trajectories.opening import Trajectories, open_trajectories
from rl_encoders.trajectories.writer import MinariWriter

__all__ = ["MinariWriter", "Trajectories", "open_trajectories"]
