"""Frames that are decoded once and kept for other runs on the same corpus."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from pretrain.data.readers import DeviceReader
from tests.pretrain.test_clips import damaged
from tests.pretrain.test_train import assert_same_state, trained
from vie import VieError
from vie.video import Shards

CPU = torch.device("cpu")


def read_all(reader: DeviceReader, shards: Shards) -> list[torch.Tensor]:
    """The first ten frames of every video that can be read."""
    videos = np.arange(len(shards))
    found = reader.read(videos, np.tile(np.arange(10), (len(videos), 1)), np.zeros((len(videos), 4), np.float32))
    return [found.frames, torch.from_numpy(found.kept)]


@pytest.mark.parametrize("workers", [0, 2])
def test_later_readers_decode_nothing(workers, tiny_corpus, tmp_path, monkeypatch):
    shards = Shards(tiny_corpus, tmp_path / "cache")
    videos = np.arange(len(shards))
    plain = DeviceReader(shards, videos, CPU)
    first = DeviceReader(shards, videos, CPU, workers, kept=True)
    monkeypatch.setattr(Shards, "decode", None)
    later = DeviceReader(Shards(tiny_corpus, tmp_path / "cache"), videos[::-1], CPU, workers, kept=True)
    for reader in (first, later):
        assert all(map(torch.equal, read_all(reader, shards), read_all(plain, shards)))


def test_what_cannot_be_read_is_known_to_later_readers(tiny_corpus, tmp_path):
    shards = Shards(damaged(tiny_corpus, tmp_path / "corpus", 5, 30), tmp_path / "cache")
    videos = np.arange(len(shards))
    plain, first, later = (DeviceReader(shards, videos, CPU, kept=kept) for kept in (False, True, True))
    assert plain.failures.keys() == {5, 30}
    assert plain.failures == first.failures == later.failures
    assert all(map(torch.equal, read_all(later, shards), read_all(plain, shards)))


def test_other_videos_and_another_corpus_are_decoded(tiny_corpus, tmp_path, monkeypatch):
    corpus = shutil.copytree(tiny_corpus, tmp_path / "corpus")
    shards = Shards(corpus, tmp_path / "cache")
    few = np.array([3, 9, 40])
    DeviceReader(shards, np.arange(len(shards)), CPU, kept=True)
    reader = DeviceReader(shards, few, CPU, kept=True)
    wanted = few, np.tile([0, 9], (3, 1)), np.zeros((3, 4), np.float32)
    assert torch.equal(reader.read(*wanted).frames, DeviceReader(shards, few, CPU).read(*wanted).frames)

    index = corpus / "index.parquet"
    os.utime(index, ns=(0, index.stat().st_mtime_ns + 1))  # prepared anew
    black = [torch.zeros(24, 28, 3, dtype=torch.uint8)] * 14
    monkeypatch.setattr(Shards, "decode", lambda self, video, frames: black[: len(frames)])
    assert not DeviceReader(Shards(corpus, tmp_path / "cache"), few, CPU, kept=True).read(*wanted).frames.any()


def test_of_several_that_begin_together_one_decodes(tiny_corpus, tmp_path, monkeypatch):
    decoded = []
    decode = Shards.decode
    monkeypatch.setattr(
        Shards, "decode", lambda self, video, frames: decoded.append(video) or decode(self, video, frames)
    )
    shards = Shards(tiny_corpus, tmp_path / "cache")
    DeviceReader(shards, np.arange(len(shards)), CPU, kept=True)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: DeviceReader(shards, np.arange(len(shards)), CPU, kept=True), range(3)))
    assert sorted(decoded) == list(range(len(shards)))


def test_a_cache_without_room_is_told_before_anything_is_decoded(tiny_corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(Shards, "decode", None)
    shards = Shards(tiny_corpus, tmp_path / "cache", 2**20)
    with pytest.raises(VieError, match=r"may hold 1048576 bytes.*data\.cache_bytes"):
        DeviceReader(shards, np.arange(len(shards)), CPU, kept=True)


def test_a_disk_that_fills_up_leaves_nothing_behind(tiny_corpus, tmp_path, monkeypatch):
    def full(descriptor: int, offset: int, length: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    shards = Shards(tiny_corpus, tmp_path / "cache")
    with pytest.raises(VieError, match=r"No space left on device.*data\.cache_dir"):
        DeviceReader(shards, np.arange(len(shards)), CPU, kept=True)
    assert not list((tmp_path / "cache").glob("*.vie"))


def test_training_is_the_same(tiny_corpus, tmp_path):
    kept = ("data.cache=device+disk", f"data.cache_dir={tmp_path / 'cache'}")
    steps = ("instance_recognition.steps=2", "local_aggregation.steps=2")
    once, first, later = (
        trained(tiny_corpus, tmp_path / name, *steps, *settings)
        for name, settings in (("once", ("data.cache=device",)), ("first", kept), ("later", kept))
    )
    assert_same_state(first, once)
    assert_same_state(later, once)
