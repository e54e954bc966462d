"""Pixels are normalised by the stream's own statistics wherever a clip is made."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.transfer.networks import Probe
from benchmarks.transfer.training import Bench
from benchmarks.transfer.training import test as score
from benchmarks.transfer.training import train as train_readouts
from pretrain import evaluate
from pretrain.data.clips import EvalClips
from pretrain.data.readers import ShardReader
from pretrain.runtime import autocast_to
from pretrain.settings import parse_config
from pretrain.train import Trainer
from tests.benchmarks.test_transfer import bench_for
from tests.conftest import tiny_run
from vie import Sampling, Stream, create_model, save_pretrained
from vie.video import Shards

CPU = torch.device("cpu")
PLAIN = autocast_to("fp32", CPU)
CLIP = Sampling(frames=4, stride=2, fps=25.0, size=16)
MEAN, STD = (-7.0, -7.0, -7.0), (0.5, 1.0, 2.0)
"""Pixels in [0, 1] become at least 14, 7 and 3.5."""


def small() -> Stream:
    torch.manual_seed(0)
    model = create_model("vie_slow_r18", width=4, embed_dim=16)
    model.mean, model.std = MEAN, STD
    return model


def assert_normalised(clip: Tensor) -> None:
    least, most = ((torch.tensor([bound] * 3) - torch.tensor(MEAN)) / torch.tensor(STD) for bound in (0.0, 1.0))
    by_channel = clip.transpose(0, 1).flatten(1)
    assert (by_channel.amin(dim=1) >= least - 1e-4).all()
    assert (by_channel.amax(dim=1) <= most + 1e-4).all()


def test_of_training_steps(tiny_corpus, tmp_path):
    job = Trainer(parse_config([], tiny_run(tiny_corpus, tmp_path / "run")))
    job.model.mean, job.model.std = MEAN, STD
    forward, seen = job.forward, []
    job.forward = lambda clip: (seen.append(clip), forward(clip))[1]
    job.train_step(job.clips[0])
    assert_normalised(seen[0])


def test_of_features(tiny_corpus):
    shards, model = Shards(tiny_corpus), small()
    seen: list[Tensor] = []
    model.trunk.register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
    clips = EvalClips(shards, shards.split("val"), ShardReader(shards), CLIP, clips=1, batch_size=8)
    evaluate.extract(model, clips, CPU, PLAIN, workers=0)
    assert len(seen) == 2
    for clip in seen:
        assert_normalised(clip)


@pytest.mark.parametrize("part", ["train", "test"])
def test_of_transfer(tiny_corpus, tmp_path: Path, part):
    save_pretrained(small(), tmp_path, CLIP)
    bench, model = bench_for(tiny_corpus, tmp_path, "linear.steps=1", "linear.drops=[]", "linear.test_every=0")
    assert isinstance(bench, Bench)
    probe = Probe(model, bench.task.classes, torch.zeros(1, 3, 4, 16, 16), PLAIN)
    seen: list[Tensor] = []
    probe.register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
    if part == "train":
        train_readouts(bench, probe, bench.config.linear, lambda step, scores: None)
    else:
        score(bench, probe)
    assert len(seen) > 1
    for clip in seen:
        assert_normalised(clip)
