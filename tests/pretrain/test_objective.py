from dataclasses import asdict

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import pretrain.objective
from pretrain.config import BankConfig, InstanceRecognitionConfig, LocalAggregationConfig
from pretrain.objective import Objective
from vie import MemoryBank, cluster, instance_recognition_loss, local_aggregation_loss

INSTANCES, DIM, BATCH = 90, 8, 6
STEPS_PER_EPOCH = 5
IR_STEPS = 12


def make(
    noise: int | None = None, seed: int = 0, temperature: float = 0.07, instances: int = INSTANCES, **la
) -> Objective:
    aggregation = {"steps": 40, "clusters": 9, "neighbours": 20, **la}
    return Objective(
        MemoryBank(instances, DIM, seed=4),
        BankConfig(temperature=temperature),
        InstanceRecognitionConfig(steps=IR_STEPS, noise=noise),
        LocalAggregationConfig(**aggregation),
        seed=seed,
        steps_per_epoch=STEPS_PER_EPOCH,
    )


@pytest.fixture
def embedding() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return F.normalize(torch.randn(BATCH, DIM, generator=generator), dim=1).requires_grad_()


@pytest.fixture
def instances() -> Tensor:
    return torch.tensor([3, 89, 0, 41, 7, 20])


def assert_same_loss_and_gradient(one: Tensor, other: Tensor, embedding: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    first, second = (torch.autograd.grad(loss, embedding)[0] for loss in (one, other))
    assert first.abs().max() > 1e-3
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.07, 0.2])
def test_exact_softmax_over_the_bank(embedding, instances, temperature):
    objective = make(temperature=temperature)
    logits = torch.stack([objective.bank.embeddings @ row for row in embedding]) / temperature
    expected = (logits.exp().sum(dim=1).log() - logits[torch.arange(BATCH), instances]).mean()
    assert_same_loss_and_gradient(objective.loss(embedding, instances, 0), expected, embedding)


@pytest.mark.parametrize("noise", [1, 32, 500])
def test_noise_contrast_equals_the_public_loss(embedding, instances, noise):
    objective = make(noise)
    rows = objective.bank.gather(objective._noise(BATCH, noise, 5))
    expected = instance_recognition_loss(embedding, objective.bank.gather(instances), rows, INSTANCES)
    assert_same_loss_and_gradient(objective.loss(embedding, instances, 5), expected, embedding)


def test_noise_is_a_function_of_seed_and_step():
    torch.manual_seed(0)
    drawn = make(1, seed=2)._noise(64, 256, 7)
    torch.manual_seed(1)
    again = make(1, seed=2)
    again._noise(64, 256, 6)
    assert torch.equal(again._noise(64, 256, 7), drawn)
    for other in (make(1, seed=2)._noise(64, 256, 8), make(1, seed=3)._noise(64, 256, 7)):
        assert (other == drawn).float().mean() < 0.05
    counts = torch.bincount(drawn.flatten(), minlength=INSTANCES)
    assert len(counts) == INSTANCES
    assert (counts.float() / counts.float().mean() - 1).abs().max() < 0.35


@pytest.mark.parametrize(("neighbours", "clusterings"), [(1, 1), (20, 1), (20, 2), (90, 1), (90, 3)])
def test_local_aggregation_equals_the_public_loss(embedding, instances, neighbours, clusterings):
    objective = make(neighbours=neighbours, clusterings=clusterings)
    objective.begin_step(IR_STEPS)
    k = min(neighbours, INSTANCES)
    nearest = objective.bank.nearest(embedding.detach(), k)[1]
    labels = objective.labels
    assert labels.shape == (clusterings, INSTANCES)
    same = torch.zeros(BATCH, k, dtype=torch.bool)
    for clip in range(BATCH):
        for place in range(k):
            same[clip, place] = any(run[nearest[clip, place]] == run[instances[clip]] for run in labels)
    assert same.any() or neighbours == 1
    expected = local_aggregation_loss(embedding, objective.bank.gather(nearest), same)
    loss = objective.loss(embedding, instances, IR_STEPS)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    gradients = (torch.autograd.grad(value, embedding)[0] for value in (loss, expected))
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_two_clusterings_are_joined(embedding, instances):
    objective = make(neighbours=INSTANCES, clusterings=2)
    everyone, nobody = torch.zeros(INSTANCES, dtype=torch.int64), torch.arange(INSTANCES)
    losses = {}
    for name, runs in {"none": [nobody, nobody], "one": [nobody, everyone], "other": [everyone, nobody]}.items():
        objective.labels = torch.stack(runs)
        losses[name] = objective.loss(embedding, instances, IR_STEPS).item()
    assert losses["one"] == losses["other"] == pytest.approx(0, abs=1e-6)
    assert losses["none"] > 1
    halves = torch.stack([torch.arange(INSTANCES) % 2, torch.arange(INSTANCES) % 3])
    objective.labels = halves
    rows, own = torch.arange(INSTANCES), instances[:, None]
    same = ((rows % 2) == (own % 2)) | ((rows % 3) == (own % 3))
    expected = local_aggregation_loss(embedding, objective.bank.embeddings.expand(BATCH, -1, -1), same)
    torch.testing.assert_close(objective.loss(embedding, instances, IR_STEPS), expected)


