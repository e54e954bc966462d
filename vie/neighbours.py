"""Exact nearest rows by dot product."""

import torch
from torch import Tensor

CHUNK_BYTES = 256 * 2**20
"""Most memory that the similarities of one chunk may take."""

QUERIES = 1024
"""Most queries in a chunk, so that it has room for many rows."""


BLOCK = 32
"""Numbers whose largest stands for them in ``largest_by_blocks``: a line of a GPU's cache."""


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
        values, places = largest(queries @ part.to(queries.dtype).T, min(k, len(part)), in_order=False)
        candidates = torch.cat([similarity, values], dim=1)
        numbers = torch.cat([number, places + first], dim=1)
        similarity, chosen = torch.topk(candidates, min(k, candidates.shape[1]), dim=1)
        number = numbers.gather(1, chosen)
        first += len(part)
    return similarity, number


def largest(x: Tensor, k: int, in_order: bool = True) -> tuple[Tensor, Tensor]:
    """``torch.topk`` of every row of (Q, n), by blocks where that is faster: on a GPU, of many."""
    if x.device.type == "cuda" and x.shape[1] >= 4 * BLOCK * k:
        return largest_by_blocks(x, k, in_order)
    values, places = torch.topk(x, k, dim=1, sorted=in_order)
    return values, places


def largest_by_blocks(x: Tensor, k: int, in_order: bool = True) -> tuple[Tensor, Tensor]:
    """The same, exactly: the k largest of a row lie in the k blocks with the largest largest.

    For if one lay elsewhere, each of those k blocks would hold a number at least as large. So one pass reads all
    numbers, and the search goes over a few of them, where ``torch.topk`` reads all of them several times.

    Args:
        x: (Q, n), n at least k blocks of ``BLOCK``.
        k: How many.
        in_order: Whether the largest come first.

    Returns:
        Values (Q, k) and places (Q, k); of equal numbers at the end any may be among them.
    """
    whole = x.shape[1] // BLOCK * BLOCK
    blocks = x[:, :whole].unflatten(1, (-1, BLOCK))
    chosen = torch.topk(blocks.amax(dim=2), k, dim=1, sorted=False).indices[:, :, None]
    candidates = blocks.gather(1, chosen.expand(-1, -1, BLOCK)).flatten(1)
    places = (chosen * BLOCK + torch.arange(BLOCK, device=x.device)).flatten(1)
    rest = torch.arange(whole, x.shape[1], device=x.device).expand(len(x), -1)
    candidates, places = torch.cat([candidates, x[:, whole:]], dim=1), torch.cat([places, rest], dim=1)
    values, at = torch.topk(candidates, k, dim=1, sorted=in_order)
    return values, places.gather(1, at)
