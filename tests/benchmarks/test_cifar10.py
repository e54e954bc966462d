"""The jobs on CIFAR-10, and the nearest neighbours that they are measured by."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.jobs import read_jobs
from benchmarks.transfer.config import parse_task
from benchmarks.transfer.modes import MODES
from benchmarks.transfer.results import evaluate, open_bench, read_results
from pretrain.config import KnnConfig
from pretrain.evaluate import extract
from pretrain.runtime import autocast_to
from pretrain.settings import parse_config
from tests.pretrain.test_knn_settings import top1, unit, votes
from vie import Sampling, VieError, create_model, load, save_pretrained

CPU = torch.device("cpu")
JOBS = Path(__file__).parents[2] / "benchmarks" / "cifar10.yaml"
QUICK = ["runtime.device=cpu", "runtime.precision=fp32", "runtime.channels_last=false", "data.workers=0", "modes=[knn]"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "encoder-ir"
    torch.manual_seed(0)
    model = create_model("vie_single_r18", width=4, embed_dim=8)
    save_pretrained(model, folder, Sampling(1, 1, 25.0, 16, short_side=1.0))
    return folder


@pytest.mark.parametrize(("name", "stages"), [("cifar10-ir", (46800, 0)), ("cifar10-la", (23400, 23400))])
def test_jobs(name, stages, tmp_path):
    job = read_jobs(JOBS)[name]
    assert job.corpus == "cifar10"
    config = parse_config(job.recipes, job.settings)
    assert (config.instance_recognition.steps, config.local_aggregation.steps) == stages
    (transfer,) = job.transfer
    task = parse_task(transfer.task, transfer.settings)
    assert (task.task, task.modes, task.data.test_split, task.data.clips) == ("cifar10", ["knn", "linear"], "test", 1)
    assert task.knn == KnnConfig(200, 0.1)


@pytest.mark.parametrize("settings", [(), ("knn.neighbours=29", "knn.temperature=0.5")])
def test_neighbours_vote_as_told(tiny_corpus, encoder, settings):
    """By a loop in float64."""
    config = parse_task("small", [f"data.path={tiny_corpus}", *QUICK, *settings])
    loaded = load(encoder)
    bench = open_bench(config, loaded, CPU)
    plain = autocast_to("fp32", CPU)
    known, asked = (extract(loaded.model, bench.test_clips(train), CPU, plain, 0) for train in (True, False))
    shape = bench.task.shards.labels("shape")
    k, temperature = (29, 0.5) if settings else (10, 0.07)
    with torch.no_grad():
        features = {
            "pooled": (asked.pooled, known.pooled),
            "embedding": (loaded.model.embed(asked.pooled), loaded.model.embed(known.pooled)),
        }
        rows = {(row["label"], row["layer"], row["readout"]): row["top1"] for row in MODES["knn"](bench, loaded.model)}
    for layer, (queries, bank) in features.items():
        wanted = top1(votes(unit(queries), unit(bank), shape[:48], k, temperature), shape[48:])
        assert rows["shape", layer, "knn"] == pytest.approx(wanted)


def test_test_pictures_are_cropped_as_the_encoder_was_trained(tiny_corpus, encoder, tmp_path):
    config = parse_task("small", [f"data.path={tiny_corpus}", *QUICK, "knn.neighbours=3", "knn.temperature=0.5"])
    batch = open_bench(config, load(encoder), CPU).test_clips()[0]
    # 24 x 28 pixels become 16 x 19, of which one column is left out to the left and two to the right.
    np.testing.assert_allclose(batch.boxes, np.tile([0, 28 / 19, 24, 16 * 28 / 19], (len(batch.boxes), 1)))
    (content,) = read_results(list(evaluate(config, str(encoder), tmp_path)))
    protocol = content["protocol"]
    assert protocol["crop"] == "short side 1 times the size, centre"
    assert protocol["clip"]["short_side"] == 1.0
    assert protocol["knn"] == {"neighbours": 3, "temperature": 0.5}


@pytest.mark.parametrize("override", ["knn.neighbours=0", "knn.temperature=0"])
def test_out_of_range(override):
    with pytest.raises(VieError, match=override.partition("=")[0]):
        parse_task("small", [override])
