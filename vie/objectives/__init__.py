"""The two objectives of VIE as pure functions."""

from vie.objectives.instance_recognition import (
    instance_recognition_loss,
    instance_softmax,
    noise_contrastive_loss,
    recognised_positive,
    rejected_noise,
)
from vie.objectives.local_aggregation import local_aggregation_loss, negative_log_share, neighbour_share_loss

__all__ = [
    "instance_recognition_loss",
    "instance_softmax",
    "local_aggregation_loss",
    "negative_log_share",
    "neighbour_share_loss",
    "noise_contrastive_loss",
    "recognised_positive",
    "rejected_noise",
]
