import math

import pytest

from pretrain.config import Config
from pretrain.data.order import steps_per_epoch
from pretrain.objective import cluster_sizes
from pretrain.settings import parse_config
from pretrain.train import Trainer
from vie import load
from vie.history import read_history
from vie.video import Augmentation

PICTURES = 30_000


@pytest.fixture
def alone() -> Config:
    return parse_config(["cifar10_ir"])


@pytest.fixture
def aggregated() -> Config:
    return parse_config(["cifar10_ir", "cifar10_la"])


def test_instance_recognition_is_the_release_s(alone):
    assert alone.model.name == "torchvision_cifar_r18"
    assert alone.model.embed_dim == 128
    assert (alone.data.size, alone.data.short_side, alone.data.batch_size) == (32, 1.0, 128)
    assert alone.augmentation == Augmentation(
        crop="resized", brightness=0.4, contrast=0.4, saturation=0.4, hue=0.4, grey=0.2, flip=0
    )
    assert (alone.bank.momentum, alone.bank.temperature) == (0.5, 0.1)
    assert alone.instance_recognition.noise is None
    assert (alone.optim.lr, alone.optim.momentum, alone.optim.weight_decay) == (0.03, 0.9, 5e-4)
    assert (alone.monitor.neighbours, alone.monitor.temperature, alone.monitor.clips) == (200, 0.1, 1)


def test_200_epochs_of_30000_pictures(alone):
    epoch = steps_per_epoch(PICTURES, alone.data.batch_size)
    assert alone.total_steps == alone.instance_recognition.steps == 200 * epoch
    assert alone.optim.drops == [120 * epoch, 160 * epoch]
    assert alone.monitor.knn_every == 5 * epoch


def test_local_aggregation_takes_the_second_half(alone, aggregated):
    assert aggregated.total_steps == alone.total_steps
    assert aggregated.instance_recognition.steps == alone.total_steps // 2
    assert cluster_sizes(aggregated.local_aggregation, PICTURES) == (1000, 512)
    for part in ("model", "data", "augmentation", "bank", "optim", "runtime", "monitor"):
        assert getattr(aggregated, part) == getattr(alone, part)
    assert aggregated.optim.drops[0] > aggregated.instance_recognition.steps


def test_the_recipe_trains(tiny_corpus, tmp_path):
    quick = ["data.batch_size=8", "data.val_split=val", "data.workers=0", "instance_recognition.steps=2"]
    machine = ["runtime.device=cpu", "runtime.mode=eager", "runtime.threads=1", "monitor.log_every=1"]
    places = [f"run={tmp_path / 'run'}", f"data.path={tiny_corpus}"]
    job = Trainer(parse_config(["cifar10_ir", "cifar10_la"], [*places, *quick, *machine, "local_aggregation.steps=2"]))
    job.train()
    history = read_history(job.run)
    losses = [row["loss"] for row in history if "loss" in row]
    assert [row["stage"] for row in history if "loss" in row] == ["ir", "ir", "la", "la"]
    assert all(map(math.isfinite, losses))
    assert load(job.run / "encoder-la").sampling.short_side == 1.0
