"""The memory bank: the only place that owns embeddings of the whole corpus."""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vie.neighbours import nearest

if TYPE_CHECKING:
    import faiss


class MemoryBank(nn.Module):
    """One running embedding for each instance (video), on the unit sphere.

    v_i <- normalize(momentum * v_i + (1 - momentum) * f), after each step and without gradient (VIE, section 3;
    momentum 0.5). Rows start uniform in direction over the hypercube, normalised.

    Attributes:
        embeddings: (N, D) float32 buffer.
    """

    embeddings: Tensor

    def __init__(self, num_instances: int, dim: int = 128, momentum: float = 0.5, seed: int = 0) -> None:
        super().__init__()
        self.momentum = momentum
        generator = torch.Generator().manual_seed(seed)
        rows = torch.rand(num_instances, dim, generator=generator) * 2 - 1
        self.register_buffer("embeddings", F.normalize(rows, dim=1))

    def __len__(self) -> int:
        return len(self.embeddings)

    def gather(self, instances: Tensor) -> Tensor:
        """Rows of any shape of instance numbers: (...,) -> (..., D)."""
        return self.embeddings[instances]

    @torch.no_grad()
    def update(self, instances: Tensor, embedding: Tensor) -> None:
        """Moves rows towards new embeddings.

        Args:
            instances: (B,) row numbers. Of several equal ones the last counts.
            embedding: (B, D) unit vectors.
        """
        old = self.gather(instances)
        new = F.normalize(self.momentum * old + (1 - self.momentum) * embedding.to(old.dtype), dim=1)
        order = torch.arange(len(instances), device=instances.device)
        # Writing the last one's value at every repeat makes the result independent of the order of the writes.
        same = instances[:, None] == instances[None, :]
        last = torch.where(same, order[None, :], -1).argmax(dim=1)
        self.embeddings[instances] = new[last]

    def nearest(self, embedding: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k rows most similar to each embedding (B, D): similarities (B, k) and row numbers (B, k)."""
        return nearest(embedding, self.embeddings, min(k, len(self)))

    def as_faiss_index(self) -> "faiss.IndexFlatIP":
        """The bank as a faiss index for search by inner product."""
        import faiss

        index = faiss.IndexFlatIP(self.embeddings.shape[1])
        index.add(self.embeddings.float().cpu().numpy())
        return index
