"""The classifier and the test crop of a run, where they are not VIE's own."""

import json
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from pretrain import evaluate
from pretrain.checkpoint import FACTS_NAME, FOLDER_NAME
from pretrain.config import KnnConfig, MonitorConfig
from pretrain.data.clips import EvalClips
from pretrain.monitor import METRICS_NAME
from pretrain.reporting.gallery import find_neighbours
from pretrain.runtime import resolve_sampling
from pretrain.settings import parse_config
from pretrain.summary import summarise
from pretrain.train import Trainer
from tests.pretrain.test_train import trained, trainer
from vie import MemoryBank, Sampling, VieError, knn_scores, load
from vie.history import read_history
from vie.video import Shards

SETTINGS = ["data.short_side=1.0", "monitor.neighbours=29", "monitor.temperature=0.5"]
Array = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def finished(tiny_corpus, tmp_path_factory) -> Trainer:
    run = tmp_path_factory.mktemp("runs") / "static"
    return trained(tiny_corpus, run, *SETTINGS, "monitor.knn_every=12")


def votes(asked: Array, rows: Array, labels: npt.NDArray[np.int64], k: int, temperature: float) -> Array:
    """Scores by a plain loop in float64: (Q, 4)."""
    scores = np.zeros((len(asked), 4))
    for query, similarity in enumerate(asked @ rows.T):
        for row in np.argsort(-similarity)[:k]:
            scores[query, labels[row]] += np.exp(similarity[row] / temperature)
    return scores


def top1(scores: Array, labels: npt.NDArray[np.int64]) -> float:
    return float(100 * np.mean(scores.argmax(axis=1) == labels))


def unit(features: Tensor) -> Array:
    return F.normalize(features.double(), dim=1).numpy()


def percent(right: Tensor) -> float:
    return 100 * right.double().mean().item()


def random_features() -> Tensor:
    """Of 64 videos; no votes on them are nearly even."""
    return torch.randn(64, 6, generator=torch.Generator().manual_seed(3))


def test_pooled_features_vote_as_told(finished):
    features = load_file(finished.run / "features-la.safetensors")
    shape = torch.from_numpy(finished.corpus.shards.labels("shape"))
    rows, asked = (F.normalize(features[f"{split}.pooled"], dim=1) for split in ("train", "val"))
    guess = knn_scores(asked, rows, shape[features["train.videos"]], 4, 29, 0.5).argmax(dim=1)
    results = [row for row in read_history(finished.run) if "evaluation" in row][-1]["evaluation"]
    found = next(row["top1"] for row in results if (row["label"], row["readout"]) == ("shape", "knn"))
    assert found == pytest.approx(percent(guess == shape[features["val.videos"]]))


def test_the_bank_votes_as_told(finished):
    corpus, bank = finished.corpus, finished.method.bank.embeddings
    shape = torch.from_numpy(corpus.shards.labels("shape"))
    test = finished.monitor._extract(finished.model, corpus.val_videos)
    scores = knn_scores(test.clip_embeddings, bank, shape[:48], 4, 29, 0.5)
    guess = torch.stack([scores[test.clip_positions == video].mean(dim=0) for video in range(16)]).argmax(dim=1)
    monitor = next(row for row in read_history(finished.run) if "monitor" in row)["monitor"]
    found = next(row["top1"] for row in monitor if row["label"] == "shape")
    assert found == pytest.approx(percent(guess == shape[48:]))


@pytest.mark.parametrize(("neighbours", "temperature"), [(1, 0.07), (3, 0.5), (48, 0.02), (48, 5.0)])
def test_both_numbers_count(tiny_corpus, neighbours, temperature):
    """On features at random, where each of these choices has another accuracy than the default."""
    shards = Shards(tiny_corpus)
    shape = shards.labels("shape")
    pooled = random_features()
    bank = MemoryBank(48, 6)
    bank.embeddings.copy_(F.normalize(pooled[:48], dim=1))
    train = evaluate.Features(torch.arange(48), pooled[:48])
    clips = F.normalize(pooled[48:], dim=1)
    test = evaluate.ClipFeatures(torch.arange(48, 64), pooled[48:], clips, torch.arange(16))
    knn = KnnConfig(neighbours, temperature)
    default, wanted = (
        top1(votes(unit(pooled[48:]), unit(pooled[:48]), shape[:48], *numbers), shape[48:])
        for numbers in ((10, 0.07), (neighbours, temperature))
    )
    assert wanted != default
    by_features = evaluate.evaluate_features(train, test, shards, ["shape"], knn)[0]
    by_bank = evaluate.evaluate_on_bank(test, shards, ["shape"], bank, np.arange(48), knn)[0]
    assert (by_features.readout, by_bank.readout) == ("knn", "knn_bank")
    assert by_features.top1 == by_bank.top1 == pytest.approx(wanted)


