import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from vie import knn_scores, nearest, neighbours
from vie.linear import linear_readout
from vie.neighbours import largest, largest_by_blocks


def sphere(rows: int, dim: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


@pytest.mark.parametrize("chunk_bytes", [1, 4 * 90 * 7, 2**28])
@pytest.mark.parametrize("k", [1, 5, 90])
def test_nearest_equals_brute_force(device, monkeypatch, chunk_bytes, k):
    monkeypatch.setattr(neighbours, "CHUNK_BYTES", chunk_bytes)
    queries, rows = sphere(33, 12), sphere(90, 12, seed=1)
    similarity, found = nearest(queries.to(device), rows.to(device), k)
    product = queries.double().numpy() @ rows.double().numpy().T
    expected = np.argsort(-product, axis=1)[:, :k]
    np.testing.assert_array_equal(found.cpu().numpy(), expected)
    np.testing.assert_allclose(similarity.cpu().numpy(), np.take_along_axis(product, expected, 1), atol=1e-6)


@pytest.mark.parametrize(("n", "k"), [(96, 3), (100, 3), (1000, 31), (32, 1), (33, 1)])
@pytest.mark.parametrize("in_order", [True, False])
def test_the_largest_by_blocks_are_the_largest(device, n, k, in_order):
    generator = torch.Generator().manual_seed(n)
    numbers = torch.stack([torch.randperm(n, generator=generator) for _ in range(20)]).float().to(device)
    numbers[0] = torch.arange(n)  # all of the largest in one block, or in what is left over
    values, places = largest_by_blocks(numbers, k, in_order)
    expected = torch.topk(numbers, k, dim=1)
    if in_order:
        assert torch.equal(places, expected.indices)
    assert torch.equal(values, numbers.gather(1, places))
    assert torch.equal(values.sort(dim=1, descending=True).values, expected.values)
    assert torch.equal(largest(numbers, k)[1], expected.indices)


def test_of_equal_numbers_as_many_are_found():
    values, places = largest_by_blocks(torch.zeros(2, 70), 2)
    assert values.tolist() == [[0, 0], [0, 0]]
    assert all(len(set(row)) == 2 for row in places.tolist())


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (10, 0.07), (10, 1.0)])
def test_knn_scores_equal_a_plain_loop(device, k, temperature):
    queries, rows = sphere(15, 6), sphere(60, 6, seed=1)
    labels = torch.randint(4, (60,), generator=torch.Generator().manual_seed(2))
    scores = knn_scores(queries.to(device), rows.to(device), labels.to(device), 4, k, temperature)
    expected = np.zeros((15, 4))
    for number, query in enumerate(queries.double().numpy()):
        similarity = rows.double().numpy() @ query
        for row in sorted(range(60), key=lambda row: -similarity[row])[:k]:
            expected[number, labels[row]] += math.exp(similarity[row] / temperature) / k
    np.testing.assert_allclose(scores.cpu().numpy(), expected, rtol=1e-4, atol=1e-6)


def test_knn_with_fewer_rows_than_neighbours():
    rows, labels = sphere(3, 6), torch.tensor([2, 0, 2])
    scores = knn_scores(rows, rows, labels, 3)
    assert scores.argmax(dim=1).tolist() == [2, 0, 2]
    assert (scores[:, 1] == 0).all()


def clouds(rows: int, spread: float) -> tuple[Tensor, Tensor]:
    """Three classes in five dimensions of very different scale and offset."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(rows) % 3
    points = 3 * torch.eye(5)[labels] + spread * torch.randn(rows, 5, generator=generator)
    return points * torch.tensor([1.0, 100.0, 0.01, 1.0, 5.0]) + torch.tensor([0.0, 1000.0, 0.0, -3.0, 7.0]), labels


def test_readout_separates(device):
    features, labels = clouds(120, spread=0.3)
    readout = linear_readout(features.to(device), labels.to(device), 3)
    assert not readout.training
    assert torch.equal(readout(features.to(device)).argmax(dim=1).cpu(), labels)


@pytest.mark.parametrize("penalty", [1e-3, 1e-2, 1.0])
def test_readout_equals_scikit_learn(penalty):
    features, labels = clouds(150, spread=2.0)
    readout = linear_readout(features, labels, 3, penalty=penalty)
    standardised = ((features - features.mean(dim=0)) / features.std(dim=0)).double().numpy()
    theirs = LogisticRegression(C=1 / (penalty * len(labels)), tol=1e-8, max_iter=5000)
    theirs.fit(standardised, labels.numpy())
    ours = torch.softmax(readout(features), dim=1).detach().numpy()
    np.testing.assert_allclose(ours, theirs.predict_proba(standardised), atol=2e-3)
    np.testing.assert_allclose(readout.linear.weight.detach().numpy(), theirs.coef_, atol=5e-3)


def test_readout_of_constant_features():
    features, labels = clouds(90, spread=0.3)
    features[:, 3] = 4.0
    readout = linear_readout(features, labels, 3)
    assert torch.isfinite(readout(features)).all()
    assert (readout(features).argmax(dim=1) == labels).float().mean() > 0.9


def test_readout_repeats_and_draws_no_random_numbers():
    features, labels = clouds(60, spread=1.0)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = linear_readout(features, labels, 3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    second = linear_readout(features, labels, 3)
    assert torch.equal(first.linear.weight, second.linear.weight)
