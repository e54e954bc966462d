import torch
from torch import Tensor

from pretrain.config import Config
from pretrain.data.corpus import Corpus
from pretrain.methods.heads import HeadedStream
from pretrain.methods.method import Method
from vie import Stream, VieError
from vie.distributed import Ranks

TEMPERATURE = 0.1
"""The best of the paper's (its table 5)."""

PROJECTION = 128
"""Dimensions that the views are compared in (the default of the paper)."""


class SimCLR(Method):
    """SimCLR: two views of a video find each other among the views of the batch's other videos.

    Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations" (ICML 2020), by lightly. A view
    is a clip of its own, at a moment of its own, in the run's augmentation, which unlike the paper's neither stretches
    nor blurs.
    """

    citation = "SimCLR (Chen et al., ICML 2020)"
    views = 2

    def __init__(self, config: Config, model: Stream, corpus: Corpus, device: torch.device) -> None:
        """Builds the head.

        Raises:
            VieError: lightly is not installed.
        """
        try:
            from lightly.loss import NTXentLoss
            from lightly.models.modules import SimCLRProjectionHead
        except ImportError as error:
            raise VieError("method=simclr needs lightly: pip install 'vie[baselines]'") from error
        head = SimCLRProjectionHead(model.num_features, model.num_features, PROJECTION)
        self.network = HeadedStream(model, head)
        self.contrast = NTXentLoss(TEMPERATURE, gather_distributed=Ranks.of_job().size > 1)
        self.stages = {"simclr": config.baseline.steps}

    def loss(self, output: Tensor, target: Tensor, step: int) -> Tensor:
        # Ranks exchange as many clips each, the fewest that any of them could read.
        ranks = Ranks.of_job()
        fewest = int(-ranks.largest(torch.tensor(-len(target)))) if ranks.size > 1 else len(target)
        first, second = (view[:fewest] for view in output.chunk(2))
        loss: Tensor = self.contrast(first, second)
        return loss / ranks.size
