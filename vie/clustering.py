"""k-means over the bank, by PyTorch (any device) or faiss (CPU) behind one function."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vie.distributed import ALONE, Ranks
from vie.errors import VieError

Engine = Literal["torch", "faiss"]

BASE_SEED = 1234
"""VIE seeds clustering h with 1234 + h."""

CHUNK_BYTES = {"cpu": 2**23, "cuda": 2**29}
"""Size of the distances of one chunk of rows, and of the float64 copy of one that is summed: what a CPU keeps in its
cache, and what keeps a GPU busy."""

FIXED_POINT = 2.0**32
"""Sums of rows are taken in integers, whose order does not matter: labels repeat exactly, also on a GPU."""


def cluster(
    embeddings: Tensor,
    num_clusters: int,
    num_clusterings: int = 1,
    iterations: int = 20,
    seed: int = BASE_SEED,
    engine: Engine = "torch",
    ranks: Ranks = ALONE,
) -> Tensor:
    """Clusters rows by Euclidean k-means, several times over with different starts.

    VIE: 8,000 clusters of 239,888 rows, one clustering, 20 iterations, again at every epoch.

    Args:
        embeddings: (N, D) rows with entries in [-1, 1], of any floating-point type; of several ranks, each gives its
            own share of the rows, in order.
        num_clusters: K.
        num_clusterings: H.
        iterations: Of Lloyd's algorithm.
        seed: Clustering h starts from seed + h; the same seed and engine give the same labels.
        engine: "torch" runs where the rows are; "faiss" on the CPU, in one process.
        ranks: Between which the rows are divided.

    Returns:
        (H, N) int64 labels in [0, K) of these rows, on their device.

    Raises:
        VieError: There are fewer rows than clusters, or the engine cannot work on several ranks.
    """
    rows = embeddings.detach()
    lengths = ranks.gather(torch.tensor([len(rows)], device=rows.device)).tolist()
    if sum(lengths) < num_clusters:
        raise VieError(f"{sum(lengths)} instances cannot make {num_clusters} clusters: choose {sum(lengths)} or fewer")
    if engine == "faiss":
        if ranks.size > 1:
            raise VieError('engine="faiss" clusters in one process: use "torch" on several ranks')
        runs = [_kmeans_faiss(rows, num_clusters, iterations, seed + h) for h in range(num_clusterings)]
    else:
        first = sum(lengths[: ranks.rank])
        total = sum(lengths)
        starts = [_drawn(total, num_clusters, seed + h).to(rows.device) - first for h in range(num_clusterings)]
        runs = [_kmeans_torch(rows, start, iterations, ranks) for start in starts]
    return torch.stack(runs)


def _drawn(total: int, count: int, seed: int) -> Tensor:
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:count]


def _kmeans_torch(rows: Tensor, start: Tensor, iterations: int, ranks: Ranks) -> Tensor:
    """Lloyd's algorithm from the rows at ``start``, counted from this rank's first."""
    num_clusters = len(start)
    owned = (start >= 0) & (start < len(rows))
    centroids = ranks.sum(torch.where(owned[:, None], rows[torch.where(owned, start, 0)].float(), 0))
    for _ in range(iterations):
        counts = torch.zeros(num_clusters, dtype=torch.long, device=rows.device)
        sums = torch.zeros(num_clusters, rows.shape[1], dtype=torch.long, device=rows.device)
        labels, distances = _assign(rows, centroids)
        counts.index_add_(0, labels, torch.ones_like(labels))
        size = max(1, CHUNK_BYTES[rows.device.type] // (8 * rows.shape[1]))
        for part, own in zip(rows.split(size), labels.split(size), strict=True):
            sums.index_add_(0, own, (part.double() * FIXED_POINT).round().long())
        counts, sums = ranks.sum(counts), ranks.sum(sums)
        centroids = (sums.double() / FIXED_POINT / counts.clamp(min=1)[:, None]).float()
        empty = torch.nonzero(counts == 0)[:, 0]
        if len(empty):
            centroids[empty] = _farthest(rows, distances, len(empty), ranks)
    return _assign(rows, centroids)[0]


def _farthest(rows: Tensor, distance: Tensor, count: int, ranks: Ranks) -> Tensor:
    """The rows that lie farthest from their centroids, where empty clusters start again: (count, D)."""
    mine = torch.topk(distance, min(count, len(rows)))
    missing = count - len(mine.indices)
    far = ranks.gather(F.pad(mine.values, (0, missing), value=-torch.inf))
    candidates = ranks.gather(F.pad(rows[mine.indices].float(), (0, 0, 0, missing)))
    return candidates[torch.topk(far, count).indices]


def _assign(rows: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """The number of each row's nearest centroid, and the squared distance to it."""
    half_norms = centroids.square().sum(dim=1) / 2
    labels, distances = [], []
    for chunk in rows.split(max(1, CHUNK_BYTES[rows.device.type] // (4 * len(centroids)))):
        part = chunk.float()
        closeness, nearest = torch.addmm(half_norms, part, centroids.T, alpha=-1).min(dim=1)
        labels.append(nearest)
        distances.append(2 * closeness + part.square().sum(dim=1))
    return torch.cat(labels), torch.cat(distances)


def _kmeans_faiss(rows: Tensor, num_clusters: int, iterations: int, seed: int) -> Tensor:
    import faiss

    kmeans = faiss.Kmeans(
        rows.shape[1],
        num_clusters,
        niter=iterations,
        seed=seed,
        max_points_per_centroid=10_000_000,
        min_points_per_centroid=1,
    )
    points = rows.float().cpu().numpy()
    kmeans.train(points)
    _, labels = kmeans.index.search(points, 1)
    return torch.from_numpy(labels[:, 0]).to(rows.device)
