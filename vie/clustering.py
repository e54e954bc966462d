"""k-means over the bank, by PyTorch (any device) or faiss (CPU) behind one function."""

from typing import Literal

import torch
from torch import Tensor

from vie.errors import VieError

Engine = Literal["torch", "faiss"]

BASE_SEED = 1234
"""VIE seeds clustering h with 1234 + h."""

CHUNK_BYTES = {"cpu": 2**23, "cuda": 2**28}
"""Size of the distances of one chunk of rows: what a CPU keeps in its cache, and what keeps a GPU busy."""
FIXED_POINT = 2.0**32
"""Sums of rows are taken in integers, whose order does not matter: labels repeat exactly, also on a GPU."""


def cluster(
    embeddings: Tensor,
    num_clusters: int,
    num_clusterings: int = 1,
    iterations: int = 20,
    seed: int = BASE_SEED,
    engine: Engine = "torch",
) -> Tensor:
    """Clusters rows by Euclidean k-means, several times over with different starts.

    VIE: 8,000 clusters of 239,888 rows, one clustering, 20 iterations, again at every epoch.

    Args:
        embeddings: (N, D) rows with entries in [-1, 1].
        num_clusters: K.
        num_clusterings: H.
        iterations: Of Lloyd's algorithm.
        seed: Clustering h starts from seed + h; the same seed and engine give the same labels.
        engine: "torch" runs where the rows are; "faiss" on the CPU.

    Returns:
        (H, N) int64 labels in [0, K), on the device of the rows.

    Raises:
        VieError: There are fewer rows than clusters.
    """
    if len(embeddings) < num_clusters:
        raise VieError(
            f"{len(embeddings)} instances cannot make {num_clusters} clusters: choose {len(embeddings)} or fewer"
        )
    kmeans = {"torch": _kmeans_torch, "faiss": _kmeans_faiss}[engine]
    rows = embeddings.detach().float()
    return torch.stack([kmeans(rows, num_clusters, iterations, seed + h) for h in range(num_clusterings)])


def _kmeans_torch(rows: Tensor, num_clusters: int, iterations: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    start = torch.randperm(len(rows), generator=generator)[:num_clusters].to(rows.device)
    centroids = rows[start]
    fixed = (rows.double() * FIXED_POINT).round().long()
    for _ in range(iterations):
        distance, labels = _assign(rows, centroids)
        counts = torch.zeros(num_clusters, dtype=torch.long, device=rows.device)
        counts.index_add_(0, labels, torch.ones_like(labels))
        sums = torch.zeros(num_clusters, rows.shape[1], dtype=torch.long, device=rows.device)
        sums.index_add_(0, labels, fixed)
        means = (sums.double() / FIXED_POINT / counts.clamp(min=1)[:, None]).float()
        # An empty cluster starts again at one of the rows that lie farthest from their centroids.
        empty = counts == 0
        farthest = torch.topk(distance, num_clusters).indices
        reseeded = rows[farthest[(torch.cumsum(empty, 0) - 1).clamp(min=0)]]
        centroids = torch.where(empty[:, None], reseeded, means)
    return _assign(rows, centroids)[1]


def _assign(rows: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distance (up to the row's own length) and number of each row's nearest centroid."""
    half_norms = centroids.square().sum(dim=1) / 2
    chunk = max(1, CHUNK_BYTES[rows.device.type] // (4 * len(centroids)))
    parts = [torch.addmm(half_norms, part, centroids.T, alpha=-1).min(dim=1) for part in rows.split(chunk)]
    closeness = torch.cat([part.values for part in parts])
    return 2 * closeness + rows.square().sum(dim=1), torch.cat([part.indices for part in parts])


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
    points = rows.cpu().numpy()
    kmeans.train(points)
    _, labels = kmeans.index.search(points, 1)
    return torch.from_numpy(labels[:, 0]).to(rows.device)
