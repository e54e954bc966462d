"""Pretrained encoders for reinforcement learning: the front door (nothing is behind it yet)."""