def test_stages():
    objective = make()
    assert [objective.stage(step) for step in (0, IR_STEPS - 1, IR_STEPS, 1000)] == ["ir", "ir", "la", "la"]


def clustered_at(objective: Objective, steps: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps at which clusters are computed, while the bank moves as it does in training."""
    calls = 0

    def count(*arguments, **named):
        nonlocal calls
        calls += 1
        return cluster(*arguments, **named)

    monkeypatch.setattr(pretrain.objective, "cluster", count)
    generator, found = torch.Generator().manual_seed(0), []
    for step in range(steps):
        before, labels = calls, objective.labels
        objective.begin_step(step)
        if calls > before:
            assert calls == before + 1
            found.append(step)
            config = objective.local_aggregation
            expected = cluster(objective.bank.embeddings, objective.num_clusters, config.clusterings, config.iterations)
            assert torch.equal(objective.labels, expected)
        else:
            assert objective.labels is labels
        new = F.normalize(torch.randn(BATCH, DIM, generator=generator), dim=1)
        objective.end_step(new, torch.randint(INSTANCES, (BATCH,), generator=generator))
    return found


@pytest.mark.parametrize(("refresh", "expected"), [(1, [12, 17, 22, 27]), (2, [12, 22])])
def test_clusters_are_computed_before_the_first_step_and_each_epoch(monkeypatch, refresh, expected):
    assert clustered_at(make(refresh_epochs=refresh), 32, monkeypatch) == expected


def test_every_instance_is_its_own_cluster_before():
    objective = make()
    objective.begin_step(IR_STEPS - 1)
    assert torch.equal(objective.labels, torch.arange(INSTANCES)[None])


def test_local_aggregation_from_the_first_step(monkeypatch, embedding, instances):
    objective = make()
    objective.instance_recognition.steps = 0
    assert clustered_at(objective, 6, monkeypatch) == [0, 5]
    assert objective.stage(0) == "la"
    assert torch.isfinite(objective.loss(embedding, instances, 0))


def test_defaults_scale_with_the_corpus():
    assert make(clusters=None, neighbours=None, instances=240_000).num_clusters == 8000
    assert make(clusters=None, neighbours=None, instances=240_000).num_neighbours == 512
    small = make(clusters=None, neighbours=None)
    assert (small.num_clusters, small.num_neighbours) == (3, 11)
    assert make(clusters=1, neighbours=None, instances=5).num_neighbours >= 1


@pytest.mark.parametrize("step", [0, IR_STEPS])
def test_the_loss_leaves_the_bank_alone_and_the_step_moves_it(embedding, instances, step):
    objective = make()
    before = objective.bank.embeddings.clone()
    objective.begin_step(step)
    objective.loss(embedding, instances, step).backward()
    assert torch.equal(objective.bank.embeddings, before)
    objective.end_step(embedding, instances)
    expected = before.clone()
    expected[instances] = F.normalize(before[instances] + embedding.detach(), dim=1)
    torch.testing.assert_close(objective.bank.embeddings, expected)
    assert not objective.bank.embeddings.requires_grad


def test_settings_are_vies():
    assert asdict(BankConfig()) == {"momentum": 0.5, "temperature": 0.07, "layout": "sharded", "dtype": "float32"}
    assert asdict(InstanceRecognitionConfig()) == {"steps": 50_000, "noise": 4096}
    assert LocalAggregationConfig().clusterings == 1
    assert LocalAggregationConfig().iterations == 20
