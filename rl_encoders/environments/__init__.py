"""Environments that agents see in pictures, all of one shape; each in a process of its own."""

from rl_encoders.environments.guarded import Environment, make_environment
from rl_encoders.environments.plain import Parts

__all__ = ["Environment", "Parts", "make_environment"]
