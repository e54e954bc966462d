import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vie import MemoryBank, cluster
from vie.distributed import Ranks


def embeddings(count: int, dim: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def moved(row: np.ndarray, embedding: np.ndarray, momentum: float) -> np.ndarray:
    mixed = momentum * row + (1 - momentum) * embedding
    return mixed / np.sqrt((mixed**2).sum())


@pytest.fixture
def bank(device) -> MemoryBank:
    return MemoryBank(num_instances=40, dim=8, seed=3).to(device)


def test_rows_start_on_the_sphere(bank):
    assert len(bank) == 40
    assert bank.embeddings.shape == (40, 8)
    assert bank.embeddings.dtype == torch.float32
    torch.testing.assert_close(bank.embeddings.norm(dim=1).cpu(), torch.ones(40))


def test_rows_start_in_all_directions():
    rows = MemoryBank(20_000, 4).embeddings
    assert rows.mean(dim=0).abs().max() < 0.02
    assert (rows.T @ rows / len(rows) - torch.eye(4) / 4).abs().max() < 0.02


def test_rows_that_are_drawn_in_blocks_differ(monkeypatch):
    monkeypatch.setattr("vie.bank.BLOCK", 16)
    rows = MemoryBank(50, 4, seed=5).embeddings
    assert len(rows.unique(dim=0)) == 50
    parts = [MemoryBank(50, 4, seed=5, ranks=Ranks(rank, 3)).embeddings for rank in range(3)]
    assert torch.equal(torch.cat(parts), rows)
    assert torch.equal(rows[:16], MemoryBank(16, 4, seed=5).embeddings)


def test_rows_depend_on_the_seed_alone():
    torch.manual_seed(1)
    first = MemoryBank(10, 4, seed=5).embeddings
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(MemoryBank(10, 4, seed=5).embeddings, first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(MemoryBank(10, 4, seed=6).embeddings, first)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_update_equals_the_formula(device, momentum):
    bank = MemoryBank(12, 6, momentum).to(device)
    before = bank.embeddings.cpu().numpy().astype(np.float64)
    new, instances = embeddings(5, 6), torch.tensor([7, 0, 11, 3, 4])
    bank.update(instances.to(device), new.to(device))
    expected = before.copy()
    for instance, embedding in zip(instances.tolist(), new.double().numpy(), strict=True):
        expected[instance] = moved(before[instance], embedding, momentum)
    np.testing.assert_allclose(bank.embeddings.cpu().numpy(), expected, atol=1e-6)


def test_last_of_duplicates_counts(device, bank):
    before = bank.embeddings.cpu().double().numpy()
    new, instances = embeddings(6, 8), torch.tensor([4, 9, 4, 20, 9, 4])
    bank.update(instances.to(device), new.to(device))
    expected = before.copy()
    for instance, last in ((4, 5), (9, 4), (20, 3)):
        expected[instance] = moved(before[instance], new[last].double().numpy(), 0.5)
    np.testing.assert_allclose(bank.embeddings.cpu().numpy(), expected, atol=1e-6)


def test_update_takes_no_gradient_and_half_precision(device, bank):
    new = embeddings(3, 8).to(device, torch.bfloat16).requires_grad_()
    bank.update(torch.tensor([0, 1, 2], device=device), new)
    assert not bank.embeddings.requires_grad
    assert bank.embeddings.dtype == torch.float32
    assert not list(bank.parameters())
    torch.testing.assert_close(bank.embeddings.norm(dim=1).cpu(), torch.ones(40))


def test_gather_keeps_the_shape(device, bank):
    instances = torch.tensor([[3, 3, 0], [39, 1, 2]], device=device)
    rows = bank.gather(instances)
    assert rows.shape == (2, 3, 8)
    assert torch.equal(rows[1, 0], bank.embeddings[39])
    assert torch.equal(rows[0, 0], rows[0, 1])


def test_nearest_caps_k_and_sorts(device, bank):
    similarity, instances = bank.nearest(bank.embeddings[:4], 100)
    assert similarity.shape == instances.shape == (4, 40)
    assert torch.equal(instances[:, 0].cpu(), torch.arange(4))
    assert (similarity[:, 1:] <= similarity[:, :-1]).all()


def test_nearest_among_some(device, bank):
    among = torch.zeros(40, dtype=torch.bool, device=device)
    among[[5, 17, 30]] = True
    similarity, instances = bank.nearest(bank.embeddings[:4], 5, among)
    product = bank.embeddings[:4] @ bank.embeddings[[5, 17, 30]].T
    expected, order = product.sort(dim=1, descending=True)
    torch.testing.assert_close(similarity[:, :3], expected)
    assert torch.equal(instances[:, :3], torch.tensor([5, 17, 30], device=device)[order])
    assert (similarity[:, 3:] == -torch.inf).all()
    assert torch.equal(bank.nearest(bank.embeddings[:4], 5, among | True)[1], bank.nearest(bank.embeddings[:4], 5)[1])


def test_rows_in_half_precision_are_computed_in_single(device):
    half, full = (MemoryBank(300, 16, seed=2, dtype=dtype).to(device) for dtype in (torch.float16, torch.float32))
    full.embeddings.copy_(half.embeddings)
    assert half.embeddings.dtype == torch.float16
    for step in range(20):
        instances = torch.arange(30, device=device) + 10 * step
        new = embeddings(30, 16, step).to(device)
        for bank in (half, full):
            bank.update(instances, new)
    torch.testing.assert_close(half.embeddings.float(), full.embeddings, atol=1e-3, rtol=0)
    queries = embeddings(7, 16, 99).to(device)
    full.embeddings.copy_(half.embeddings)
    similarity, numbers = half.nearest(queries, 9)
    assert similarity.dtype == torch.float32
    assert torch.equal(numbers, full.nearest(queries, 9)[1])
    assert torch.equal(cluster(half.embeddings, 20), cluster(full.embeddings, 20))


def test_state_dict_round_trip(bank):
    bank.update(torch.tensor([2], device=bank.embeddings.device), embeddings(1, 8).to(bank.embeddings.device))
    other = MemoryBank(40, 8, seed=99)
    other.load_state_dict(bank.state_dict())
    assert torch.equal(other.embeddings, bank.embeddings.cpu())


def test_faiss_index_finds_the_same_rows(device):
    bank = MemoryBank(500, 16).to(device)
    queries = embeddings(20, 16)
    similarity, instances = bank.nearest(queries.to(device), 7)
    found_similarity, found = bank.as_faiss_index().search(queries.numpy(), 7)
    np.testing.assert_array_equal(found, instances.cpu().numpy())
    np.testing.assert_allclose(found_similarity, similarity.cpu().numpy(), atol=1e-5)
