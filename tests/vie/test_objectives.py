import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vie import instance_recognition_loss, local_aggregation_loss
from vie.objectives import instance_softmax, neighbour_share_loss, noise_contrastive_loss

TEMPERATURE = 0.07
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-6}
KINETICS = 239_888


def unit(generator: torch.Generator, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1).to(dtype)


def as_numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def spec_instance_recognition(positive: np.ndarray, noise: np.ndarray, num_instances: int, temperature: float) -> float:
    """L = mean[-log(P(i) / (P(i) + m/N + eps)) - sum log((m/N) / (P(j) + m/N + eps))], P = exp(s / tau) / Z."""
    normaliser = 2876934.2 / 1281167 * num_instances
    share = noise.shape[1] / num_instances
    p_positive = np.exp(positive / temperature) / normaliser
    p_noise = np.exp(noise / temperature) / normaliser
    recognised = np.log(p_positive / (p_positive + share + 1e-7))
    rejected = np.log(share / (p_noise + share + 1e-7)).sum(axis=1)
    return float(np.mean(-recognised - rejected))


def spec_local_aggregation(similarity: np.ndarray, same: np.ndarray, temperature: float) -> float:
    """L = -mean log(sum over B and C of exp(s / tau) / sum over B of exp(s / tau) + 1e-7)."""
    weight = np.exp(similarity / temperature)
    return float(-np.mean(np.log((weight * same).sum(axis=1) / weight.sum(axis=1) + 1e-7)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("batch", "noise", "dim", "instances"),
    [(1, 1, 2, 3), (4, 16, 8, 50), (3, 700, 32, 500), (8, 4096, 128, KINETICS)],
)
class TestInstanceRecognition:
    def test_equals_the_formula(self, dtype, batch, noise, dim, instances):
        generator = torch.Generator().manual_seed(batch)
        f = unit(generator, batch, dim, dtype=dtype)
        v = unit(generator, batch, dim, dtype=dtype)
        drawn = unit(generator, batch, noise, dim, dtype=dtype)
        loss = instance_recognition_loss(f, v, drawn, instances)
        similarity = (as_numpy(f) * as_numpy(v)).sum(1), np.einsum("bd,bmd->bm", as_numpy(f), as_numpy(drawn))
        expected = spec_instance_recognition(*similarity, instances, TEMPERATURE)
        assert loss.dtype == dtype
        assert loss.item() == pytest.approx(expected, rel=TOLERANCE[dtype])

    def test_from_similarities(self, dtype, batch, noise, dim, instances):
        generator = torch.Generator().manual_seed(dim)
        positive = (2 * torch.rand(batch, generator=generator, dtype=torch.float64) - 1).to(dtype)
        drawn = (2 * torch.rand(batch, noise, generator=generator, dtype=torch.float64) - 1).to(dtype)
        for temperature in (TEMPERATURE, 0.2, 1.0):
            loss = noise_contrastive_loss(positive, drawn, instances, temperature)
            expected = spec_instance_recognition(as_numpy(positive), as_numpy(drawn), instances, temperature)
            assert loss.item() == pytest.approx(expected, rel=TOLERANCE[dtype])

    def test_positive_among_the_noise_counts_as_noise_too(self, dtype, batch, noise, dim, instances):
        generator = torch.Generator().manual_seed(noise)
        f = unit(generator, batch, dim, dtype=dtype)
        v = F.normalize(f + 0.3 * unit(generator, batch, dim, dtype=dtype), dim=1)
        drawn = unit(generator, batch, noise, dim, dtype=dtype)
        drawn[:, 0] = v
        loss = instance_recognition_loss(f, v, drawn, instances)
        similarity = (as_numpy(f) * as_numpy(v)).sum(1), np.einsum("bd,bmd->bm", as_numpy(f), as_numpy(drawn))
        assert loss.item() == pytest.approx(
            spec_instance_recognition(*similarity, instances, TEMPERATURE), rel=TOLERANCE[dtype]
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("positive", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("noise", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("temperature", [0.03, 0.07, 1.0])
def test_extreme_similarities_of_instance_recognition(dtype, positive, noise, temperature):
    positives = torch.full((2,), positive, dtype=dtype, requires_grad=True)
    drawn = torch.full((2, 64), noise, dtype=dtype, requires_grad=True)
    loss = noise_contrastive_loss(positives, drawn, KINETICS, temperature)
    expected = spec_instance_recognition(as_numpy(positives), as_numpy(drawn), KINETICS, temperature)
    # exp() of up to 33 in float32 knows its argument to 2e-6.
    assert loss.item() == pytest.approx(expected, rel=5 * TOLERANCE[dtype])
    loss.backward()
    assert torch.isfinite(positives.grad).all()
    assert torch.isfinite(drawn.grad).all()


def softmax_over(similarity: torch.Tensor, own: torch.Tensor, temperature: float) -> torch.Tensor:
    positive = similarity.gather(1, own[:, None]).squeeze(1)
    return instance_softmax(positive, torch.logsumexp(similarity / temperature, dim=1), temperature).mean()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("batch", "instances"), [(1, 2), (5, 48), (16, 3000)])
def test_instance_softmax_equals_the_formula(dtype, batch, instances):
    generator = torch.Generator().manual_seed(instances)
    similarity = (2 * torch.rand(batch, instances, generator=generator, dtype=torch.float64) - 1).to(dtype)
    own = torch.randint(instances, (batch,), generator=generator)
    weight = np.exp(as_numpy(similarity) / TEMPERATURE)
    expected = -np.mean(np.log(weight[np.arange(batch), own.numpy()] / weight.sum(1)))
    loss = softmax_over(similarity, own, TEMPERATURE)
    assert loss.item() == pytest.approx(expected, rel=TOLERANCE[dtype], abs=TOLERANCE[dtype] / 10)


@pytest.mark.parametrize("temperature", [1e-3, 0.07])
def test_instance_softmax_is_finite_at_extremes(temperature):
    similarity = torch.tensor([[1.0, -1.0, -1.0], [1.0, -1.0, 1.0]], requires_grad=True)
    loss = softmax_over(similarity, torch.tensor([0, 1]), temperature)
    loss.backward()
    assert loss.item() == pytest.approx((2 / temperature + math.log(2)) / 2, rel=1e-5)
    assert torch.isfinite(similarity.grad).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("batch", "neighbours", "dim"), [(1, 2, 2), (6, 33, 16), (4, 512, 128)])
def test_local_aggregation_equals_the_formula(dtype, batch, neighbours, dim):
    generator = torch.Generator().manual_seed(neighbours)
    f = unit(generator, batch, dim, dtype=dtype)
    background = F.normalize(f[:, None] + unit(generator, batch, neighbours, dim, dtype=dtype), dim=2)
    same = torch.rand(batch, neighbours, generator=generator) < 0.3
    same[0] = False  # a clip without any close neighbour
    similarity = np.einsum("bd,bkd->bk", as_numpy(f), as_numpy(background))
    expected = spec_local_aggregation(similarity, same.numpy(), TEMPERATURE)
    loss = local_aggregation_loss(f, background, same)
    assert loss.dtype == dtype
    assert loss.item() == pytest.approx(expected, rel=TOLERANCE[dtype])
    shared = neighbour_share_loss(torch.from_numpy(similarity).to(dtype), same)
    assert shared.item() == pytest.approx(expected, rel=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_local_aggregation_at_its_ends(dtype):
    similarity = torch.tensor([[1.0, -1.0, 0.5], [1.0, -1.0, 0.5]], dtype=dtype, requires_grad=True)
    none = neighbour_share_loss(similarity, torch.zeros(2, 3, dtype=torch.bool))
    assert none.item() == pytest.approx(-math.log(1e-7), rel=1e-6)
    none.backward()
    assert torch.equal(similarity.grad, torch.zeros_like(similarity))
    everyone = neighbour_share_loss(similarity, torch.ones(2, 3, dtype=torch.bool))
    assert everyone.item() == pytest.approx(-math.log(1 + 1e-7), abs=2e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [0.005, 0.07])
def test_extreme_similarities_of_local_aggregation(dtype, temperature):
    similarity = torch.tensor([[-1.0, 1.0, 1.0], [1.0, -1.0, -1.0]], dtype=dtype, requires_grad=True)
    same = torch.tensor([[True, False, False], [True, False, False]])
    loss = neighbour_share_loss(similarity, same, temperature)
    expected = spec_local_aggregation(as_numpy(similarity), same.numpy(), temperature)
    assert loss.item() == pytest.approx(expected, rel=TOLERANCE[dtype])
    loss.backward()
    assert torch.isfinite(similarity.grad).all()


def test_gradients_of_instance_recognition():
    generator = torch.Generator().manual_seed(0)
    f, v, drawn = (unit(generator, *shape).requires_grad_() for shape in ((3, 5), (3, 5), (3, 7, 5)))
    assert torch.autograd.gradcheck(lambda *a: instance_recognition_loss(*a, 20, 0.3), (f, v, drawn))
    similarity = (2 * torch.rand(3, 9, generator=generator, dtype=torch.float64) - 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: noise_contrastive_loss(s[:, 0], s[:, 1:], 20, 0.3), (similarity,))
    assert torch.autograd.gradcheck(lambda s: softmax_over(s, torch.tensor([0, 8, 3]), 0.07), (similarity,))


def test_gradients_of_local_aggregation():
    generator = torch.Generator().manual_seed(0)
    f, background = unit(generator, 4, 5).requires_grad_(), unit(generator, 4, 6, 5).requires_grad_()
    same = torch.rand(4, 6, generator=generator) < 0.4
    same[0] = False
    assert torch.autograd.gradcheck(lambda *a: local_aggregation_loss(*a, same, 0.3), (f, background))
    similarity = (2 * torch.rand(4, 6, generator=generator, dtype=torch.float64) - 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: neighbour_share_loss(s, same, 0.3), (similarity,))
