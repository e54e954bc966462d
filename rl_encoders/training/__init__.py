"""Agents in environments: offline data first, then their own episodes; evaluated, kept, and continued exactly."""

from rl_encoders.training.policy import Policy, load_policy

__all__ = ["Policy", "load_policy"]
