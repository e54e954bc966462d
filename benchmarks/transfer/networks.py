"""A trunk with what is read out of it: frozen below linear read-outs, or trained as a whole."""

from typing import Self

import torch
from torch import Tensor, nn

from benchmarks.transfer.readouts import POOLED, Place, Readouts, features
from pretrain.runtime import Autocast
from vie import Stream

Logits = dict[tuple[str, Place], Tensor]
"""(B, classes) by label column and place."""


class Probe(nn.Module):
    """Linear read-outs of every layer of a frozen trunk, which stays in eval mode whatever becomes of the rest."""

    def __init__(
        self,
        model: Stream,
        classes: dict[str, list[str]],
        example: Tensor,
        autocast: Autocast,
        standardise: bool = False,
    ) -> None:
        """Sizes the read-outs by one clip (1, 3, T, H, W)."""
        super().__init__()
        self.model = model.requires_grad_(False).eval()
        self.autocast = autocast
        with torch.no_grad():
            dims = {place: read.shape[1] for place, read in features(model, example).items()}
        self.readouts = Readouts(dims, classes, standardise).to(example.device)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.model.eval()
        return self

    def forward(self, clip: Tensor) -> Logits:
        with torch.no_grad(), self.autocast():
            read = features(self.model, clip)
        return self.readouts(read)


class Classifier(nn.Module):
    """A whole network with one linear head on its pooled feature."""

    def __init__(self, model: Stream, column: str, classes: list[str], autocast: Autocast) -> None:
        super().__init__()
        self.model = model.requires_grad_(True)
        self.readouts = Readouts({POOLED: model.num_features}, {column: classes})
        self.readouts.to(next(model.parameters()).device)
        self.autocast = autocast

    def forward(self, clip: Tensor) -> Logits:
        with self.autocast():
            pooled = self.model.pooled(clip)
        return self.readouts({POOLED: pooled.float()})
