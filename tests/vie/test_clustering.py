import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vie import VieError, cluster, clustering

engines = pytest.mark.parametrize("engine", ["torch", "faiss"])


def blobs(centres: int, rows_each: int, dim: int, spread: float = 0.02) -> tuple[Tensor, Tensor]:
    """Rows on the sphere around orthogonal centres, shuffled, and the centre of each."""
    generator = torch.Generator().manual_seed(centres)
    home = torch.arange(centres).repeat_interleave(rows_each)[torch.randperm(centres * rows_each, generator=generator)]
    noise = torch.randn(len(home), dim, generator=generator)
    return F.normalize(torch.eye(dim)[home] + spread * noise, dim=1), home


def sphere(rows: int, dim: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def inertia(rows: Tensor, labels: Tensor) -> float:
    """Sum of squared distances to the means of the clusters."""
    points, numbers = rows.double().numpy(), labels.numpy()
    means = {number: points[numbers == number].mean(axis=0) for number in np.unique(numbers)}
    return float(sum(((point - means[number]) ** 2).sum() for point, number in zip(points, numbers, strict=True)))


@engines
def test_two_blobs_are_recovered(engine, device):
    rows, home = blobs(centres=2, rows_each=60, dim=8)
    labels = cluster(rows.to(device), 2, engine=engine)[0]
    assert labels.device.type == device.type
    assert len(set(zip(labels.tolist(), home.tolist(), strict=True))) == 2
    assert len(labels.unique()) == 2


@engines
def test_no_cluster_joins_separate_blobs(engine, device):
    rows, home = blobs(centres=5, rows_each=40, dim=8)
    labels = cluster(rows.to(device), 30, engine=engine)[0]
    assert len(set(zip(labels.tolist(), home.tolist(), strict=True))) == len(labels.unique())


@engines
def test_shape_range_and_seeds(engine, device):
    rows = sphere(400, 8).to(device)
    labels = cluster(rows, 12, num_clusterings=3, engine=engine)
    assert labels.shape == (3, 400)
    assert labels.dtype == torch.int64
    assert labels.min() >= 0
    assert labels.max() < 12
    assert torch.equal(labels, cluster(rows, 12, num_clusterings=3, engine=engine))
    assert torch.equal(labels[1], cluster(rows, 12, seed=clustering.BASE_SEED + 1, engine=engine)[0])
    same = [(labels[h][:, None] == labels[h][None, :]) for h in range(3)]
    assert not torch.equal(same[0], same[1])
    assert not torch.equal(same[1], same[2])
    assert not torch.equal(same[0], same[2])


@engines
def test_global_generator_is_left_alone(engine):
    state = torch.get_rng_state()
    cluster(sphere(100, 4), 5, engine=engine)
    assert torch.equal(torch.get_rng_state(), state)


@engines
def test_fewer_rows_than_clusters(engine):
    with pytest.raises(VieError, match="9 instances cannot make 10 clusters"):
        cluster(sphere(9, 4), 10, engine=engine)


@engines
def test_every_cluster_has_members(engine, device):
    labels = cluster(sphere(2000, 16).to(device), 50, num_clusterings=2, engine=engine)
    for run in labels.cpu():
        assert torch.bincount(run, minlength=50).min() > 0


def test_clusters_that_start_empty_find_members(device):
    # Most rows are the same, so most centroids start at one place, where all but one of them are empty.
    rows = torch.cat([sphere(1, 8).expand(500, -1), sphere(40, 8, seed=1)])
    labels = cluster(rows.to(device), 20)[0]
    assert len(labels.unique()) == 20
    assert len(labels[:500].unique()) == 1


@engines
def test_as_many_clusters_as_rows(engine):
    labels = cluster(sphere(64, 8), 64, engine=engine)[0]
    assert torch.equal(labels.sort().values, torch.arange(64))


def test_one_cluster(device):
    assert torch.equal(cluster(sphere(50, 4).to(device), 1)[0].cpu(), torch.zeros(50, dtype=torch.int64))


@pytest.mark.parametrize(("rows", "dim", "clusters"), [(1500, 16, 30), (3000, 8, 100)])
def test_engines_fit_equally_well(rows, dim, clusters):
    points = sphere(rows, dim)
    ours, theirs = (inertia(points, cluster(points, clusters, engine=engine)[0]) for engine in ("torch", "faiss"))
    assert ours == pytest.approx(theirs, rel=0.03)
    scattered = inertia(points, torch.arange(rows) % clusters)
    assert ours < 0.75 * scattered


def test_more_iterations_fit_better():
    points = sphere(1500, 8)
    assert inertia(points, cluster(points, 40)[0]) < inertia(points, cluster(points, 40, iterations=1)[0])


def test_chunks_change_nothing(monkeypatch):
    points, _ = blobs(centres=6, rows_each=50, dim=8)
    whole = cluster(points, 30)
    monkeypatch.setattr(clustering, "CHUNK_BYTES", dict.fromkeys(("cpu", "cuda"), 4 * 30 * 7))
    assert torch.equal(cluster(points, 30), whole)


def test_rows_that_need_gradients():
    labels = cluster(sphere(50, 4).requires_grad_(), 5)
    assert not labels.requires_grad
