"""Corpora that a command writes, for trying things out, for tests and for studies of what a network learns."""

from pretrain.corpora.cifar import write_cifar
from pretrain.corpora.motions import MOTIONS
from pretrain.corpora.moving_digits import write_moving_digits
from pretrain.corpora.moving_objects import object_chunks, render_objects, write_moving_objects

__all__ = [
    "MOTIONS",
    "object_chunks",
    "render_objects",
    "write_cifar",
    "write_moving_digits",
    "write_moving_objects",
]
