"""Similarities of clips with bank rows, in as much memory as there is: two ways to the same numbers."""

from typing import Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vie import nearest
from vie.neighbours import largest

WHOLE_BYTES = 2**31
"""Up to this size the similarities with all rows are held at once: cheaper than gathering M or k rows for each clip."""

PART_BYTES = 2**28
"""Size of the similarities with the part of the rows that is at work, above it."""


class Similarities(Protocol):
    """Of B clips with n rows; all but ``nearest`` have a gradient."""

    def at(self, place: Tensor, wanted: Tensor) -> Tensor:
        """With the rows at ``place`` (B, M), where ``wanted`` (B, M); elsewhere the numbers mean nothing."""
        ...

    def nearest(self, k: int, in_order: bool) -> tuple[Tensor, Tensor]:
        """The k largest (B, k), in falling order if that is asked for, and the places of their rows."""
        ...

    def log_sum(self, temperature: float) -> Tensor:
        """Log sum over all rows of exp(similarity / temperature): (B,)."""
        ...


def similarities(clips: Tensor, rows: Tensor) -> Similarities:
    """Chooses the way by the number of clips (B, D) and of rows (n, D)."""
    fits = clips.element_size() * len(clips) * len(rows) <= WHOLE_BYTES
    return HeldWhole(clips, rows) if fits else TakenInParts(clips, rows)


class HeldWhole:
    """One product with all rows serves both objectives."""

    def __init__(self, clips: Tensor, rows: Tensor) -> None:
        self._clips, self._rows = clips, rows
        self._product = clips @ rows.to(clips.dtype).T

    def at(self, place: Tensor, wanted: Tensor) -> Tensor:
        if place.shape[1] * self._rows.shape[1] < len(self._rows):
            # The gradient through the product would be as large as the product, and nearly all of it zero.
            return torch.linalg.vecdot(self._clips[:, None], self._rows[place].to(self._clips.dtype))
        return self._product.gather(1, place)

    def nearest(self, k: int, in_order: bool) -> tuple[Tensor, Tensor]:
        return largest(self._product.detach(), k, in_order)

    def log_sum(self, temperature: float) -> Tensor:
        return torch.logsumexp(self._product / temperature, dim=1)


class TakenInParts:
    """Rows are gathered for each clip, and a sum over all of them is taken part by part."""

    def __init__(self, clips: Tensor, rows: Tensor) -> None:
        self._clips, self._rows = clips, rows

    def at(self, place: Tensor, wanted: Tensor) -> Tensor:
        clip, number = wanted.nonzero(as_tuple=True)
        rows = self._rows[place[clip, number]].to(self._clips.dtype)
        similarity = torch.zeros(place.shape, dtype=self._clips.dtype, device=self._clips.device)
        return similarity.index_put((clip, number), torch.linalg.vecdot(self._clips[clip], rows))

    def nearest(self, k: int, in_order: bool) -> tuple[Tensor, Tensor]:
        return nearest(self._clips.detach(), self._rows, k)

    def log_sum(self, temperature: float) -> Tensor:
        def of_part(clips: Tensor, rows: Tensor) -> Tensor:
            return torch.logsumexp(clips @ rows.to(clips.dtype).T / temperature, dim=1)

        size = max(1, PART_BYTES // (self._clips.element_size() * len(self._clips)))
        # Computed again on the way back, so that no part outlives its sum.
        parts = [checkpoint(of_part, self._clips, rows, use_reentrant=False) for rows in self._rows.split(size)]
        return torch.logsumexp(torch.stack(parts), dim=0)
