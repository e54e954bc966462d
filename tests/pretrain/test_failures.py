import csv

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pretrain import failures
from pretrain.data.clips import TrainClips
from pretrain.data.readers import Pixels
from pretrain.failures import FAILURES_NAME, Failures, read_failures
from tests.pretrain.test_clips import damaged
from tests.pretrain.test_train import IR_STEPS, STEPS, StoppedError, assert_same_state, stop_at, trained
from vie import VieError
from vie.history import read_history


def test_an_interrupted_run_names_each_failure_once(tiny_corpus, tmp_path, monkeypatch):
    corpus = damaged(tiny_corpus, tmp_path / "corpus", 5, 30)
    whole = trained(corpus, tmp_path / "whole").run
    with monkeypatch.context() as patch:
        stop_at(9, patch)
        with pytest.raises(StoppedError):
            trained(corpus, tmp_path / "stopped")
    resumed = trained(corpus, tmp_path / "stopped").run
    assert (resumed / FAILURES_NAME).read_text() == (whole / FAILURES_NAME).read_text()


def lose(patch, steps):
    """The storage is gone in these steps."""
    made = TrainClips.__getitem__

    def unreadable(self, step):
        if step not in steps:
            return made(self, step)
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(self.reader, "read", lambda videos, frames, boxes, *_: nothing(len(videos), frames, boxes))
            return made(self, step)

    patch.setattr(TrainClips, "__getitem__", unreadable)


def nothing(clips, frames, boxes):
    pixels = torch.empty((0, frames.shape[1], 1, 1, 3), dtype=torch.uint8)
    return Pixels(pixels, boxes[:0], np.empty(0, np.int64), dict.fromkeys(range(clips), "the storage is gone"))


def test_a_step_without_any_clip_is_not_taken(tiny_corpus, tmp_path, monkeypatch):
    """But its number counts, and so does a clustering that is due at it."""
    with monkeypatch.context() as patch:
        lose(patch, range(IR_STEPS - 1, IR_STEPS + 1))
        lost = trained(tiny_corpus, tmp_path / "lost")
    assert len(read_failures(tmp_path / "lost")) == 2 * 8
    losses = {row["step"]: row["loss"] for row in read_history(tmp_path / "lost") if "loss" in row}
    assert [step for step, loss in losses.items() if loss == 0] == [IR_STEPS, IR_STEPS + 1]
    assert lost.step == STEPS
    before, at = (load_file(tmp_path / f"lost/encoder-{stage}/model.safetensors") for stage in ("random", "ir"))
    short = trained(
        tiny_corpus, tmp_path / "short", f"instance_recognition.steps={IR_STEPS - 1}", "local_aggregation.steps=0"
    )
    assert not all(torch.equal(before[name], tensor) for name, tensor in at.items())
    torch.testing.assert_close(at, load_file(short.run / "encoder-ir/model.safetensors"), rtol=0, atol=0)
    assert 1 < len(lost.method.objective.labels.unique()) <= 6


def test_a_storage_that_stays_away_ends_the_run(tiny_corpus, tmp_path, monkeypatch):
    """And when it is back, the run goes on as if nothing had been."""
    with monkeypatch.context() as patch:
        lose(patch, range(5, STEPS))
        patch.setattr(failures, "MOST_EMPTY", 3)
        with pytest.raises(VieError, match="no clip of the last 3 steps can be read, the last because: the storage is"):
            trained(tiny_corpus, tmp_path / "run")
    assert_same_state(trained(tiny_corpus, tmp_path / "run"), trained(tiny_corpus, tmp_path / "whole"))
    assert not (tmp_path / "run" / FAILURES_NAME).exists()


def test_names_with_commas_and_a_line_that_was_cut_off(tmp_path):
    first = Failures(tmp_path, 0, ["a, b.mp4", "c.mp4"].__getitem__)
    first.add(3, {0: 'the "reason", in\ntwo\rlines'})
    first.add(7, {1: "gone"})
    first.add(8, {})
    with (tmp_path / FAILURES_NAME).open("a") as file:
        file.write("4,1,c.m")
    Failures(tmp_path, 7, ["a, b.mp4", "c.mp4"].__getitem__).add(7, {1: "again"})
    with (tmp_path / FAILURES_NAME).open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[1:] == [["3", "0", "a, b.mp4", 'the "reason", in\ntwo\rlines'], ["7", "1", "c.mp4", "again"]]


def test_no_failures_no_file(tmp_path):
    Failures(tmp_path, 0, [].__getitem__).add(1, {})
    assert not (tmp_path / FAILURES_NAME).exists()
    Failures(tmp_path, 0, ["a.mp4"].__getitem__).add(1, {0: "gone"})
    Failures(tmp_path, 1, ["a.mp4"].__getitem__)  # the run goes on from before the failure
    assert not (tmp_path / FAILURES_NAME).exists()
