"""Exact nearest rows by dot product."""

import torch
from torch import Tensor

CHUNK_BYTES = 256 * 2**20
"""Most memory that the similarities of one chunk may take."""

QUERIES = 1024
"""Most queries in a chunk, so that it has room for many rows."""


def nearest(queries: Tensor, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k rows with the largest dot product.

    A chunked matrix product and top-k: on a CPU it is faster than the flat index of faiss-cpu 1.14 and later
    (``docs/decisions/0005-neighbours-and-clustering.md``), and on a GPU it needs no copy.

    Args:
        queries: (Q, D).
        rows: (N, D) on the same device; of another type, they are brought to the queries' chunk by chunk.
        k: At most N.

    Returns:
        Similarities (Q, k), largest first, and row numbers (Q, k).
    """
    parts = [_nearest(part, rows, k) for part in queries.split(QUERIES)]
    return torch.cat([similarity for similarity, _ in parts]), torch.cat([number for _, number in parts])


def _nearest(queries: Tensor, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    similarity = queries.new_empty(len(queries), 0)
    number = torch.empty(len(queries), 0, dtype=torch.long, device=queries.device)
    first = 0
    for part in rows.split(max(1, CHUNK_BYTES // (queries.element_size() * max(1, len(queries))))):
        found = torch.topk(queries @ part.to(queries.dtype).T, min(k, len(part)), dim=1)
        candidates = torch.cat([similarity, found.values], dim=1)
        numbers = torch.cat([number, found.indices + first], dim=1)
        similarity, chosen = torch.topk(candidates, min(k, candidates.shape[1]), dim=1)
        number = numbers.gather(1, chosen)
        first += len(part)
    return similarity, number
