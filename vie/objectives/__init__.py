"""The two objectives of VIE as pure functions."""

from vie.objectives.instance_recognition import (
    instance_recognition_loss,
    instance_softmax_loss,
    noise_contrastive_loss,
)
from vie.objectives.local_aggregation import local_aggregation_loss, neighbour_share_loss

__all__ = [
    "instance_recognition_loss",
    "instance_softmax_loss",
    "local_aggregation_loss",
    "neighbour_share_loss",
    "noise_contrastive_loss",
]
