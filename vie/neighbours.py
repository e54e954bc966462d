"""Exact nearest rows by dot product."""

import torch
from torch import Tensor

CHUNK_BYTES = 256 * 2**20
"""Most memory that the similarities of one chunk of queries may take."""


def nearest(queries: Tensor, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k rows with the largest dot product.

    A chunked matrix product and top-k: on a CPU it is faster than the flat index of faiss-cpu 1.14 and later
    (``docs/decisions/0005-neighbours-and-clustering.md``), and on a GPU it needs no copy.

    Args:
        queries: (Q, D).
        rows: (N, D) on the same device.
        k: At most N.

    Returns:
        Similarities (Q, k), largest first, and row numbers (Q, k).
    """
    chunk = max(1, CHUNK_BYTES // (rows.element_size() * max(1, len(rows))))
    parts = [torch.topk(part @ rows.T, k, dim=1) for part in queries.split(chunk)]
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])
