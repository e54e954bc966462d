import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, safe_open

from pretrain import evaluate
from pretrain.config import KnnConfig
from pretrain.data.corpus import Corpus, draw_fraction, open_corpus
from pretrain.failures import FAILURES_NAME
from pretrain.monitor import METRICS_NAME
from pretrain.settings import parse_config
from pretrain.train import Trainer
from tests.conftest import rewrite_index, tiny_run
from tests.pretrain.test_clips import damaged
from tests.pretrain.test_train import trained, trainer
from vie import MemoryBank, Sampling, VieError
from vie.history import read_history
from vie.video import Shards

VIDEOS = np.arange(100, 1100)


@pytest.mark.parametrize("fraction", [0.3, 0.7, 1.0])
def test_a_fraction_holds_that_many_different_videos_in_order(fraction):
    drawn = draw_fraction(VIDEOS, fraction, seed=0)
    assert len(set(drawn.tolist())) == len(drawn) == 1000 * fraction
    assert set(drawn.tolist()) <= set(VIDEOS.tolist())
    assert (np.diff(drawn) > 0).all()


def test_fractions_are_nested_and_depend_on_the_seed():
    small, large, other = (draw_fraction(VIDEOS, *given) for given in ((0.3, 5), (0.7, 5), (0.3, 6)))
    assert set(small.tolist()) <= set(large.tolist())
    assert set(small.tolist()) != set(other.tolist())


def test_a_run_on_a_fraction(tiny_corpus, tmp_path):
    """It has that many instances, and is not continued on another fraction."""
    settings = ("local_aggregation.clusters=2", "local_aggregation.neighbours=4")
    job = trainer(tiny_corpus, tmp_path / "run", "data.fraction=0.5", *settings)
    assert len(job.method.bank) == len(job.corpus.instances) == 24
    assert len(job.corpus.val_videos) == 16
    job.train()
    with pytest.raises(VieError, match=r"data\.fraction=0\.5"):
        trainer(tiny_corpus, tmp_path / "run", *settings)


BINS = "data.instance_frames=4"


def opened(folder: Path, *settings: str) -> Corpus:
    return open_corpus(parse_config([], [f"data.path={folder}", *settings]), Sampling(1, 1, 25.0, 16))


