"""Frames that are decoded once and kept for other runs on the same corpus."""

import multiprocessing
import os
import resource
import shutil
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from pretrain.data import decoded
from pretrain.data.readers import DeviceReader
from tests.pretrain.test_clips import damaged
from tests.pretrain.test_train import assert_same_state, trained
from vie import VieError
from vie.video import Shards

CPU = torch.device("cpu")
FORK = multiprocessing.get_context("fork")


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


def test_what_cannot_be_read_is_tried_again(tiny_corpus, tmp_path):
    """The shard of a disk that was missing is no damage for good."""
    corpus = damaged(tiny_corpus, tmp_path / "corpus", 5, 30)
    shards = Shards(corpus, tmp_path / "cache")
    videos = np.arange(len(shards))
    plain, first, later = (DeviceReader(shards, videos, CPU, kept=kept) for kept in (False, True, True))
    assert plain.failures.keys() == {5, 30}
    assert plain.failures == first.failures == later.failures
    assert all(map(torch.equal, read_all(later, shards), read_all(plain, shards)))
    for shard in tiny_corpus.glob("*.tar"):
        (corpus / shard.name).write_bytes(shard.read_bytes())
    whole, mended = DeviceReader(shards, videos, CPU), DeviceReader(shards, videos, CPU, kept=True)
    assert not mended.failures
    assert all(map(torch.equal, read_all(mended, shards), read_all(whole, shards)))


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


@pytest.mark.parametrize("kind", [FORK.Process, threading.Thread])
def test_of_several_that_begin_together_one_decodes(kind, tiny_corpus, tmp_path, monkeypatch):
    barrier, count, right = FORK.Barrier(3), FORK.Value("q", 0), FORK.Value("q", 0)
    decode = Shards.decode

    def counted(self: Shards, video: int, frames: object) -> list[torch.Tensor]:
        with count.get_lock():
            count.value += 1
        return decode(self, video, frames)

    plain = read_all(DeviceReader(Shards(tiny_corpus), np.arange(64), CPU), Shards(tiny_corpus))
    monkeypatch.setattr(Shards, "decode", counted)

    def begin() -> None:
        shards = Shards(tiny_corpus, tmp_path / "cache")
        barrier.wait()
        found = read_all(DeviceReader(shards, np.arange(64), CPU, kept=True), shards)
        with right.get_lock():
            right.value += all(map(torch.equal, found, plain))

    together = [kind(target=begin) for _ in range(3)]
    for one in together:
        one.start()
    for one in together:
        one.join()
    assert (count.value, right.value) == (64, 3)


def test_two_that_do_not_fit_in_together(tiny_corpus, tmp_path):
    """Each is read right, however often one takes the other's room while it is being written."""
    size = int(Shards(tiny_corpus).num_frames.sum()) * 24 * 28 * 3
    plain = DeviceReader(Shards(tiny_corpus), np.arange(64), CPU)
    right = FORK.Value("q", 0)

    def begin(part: slice) -> None:
        videos = np.arange(64)[part]
        wanted = videos, np.tile([0, 9], (len(videos), 1)), np.zeros((len(videos), 4), np.float32)
        for _ in range(5):
            reader = DeviceReader(Shards(tiny_corpus, tmp_path / "cache", size), videos, CPU, kept=True)
            with right.get_lock():
                right.value += torch.equal(reader.read(*wanted).frames, plain.read(*wanted).frames)

    together = [FORK.Process(target=begin, args=(part,)) for part in (slice(0, 50), slice(14, 64))]
    for one in together:
        one.start()
    for one in together:
        one.join()
    assert right.value == 10


def test_what_killed_writers_leave_makes_room(tiny_corpus, tmp_path, monkeypatch):
    def begin(last: int) -> None:
        DeviceReader(Shards(tiny_corpus, tmp_path / "cache", 2 * 2**20), np.arange(last), CPU, kept=True)

    monkeypatch.setattr(Shards, "decode", lambda *given: os.kill(os.getpid(), signal.SIGKILL))
    for last in (61, 62, 63):
        process = FORK.Process(target=begin, args=(last,))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    monkeypatch.undo()
    begin(64)
    (kept,) = (tmp_path / "cache").glob("*.vie")
    assert not kept.name.endswith(".partial.vie")


def test_a_file_that_is_gone_or_cut_is_made_anew(tiny_corpus, tmp_path, monkeypatch):
    shards = Shards(tiny_corpus, tmp_path / "cache")
    plain = read_all(DeviceReader(shards, np.arange(64), CPU), shards)
    cached, times = Shards.cached, []

    def harmed(self: Shards, what: str, size: int, write: object) -> Path:
        path = cached(self, what, size, write)
        times.append(path)
        if len(times) == 1:
            path.unlink()
        elif len(times) == 2:
            os.truncate(path, 1000)
        return path

    monkeypatch.setattr(Shards, "cached", harmed)
    assert all(map(torch.equal, read_all(DeviceReader(shards, np.arange(64), CPU, kept=True), shards), plain))
    assert len(times) == 3


def test_a_cache_without_room_is_told_before_anything_is_decoded(tiny_corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(Shards, "decode", None)
    shards = Shards(tiny_corpus, tmp_path / "cache", 2**20)
    with pytest.raises(VieError, match=r"may hold 1048576 bytes.*data\.cache_bytes"):
        DeviceReader(shards, np.arange(len(shards)), CPU, kept=True)


def test_a_disk_that_fills_up_leaves_nothing_behind(tiny_corpus, tmp_path):
    shards = Shards(tiny_corpus, tmp_path / "cache")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(VieError, match=r"cache cannot be used \(File too large\).*data\.cache_dir"):
            DeviceReader(shards, np.arange(len(shards)), CPU, kept=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list((tmp_path / "cache").glob("*.vie"))


def test_long_videos_are_handed_over_one_by_one(tiny_corpus, monkeypatch):
    shards = Shards(tiny_corpus)
    videos = np.arange(64)
    plain = read_all(DeviceReader(shards, videos, CPU), shards)
    monkeypatch.setattr(decoded, "CHUNK", 13 * 24 * 28 * 3)
    chunks = decoded._Chunks(shards, videos)
    assert chunks.largest == max(chunks.frame_bytes(number) for number in range(len(chunks)))
    assert chunks.largest < 2 * 14 * 24 * 28 * 3 + 1
    np.testing.assert_array_equal(np.concatenate(chunks.rows), videos)
    assert all(map(torch.equal, read_all(DeviceReader(shards, videos, CPU, workers=2), shards), plain))


def test_training_is_the_same(tiny_corpus, tmp_path):
    kept = ("data.cache=device+disk", f"data.cache_dir={tmp_path / 'cache'}")
    steps = ("instance_recognition.steps=2", "local_aggregation.steps=2")
    once, first, later = (
        trained(tiny_corpus, tmp_path / name, *steps, *settings)
        for name, settings in (("once", ("data.cache=device",)), ("first", kept), ("later", kept))
    )
    assert_same_state(first, once)
    assert_same_state(later, once)
    on = trained(tiny_corpus, tmp_path / "once", "instance_recognition.steps=2", "local_aggregation.steps=3", *kept)
    assert on.step == 5
