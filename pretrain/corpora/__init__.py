"""Small corpora that a command writes, for trying things out and for tests."""

from pretrain.corpora.moving_digits import MOTIONS, write_moving_digits

__all__ = ["MOTIONS", "write_moving_digits"]
