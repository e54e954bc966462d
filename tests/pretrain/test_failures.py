import csv

import pytest

from pretrain.failures import FAILURES_NAME, Failures
from tests.pretrain.test_clips import damaged
from tests.pretrain.test_train import StoppedError, stop_at, trained


def test_an_interrupted_run_names_each_failure_once(tiny_corpus, tmp_path, monkeypatch):
    corpus = damaged(tiny_corpus, tmp_path / "corpus", 5, 30)
    whole = trained(corpus, tmp_path / "whole").run
    with monkeypatch.context() as patch:
        stop_at(9, patch)
        with pytest.raises(StoppedError):
            trained(corpus, tmp_path / "stopped")
    resumed = trained(corpus, tmp_path / "stopped").run
    assert (resumed / FAILURES_NAME).read_text() == (whole / FAILURES_NAME).read_text()


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
