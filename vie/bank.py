"""The memory bank: the only place that owns embeddings of the whole corpus."""

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vie.distributed import ALONE, Ranks
from vie.errors import VieError
from vie.neighbours import nearest

if TYPE_CHECKING:
    import faiss

PADDING = -1
"""The instance number of what is no instance: it has no row, no part in a loss, and changes nothing."""

BLOCK = 2**20
"""Rows that are drawn at once, so that no rank draws those of all others."""


class MemoryBank(nn.Module):
    """One running embedding for each instance (video), on the unit sphere.

    v_i <- normalize(momentum * v_i + (1 - momentum) * f), after each step and without gradient (VIE, section 3;
    momentum 0.5). Rows start uniform in direction over the hypercube, normalised.

    In a job of several ranks each owns a contiguous range of the rows (sharded), or all of them (replicated); either
    way every rank calls each method, with as many instances as the others, and is answered as if there were one bank.

    Attributes:
        num_instances: N, over all ranks.
        rows: The instance numbers of this rank's rows.
        embeddings: (len(rows), D) buffer; what is computed of it has at least float32's precision.
        ranks: Those whose instances are in the bank.
        owners: Those that the rows are divided between: ``ranks``, or each rank alone.
    """

    embeddings: Tensor

    def __init__(
        self,
        num_instances: int,
        dim: int = 128,
        momentum: float = 0.5,
        seed: int = 0,
        ranks: Ranks | None = None,
        sharded: bool = True,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Builds this rank's part of a fresh bank.

        Args:
            num_instances: N.
            dim: D.
            momentum: Of the rows.
            seed: Of the rows' beginning, which is the same for any number of ranks.
            ranks: Of the job; None takes those of the process group, or this process alone if there is none.
            sharded: Whether the rows are divided between the ranks.
            dtype: Of the rows; float16 halves what a large bank takes.

        Raises:
            VieError: There are too few rows for every rank to own one.
        """
        super().__init__()
        self.num_instances = num_instances
        self.momentum = momentum
        self.ranks = Ranks.of_job() if ranks is None else ranks
        self.owners = self.ranks if sharded else ALONE
        self.rows = self.owners.share(num_instances)
        if not self.owners.all_share(num_instances):
            raise VieError(
                f"{num_instances} instances cannot be divided between {self.owners.size} ranks: "
                "use fewer, or a replicated bank"
            )
        self.register_buffer("embeddings", _first_rows(self.rows, num_instances, dim, seed, dtype))

    def __len__(self) -> int:
        return self.num_instances

    def locate(self, instances: Tensor) -> tuple[Tensor, Tensor]:
        """Where instances lie in ``embeddings``, and whether they do (elsewhere the place is 0): both (...,)."""
        place = instances - self.rows.start
        owned = (instances >= self.rows.start) & (instances < self.rows.stop)
        return torch.where(owned, place, 0), owned

    def gather(self, instances: Tensor) -> Tensor:
        """Rows of any shape of instance numbers: (...,) -> (..., D); that of padding is 0."""
        asked = self.owners.gather(instances.flatten())
        place, owned = self.locate(asked)
        found = self.owners.sum(torch.where(owned[:, None], self.embeddings[place], 0))
        first = self.owners.rank * instances.numel()
        return found[first : first + instances.numel()].view(*instances.shape, -1)

    @torch.no_grad()
    def update(self, instances: Tensor, embedding: Tensor) -> None:
        """Moves rows towards new embeddings, those of all ranks.

        Args:
            instances: (B,) row numbers, or ``PADDING``. Of several equal ones the last counts, in the order of ranks.
            embedding: (B, D) unit vectors.
        """
        place, owned = self.locate(self.ranks.gather(instances))
        old = self.embeddings[place].to(torch.promote_types(self.embeddings.dtype, torch.float32))
        moved = self.momentum * old + (1 - self.momentum) * self.ranks.gather(embedding.to(old.dtype))
        new = F.normalize(moved, dim=1)
        order = torch.arange(len(place), device=place.device)
        # Writing the last one's value at every repeat makes the result independent of the order of the writes; what
        # this rank does not own writes to the first row, whatever that is to become.
        same = (place[:, None] == place) & owned
        last = torch.where(same, order, -1).amax(dim=1)
        self.embeddings[place] = torch.where((last >= 0)[:, None], new[last], old).to(self.embeddings.dtype)

    def nearest(self, embedding: Tensor, k: int, among: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The rows most similar to each embedding.

        Args:
            embedding: (B, D), of every rank as many.
            k: How many rows.
            among: (N,) bool, the instances that may be found; all where left out.

        Returns:
            Similarities (B, min(k, N)), largest first, and row numbers; -inf where ``among`` has fewer.
        """
        k = min(k, len(self))
        asked = self.owners.gather(embedding)
        similarity, number = self._nearest_owned(asked, k, among)
        candidates = self.owners.exchange(similarity).unflatten(0, (self.owners.size, -1))
        numbers = self.owners.exchange(number).unflatten(0, (self.owners.size, -1))
        best, at = torch.topk(candidates.transpose(0, 1).flatten(1), k, dim=1)
        return best, numbers.transpose(0, 1).flatten(1).gather(1, at)

    def _nearest_owned(self, embedding: Tensor, k: int, among: Tensor | None) -> tuple[Tensor, Tensor]:
        """The same of this rank's rows."""
        numbers = torch.arange(self.rows.start, self.rows.stop, device=embedding.device)
        rows = self.embeddings
        if among is not None and not among.all():
            allowed = among[self.rows.start : self.rows.stop]
            rows, numbers = rows[allowed], numbers[allowed]
        similarity, place = nearest(embedding, rows, min(k, len(rows)))
        missing = k - similarity.shape[1]
        return F.pad(similarity, (0, missing), value=-torch.inf), F.pad(numbers[place], (0, missing))

    def whole(self) -> Tensor:
        """All rows (N, D), on every rank."""
        return self.owners.gather_uneven(self.embeddings)

    def as_faiss_index(self) -> "faiss.IndexFlatIP":
        """The bank as a faiss index for search by inner product."""
        import faiss

        index = faiss.IndexFlatIP(self.embeddings.shape[1])
        index.add(self.whole().float().cpu().numpy())
        return index


def _first_rows(rows: range, num_instances: int, dim: int, seed: int, dtype: torch.dtype) -> Tensor:
    first = torch.empty(len(rows), dim, dtype=dtype)
    for block in range(rows.start // BLOCK, -(-rows.stop // BLOCK)):
        mixed = int(np.random.SeedSequence([seed, block]).generate_state(1)[0]) if block else seed
        generator = torch.Generator().manual_seed(mixed)
        drawn = torch.rand(min(BLOCK, num_instances - block * BLOCK), dim, generator=generator) * 2 - 1
        begin, end = max(rows.start, block * BLOCK), min(rows.stop, (block + 1) * BLOCK)
        part = drawn[begin - block * BLOCK : end - block * BLOCK]
        first[begin - rows.start : end - rows.start] = F.normalize(part, dim=1)
    return first
