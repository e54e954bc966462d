"""Linear read-outs of every layer of a trunk, for every label column, trained side by side."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vie import Stream
from vie.models import TAPS

LARGEST = 200_000
"""Dimensions of a flattened tap beyond which it is averaged over 2 x 2 places; beyond four times that, over 4 x 4."""


@dataclass(frozen=True)
class Place:
    """What a read-out reads.

    Attributes:
        layer: conv1 to conv5, or "pooled", the network's own pooled feature.
        pooling: "flat" keeps the places of the map, as VIE's read-outs do; "avg" averages over them.
    """

    layer: str
    pooling: str


POOLED = Place("pooled", "avg")


def features(model: Stream, clip: Tensor) -> dict[Place, Tensor]:
    """What the read-outs of a network read, in float32.

    Every tap is averaged over time, as VIE's read-outs do. The pooled feature may hold more than the last tap:
    VIE-TRN's frames side by side, the fast pathway of SlowFast.

    Args:
        model: The network.
        clip: (B, 3, T, H, W), normalised.

    Returns:
        (B, D) for every place.
    """
    taps = model.forward_features(clip)
    read: dict[Place, Tensor] = {}
    for layer in (tap for tap in TAPS if tap in taps):
        still = taps[layer].float().mean(dim=2)
        read[Place(layer, "flat")] = flatten(still)
        read[Place(layer, "avg")] = still.mean(dim=(2, 3))
    return {**read, POOLED: model.pool(taps).float()}


def flatten(tap: Tensor) -> Tensor:
    """A tap averaged over time (B, C, H, W) as (B, D), over coarser places where D would be too large."""
    dims = tap[0].numel()
    size = 1 if dims <= LARGEST else 2 if dims <= 4 * LARGEST else 4
    return (tap if size == 1 else F.avg_pool2d(tap, size, ceil_mode=True)).flatten(1)


class Readouts(nn.Module):
    """One linear layer for every place and label column; the losses of all are summed, so that each learns alone."""

    def __init__(self, dims: Mapping[Place, int], classes: Mapping[str, list[str]], standardise: bool = False) -> None:
        """Draws new layers.

        Args:
            dims: Dimensions of what is read at every place.
            classes: Class names of every label column.
            standardise: Whether features are standardised and divided by the root of their dimensions first.
        """
        super().__init__()
        self.places = list(dims)
        self.columns = list(classes)
        self.scales = nn.ModuleList(
            _Standardised(dims[place]) if standardise else nn.Identity() for place in self.places
        )
        self.heads = nn.ModuleList(
            nn.ModuleList(nn.Linear(dims[place], len(classes[column])) for place in self.places)
            for column in self.columns
        )
        for head in self._all():
            nn.init.kaiming_normal_(head.weight, nonlinearity="relu")  # He, as the release
            nn.init.zeros_(head.bias)

    def forward(self, read: Mapping[Place, Tensor]) -> dict[tuple[str, Place], Tensor]:
        """Logits (B, classes) by label column and place."""
        read = {place: scale(read[place]) for place, scale in zip(self.places, self.scales, strict=True)}
        return {
            (column, place): head(read[place])
            for column, heads in zip(self.columns, self.heads, strict=True)
            for place, head in zip(self.places, cast(nn.ModuleList, heads), strict=True)
        }

    def _all(self) -> Iterator[nn.Linear]:
        for heads in self.heads:
            yield from cast(Iterator[nn.Linear], heads)


class _Standardised(nn.Module):
    def __init__(self, dims: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(dims, affine=False)

    def forward(self, read: Tensor) -> Tensor:
        scaled: Tensor = self.norm(read) / read.shape[1] ** 0.5
        return scaled


def summed_loss(logits: Mapping[tuple[str, Place], Tensor], labels: Mapping[str, Tensor]) -> Tensor:
    """Cross-entropy of every read-out, averaged over the labelled clips and summed over the read-outs.

    Args:
        logits: (B, classes) by label column and place.
        labels: (B,) by label column; -1 where there is none.
    """
    total = torch.zeros((), device=next(iter(logits.values())).device)
    for (column, _), given in logits.items():
        known = (labels[column] >= 0).sum().clamp(min=1)
        total = total + F.cross_entropy(given.float(), labels[column], ignore_index=-1, reduction="sum") / known
    return total
