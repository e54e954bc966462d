import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.config import Config
from pretrain.data.corpus import Corpus
from pretrain.methods.heads import HeadedStream
from pretrain.methods.method import Method
from vie import Stream, VieError
from vie.bank import PADDING
from vie.distributed import Ranks
from vie.models.preact import init_weights

MISSING = -1
"""Class number of a video without a label."""


class Supervised(Method):
    """Classification by a label column: what a stream learns from people's answers.

    Videos without a label are shown, which moves the statistics of batch norm, and have no part in the loss.
    """

    citation = "supervised classification (cross-entropy)"

    def __init__(self, config: Config, model: Stream, corpus: Corpus, device: torch.device) -> None:
        """Reads the labels.

        Raises:
            VieError: The corpus has no such label column, or no training video has a label in it.
        """
        shards = corpus.shards
        if config.baseline.label is None and not shards.label_columns:
            raise VieError(
                f"{shards.path} has no label columns, and method=supervised learns one: prepare it from a CSV that has"
            )
        column = config.baseline.label or shards.label_columns[0]
        labels = shards.labels(column)[corpus.instances.videos]
        if (labels == MISSING).all():
            raise VieError(
                f"no training video has a label in column {column!r}: set baseline.label to another of "
                + ", ".join(shards.label_columns)
            )
        self.labels = torch.from_numpy(labels).to(device)
        head = nn.Linear(model.num_features, len(shards.classes(column)))
        self.network = HeadedStream(model, head.apply(init_weights))
        self.stages = {"supervised": config.baseline.steps}

    def inputs(self, clip: Tensor, instances: Tensor, step: int) -> tuple[Tensor, Tensor]:
        return clip, torch.where(instances == PADDING, MISSING, self.labels[instances])

    def loss(self, output: Tensor, target: Tensor, step: int) -> Tensor:
        known = Ranks.of_job().sum((target != MISSING).sum())
        return F.cross_entropy(output, target, ignore_index=MISSING, reduction="sum") / known.clamp(min=1)