def test_the_protocol_follows(finished, tiny_corpus):
    protocol = json.loads((finished.run / METRICS_NAME).read_text())["protocol"]
    assert protocol["crop"] == "short side 1 times the size, centre"
    assert protocol["knn"] == "29 nearest training videos by cosine, votes exp(similarity / 0.5)"
    assert load(finished.run / "encoder-la").card["metrics"]["protocol"] == protocol
    default = evaluate.protocol(5, Sampling(1, 1, None, 16), MonitorConfig().knn)
    assert default["crop"] == "short side 8/7 times the size, centre"
    assert default["knn"] == "10 nearest training videos by cosine, votes exp(similarity / 0.07)"


def test_joined_streams_vote_as_the_first_run_did(finished, tmp_path):
    """A stream beside itself has its own neighbours."""
    run, pooled = Path(shutil.copytree(finished.run, tmp_path / "static")), random_features()
    tensors = {"train.pooled": pooled[:48], "val.pooled": pooled[48:].clone()}
    videos = {"train.videos": torch.arange(48), "val.videos": torch.arange(48, 64)}
    save_file({**tensors, **videos}, run / "features-la.safetensors")
    rows = summarise([run, run])["results"]
    (joined,) = (r for r in rows if (r["stage"], r["label"], r["readout"]) == ("joined", "shape", "knn"))
    shape = finished.corpus.shards.labels("shape")
    wanted = votes(unit(pooled[48:]), unit(pooled[:48]), shape[:48], 29, 0.5)
    assert joined["top1"] == pytest.approx(top1(wanted, shape[48:]))
    by_default = votes(unit(pooled[48:]), unit(pooled[:48]), shape[:48], 10, 0.07)
    assert top1(by_default, shape[48:]) != top1(wanted, shape[48:])


def test_the_gallery_votes_as_its_run_did(finished):
    pooled, shape = random_features(), finished.corpus.shards.labels("shape")
    parts = {"train": torch.arange(48), "val": torch.arange(48, 64)}
    features = {name: evaluate.Features(videos, pooled[videos]) for name, videos in parts.items()}
    classes = finished.corpus.shards.classes("shape")
    found = []
    for knn in (KnnConfig(), KnnConfig(29, 0.5)):
        gallery = find_neighbours(features, finished.corpus.shards, finished.monitor.sampling, "shape", knn)
        scores = votes(unit(pooled[48:]), unit(pooled[:48]), shape[:48], knn.neighbours, knn.temperature)
        guess = [classes[number] for number in scores.argmax(axis=1)]
        found.append([query.vote for query in gallery.queries])
        assert set(found[-1]) <= set(guess)
        right = sum(query.vote == query.shown.label for query in gallery.queries)
        assert (right, len(gallery.queries)) == (min(3, round(top1(scores, shape[48:]) * 16 / 100)), 6)
    assert found[0] != found[1]


def test_the_crop_reaches_tests_and_encoder(finished):
    sampling = load(finished.run / "encoder-la").sampling
    assert sampling == finished.monitor.sampling == Sampling(1, 1, 25.0, 16, short_side=1.0)
    shards = finished.corpus.shards
    clips = EvalClips(shards, np.array([50]), finished.clips.reader, sampling, clips=1, batch_size=1)
    # 24 x 28 pixels become 16 x 19, of which one column is left out to the left and two to the right.
    np.testing.assert_allclose(clips[0].boxes, [[0, 28 / 19, 24, 16 * 28 / 19]])


def test_a_run_from_before_it_was_a_setting_goes_on(finished, tiny_corpus, tmp_path):
    run = Path(shutil.copytree(finished.run, tmp_path / "run"))
    path = sorted((run / FOLDER_NAME).iterdir())[-1] / FACTS_NAME
    facts = json.loads(path.read_text())
    del facts["config"]["data"]["short_side"]
    path.write_text(json.dumps(facts))
    assert trainer(tiny_corpus, run).step == finished.step == 12


def test_null_takes_the_models_own():
    whole = Sampling(1, 1, 25.0, 32, short_side=1.0)
    assert resolve_sampling(parse_config([]), whole).short_side == 1.0
    assert resolve_sampling(parse_config([], ["data.short_side=1.25"]), whole).short_side == 1.25


def test_the_defaults_are_vies():
    assert MonitorConfig().knn == KnnConfig() == KnnConfig(neighbours=10, temperature=0.07)


@pytest.mark.parametrize(
    "override", ["data.short_side=0.9", "monitor.neighbours=0", "monitor.temperature=0", "monitor.temperature=0.001"]
)
def test_out_of_range(override):
    with pytest.raises(VieError, match=override.partition("=")[0]):
        parse_config([], [override])
