import itertools
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from pretrain.config import DataConfig
from pretrain.data.feed import feed, in_thread
from pretrain.data.late import LateClips, decode_files
from pretrain.data.prefetch import stream
from pretrain.data.readers import DeviceReader
from tests.conftest import NEEDS_GPU
from tests.pretrain.test_clips import CPU, assert_equal, damaged, train_clips
from tests.pretrain.test_train import assert_same_state, trained
from vie import VieError
from vie.video import augment

SHARES = (0.3, 0.5, 1.0)


class TestLateDecoding:
    @pytest.mark.parametrize("share", SHARES)
    @pytest.mark.parametrize("views", [1, 2])
    @pytest.mark.parametrize("fixture", ["tiny_corpus", "mixed_corpus"])
    def test_batches_are_those_of_the_workers(self, fixture, views, share, request):
        """Bit for bit, also where short videos loop and pictures have many sizes."""
        clips = train_clips(request.getfixturevalue(fixture), views=views)
        late = LateClips(clips, share)
        for step in range(8):
            assert_equal(late.finish(late[step], CPU), clips[step])

    @pytest.mark.parametrize("share", SHARES)
    def test_damaged_videos_are_left_out_and_named(self, share, tiny_corpus, tmp_path):
        clips = train_clips(damaged(tiny_corpus, tmp_path / "corpus", 5, 30), views=2)
        late = LateClips(clips, share)
        for step in range(6):
            batch, expected = late.finish(late[step], CPU), clips[step]
            assert batch.failures.keys() == expected.failures.keys()
            assert all("cannot be" in reason and "\n" not in reason for reason in batch.failures.values())
            np.testing.assert_array_equal(batch.instances, expected.instances)
            assert torch.equal(batch.frames, expected.frames)

    def test_a_missing_shard(self, tiny_corpus, tmp_path):
        folder = shutil.copytree(tiny_corpus, tmp_path / "corpus")
        (folder / "shard-000000.tar").unlink()
        clips = train_clips(folder)
        late = LateClips(clips, 0.5)
        for step in range(6):
            batch, expected = late.finish(late[step], CPU), clips[step]
            assert_equal(batch, expected)
            assert len(batch.failures) + len(batch.instances) == 8

    def test_pictures_of_another_size_than_the_index_says(self, tiny_corpus):
        clips = train_clips(tiny_corpus)
        clips.shards.height = clips.shards.height.copy()
        clips.shards.height[clips[0].instances[:3]] += 1
        late = LateClips(clips, 1.0)
        batch = late.finish(late[0], CPU)
        assert len(batch.failures) == 3
        assert all("not (25, 28) as the index says" in reason for reason in batch.failures.values())

    def test_nothing_can_be_decoded(self, tiny_corpus, tmp_path):
        late = LateClips(train_clips(damaged(tiny_corpus, tmp_path / "corpus", *range(48))), 1.0)
        batch = late.finish(late[0], CPU)
        assert batch.is_empty
        assert len(batch.failures) == 8

    def test_batches_come_through_workers(self, mixed_corpus):
        clips = train_clips(mixed_corpus)
        late = LateClips(clips, 0.5)
        for step, batch in enumerate(stream(late, range(4), workers=2)):
            assert_equal(late.finish(batch, CPU), clips[step])


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("workers", [0, 2])
def test_feeding(workers, share, tiny_corpus):
    clips = train_clips(tiny_corpus)
    fed = feed(clips, range(3, 9), DataConfig(workers=workers, device_decode=share), CPU)
    for step, batch in zip(range(3, 9), fed, strict=True):
        assert_equal(batch, clips[step])


def test_a_corpus_on_the_device_is_decoded_already(tiny_corpus):
    clips = train_clips(tiny_corpus, DeviceReader)
    assert_equal(next(feed(clips, range(3), DataConfig(device_decode=1.0), CPU)), clips[0])


def test_a_run_with_late_decoding_learns_the_same(tiny_corpus, tmp_path):
    one = trained(tiny_corpus, tmp_path / "one")
    other = trained(tiny_corpus, tmp_path / "other", "data.device_decode=0.5", "data.workers=2")
    assert_same_state(one, other)


class TestInThread:
    def test_order(self):
        assert list(in_thread((number**2 for number in range(50)), 2)) == [number**2 for number in range(50)]

    def test_only_so_many_are_taken_ahead(self):
        taken: list[int] = []
        third = threading.Event()

        def items():
            for number in range(10):
                taken.append(number)
                if number == 3:
                    third.set()
                yield number

        ready = in_thread(items(), 2)
        assert next(ready) == 0
        assert third.wait(10)
        assert taken == [0, 1, 2, 3]  # one is used, two wait, one finds no room
        ready.close()

    def test_what_items_raise_is_raised_in_its_place(self):
        def items():
            yield 1
            raise VieError("no more")

        ready = in_thread(items(), 2)
        assert next(ready) == 1
        with pytest.raises(VieError, match="no more"):
            next(ready)

    def test_leaving_early_ends_the_thread_and_closes_the_items(self):
        closed: list[str] = []

        def items():
            try:
                yield from itertools.count()
            finally:
                closed.append(threading.current_thread().name)

        ready = in_thread(items(), 2)
        assert next(ready) == 0
        ready.close()
        assert closed == ["feed"]
        assert "feed" not in {thread.name for thread in threading.enumerate()}


@NEEDS_GPU
class TestOnTheGpu:
    def test_batches_arrive_whole(self, tiny_corpus):
        """Many more of them than wait at once, each used by work that is still queued when the next is copied."""
        clips, device = train_clips(tiny_corpus, steps=60), torch.device("cuda")
        sums = []
        for batch in feed(clips, range(60), DataConfig(workers=2), device):
            torch.cuda._sleep(5_000_000)
            sums.append(batch.frames.sum())
        assert [int(total) for total in sums] == [int(clips[step].frames.sum()) for step in range(60)]

    @pytest.mark.parametrize("fixture", ["tiny_corpus", "mixed_corpus"])
    def test_decoded_there_the_pictures_look_the_same(self, fixture, request):
        clips, device = train_clips(request.getfixturevalue(fixture)), torch.device("cuda")
        for step, batch in zip(range(4), feed(clips, range(4), DataConfig(device_decode=0.5), device), strict=True):
            expected = clips[step]
            np.testing.assert_array_equal(batch.instances, expected.instances)
            found, wanted = (augment(b.frames.cpu(), b.drawn, 16, b.boxes) for b in (batch, expected))
            assert (found - wanted).abs().mean() < 0.1

    def test_a_damaged_file_is_named(self, tiny_corpus, tmp_path):
        clips = train_clips(damaged(tiny_corpus, tmp_path / "corpus", 5, 30))
        batches = feed(clips, range(6), DataConfig(device_decode=1.0), torch.device("cuda"))
        assert sorted(instance for batch in batches for instance in batch.failures) == [5, 30]


def test_one_picture(tiny_corpus: Path, device: torch.device):
    clips = train_clips(tiny_corpus)
    files = clips.shards.jpegs(0, np.array([0, 4]))
    found = decode_files(files, device)
    wanted = clips.shards.read(0, [0, 4]).permute(0, 3, 1, 2)
    assert (torch.stack(found).cpu().int() - wanted.int()).abs().float().mean() < 2