@pytest.fixture(scope="module")
def finished(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """A run over a little more than an epoch of bins, with a video that cannot be read; do not write into it."""
    folder = tmp_path_factory.mktemp("bins")
    return trained(damaged(tiny_corpus, folder / "corpus", 5), folder / "run", BINS, "local_aggregation.steps=20")


class TestBins:
    """A run whose instances are bins of 4 frames: videos of 10 to 14 frames make 3 or 4 of them."""

    def test_every_bin_has_a_row(self, finished):
        shards = Shards(finished.config.data.path)
        wanted = [video for video in range(48) for _ in range(0, shards.num_frames[video], 4)]
        assert finished.corpus.instances.videos.tolist() == wanted
        assert len(finished.method.bank) == len(finished.clips.instances) == len(wanted) == 162
        assert finished.clips.steps_per_epoch == 162 // 8
        assert finished.method.objective.labels.shape == (1, 162)

    def test_features_are_of_videos(self, finished):
        features = load_file(finished.run / "features-la.safetensors")
        assert features["train.videos"].tolist() == [video for video in range(48) if video != 5]
        metrics = json.loads((finished.run / METRICS_NAME).read_text())
        assert metrics["splits"] == {"train": 48, "val": 16}
        assert metrics["instances"] == 162

    def test_each_row_votes_with_the_label_of_its_video(self, finished):
        """By a loop in float64 over the last measurement's bank and clips."""
        corpus, bank = finished.corpus, finished.method.bank.embeddings
        test = finished.monitor._extract(finished.model, corpus.val_videos)
        rows = corpus.instances.videos
        found = evaluate.evaluate_on_bank(test, corpus.shards, ["motion"], finished.method.bank, rows, KnnConfig())[0]
        labels = corpus.shards.labels("motion")
        scores = np.zeros((16, 4))
        for embedding, place in zip(test.clip_embeddings, test.clip_positions.tolist(), strict=True):
            similarity = (bank.double() @ embedding.double()).numpy()
            for row in np.argsort(-similarity)[:10]:
                scores[place, labels[corpus.instances.videos[row]]] += np.exp(similarity[row] / 0.07)
        assert found.top1 == pytest.approx(100 * np.mean(scores.argmax(axis=1) == labels[48:]))
        row = next(row for row in read_history(finished.run) if "monitor" in row)["monitor"][0]
        assert row["readout"] == "knn_bank"
        assert row["videos"] == 16

    def test_chance_counts_a_video_once(self, tiny_corpus):
        """However many rows it has: here one video of a rare class has most of them."""
        shards = Shards(tiny_corpus)
        shape = shards.labels("shape")
        rare = int(np.flatnonzero(shape[:48] == 0)[0])
        common = np.flatnonzero(shape[:48] == 1)[:5]
        rows = np.concatenate([np.full(50, rare), common])
        bank = MemoryBank(len(rows), 8)
        test = evaluate.ClipFeatures(torch.arange(48, 57), torch.zeros(9, 4), bank.embeddings[:9], torch.arange(9))
        found = evaluate.evaluate_on_bank(test, shards, ["shape"], bank, rows, KnnConfig())[0]
        assert shape[48:57].tolist().count(0) == 3
        assert found.chance == pytest.approx(100 * 2 / 9)

    def test_rows_without_a_label_do_not_vote(self, tiny_corpus, monkeypatch):
        """As if they were not there, also where those that are left are fewer than the votes."""
        shards = Shards(tiny_corpus)
        labels = shards.labels("shape").copy()
        labels[:40] = -1
        bank, small = MemoryBank(48, 8, seed=1), MemoryBank(8, 8)
        small.embeddings.copy_(bank.embeddings[40:])
        clips = torch.nn.functional.normalize(torch.randn(32, 8, generator=torch.Generator().manual_seed(0)), dim=1)
        test = evaluate.ClipFeatures(torch.arange(48, 64), torch.zeros(16, 4), clips, torch.arange(32) // 2)
        monkeypatch.setattr(shards, "labels", lambda column: labels)
        found, wanted = (
            evaluate.evaluate_on_bank(test, shards, ["shape"], rows, videos, KnnConfig())
            for rows, videos in ((bank, np.arange(48)), (small, np.arange(40, 48)))
        )
        assert found == wanted

    def test_failures_name_the_video_of_each_bin(self, finished):
        with (finished.run / FAILURES_NAME).open(newline="") as file:
            rows = list(csv.DictReader(file))
        instances = {int(row["instance"]) for row in rows}
        assert instances == set(np.flatnonzero(finished.corpus.instances.videos == 5).tolist())
        assert {row["name"] for row in rows} == {finished.corpus.shards.names[5]}

    def test_other_bins_are_not_continued(self, tiny_corpus, tmp_path):
        trained(tiny_corpus, tmp_path / "run", BINS)
        for other in ("data.instance_frames=5", "data.instance_frames=null"):
            with pytest.raises(VieError, match=r"data\.instance_frames=4"):
                trainer(tiny_corpus, tmp_path / "run", other)
        assert trainer(tiny_corpus, tmp_path / "run", BINS).step == 12

    def test_videos_of_other_lengths_are_not_continued(self, tiny_corpus, tmp_path):
        """Their names and their number of bins in all may be the same: each bin must begin where it did."""
        corpus = shutil.copytree(tiny_corpus, tmp_path / "corpus")
        trained(corpus, tmp_path / "run", BINS)
        before = opened(corpus, BINS)
        lengths = pq.read_table(corpus / "index.parquet")["frame_bytes"].to_pylist()
        # Of 10 and of 14 frames: a bin less here, a bin more there.
        lengths[0], lengths[4] = lengths[0] + lengths[0][:4], lengths[4][:10]
        rewrite_index(corpus, {"frame_bytes": lengths})
        after = opened(corpus, BINS)
        assert len(after.instances) == len(before.instances)
        assert after.fingerprint() == before.fingerprint()
        with pytest.raises(VieError, match="other training videos"):
            trainer(corpus, tmp_path / "run", BINS)


def test_fingerprints(tiny_corpus, tmp_path):
    """Whole videos are told by their names, as before there were bins; features are of videos, whatever the bins."""
    whole, cut = opened(tiny_corpus), opened(tiny_corpus, BINS)
    assert whole.instance_fingerprint() == whole.fingerprint() == cut.fingerprint()
    assert cut.instance_fingerprint() != whole.fingerprint()
    assert cut.instance_fingerprint() != opened(tiny_corpus, "data.instance_frames=5").instance_fingerprint()
    assert whole.fingerprint() != opened(tiny_corpus, "data.fraction=0.5").fingerprint()
    job = trained(tiny_corpus, tmp_path / "run", BINS)
    with safe_open(job.run / "features-la.safetensors", "pt") as file:
        assert file.metadata()["corpus"] == whole.fingerprint()


def test_no_bin_is_shorter_than_a_frame():
    with pytest.raises(VieError, match=r"data\.instance_frames=0 is out of range"):
        parse_config([], ["data.instance_frames=0"])


def test_a_further_way_to_split(tiny_corpus, tmp_path):
    """What transfer leaves out may be left out of pretraining too."""
    corpus = tmp_path / "corpus"
    shutil.copytree(tiny_corpus, corpus)
    table = pq.read_table(corpus / "index.parquet")
    words = ["val"] * 10 + ["train"] * 54
    pq.write_table(table.append_column("split.talkers1", pa.array(words)), corpus / "index.parquet")
    config = parse_config([], tiny_run(corpus, tmp_path / "run", "data.split=talkers1"))
    opened = open_corpus(config, Sampling(1, 1, 25.0, 16))
    assert opened.train_videos.tolist() == list(range(10, 64))
    assert opened.val_videos.tolist() == list(range(10))
