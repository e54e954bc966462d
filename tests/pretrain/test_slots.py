import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pretrain.config import DataConfig
from pretrain.data import prefetch, slots
from pretrain.data.clips import TrainBatch, TrainClips
from pretrain.data.feed import _beside_the_steps, feed
from pretrain.data.late import LateClips
from pretrain.data.room import Room, fresh
from pretrain.data.slots import Slots
from tests.conftest import NEEDS_GPU
from tests.pretrain.test_clips import CPU, assert_equal, damaged, train_clips
from vie import VieError


@pytest.mark.parametrize("fixture", ["tiny_corpus", "mixed_corpus"])
def test_batches_are_those_of_the_clips(fixture, request):
    """Through more steps than there are slots, from any of them; pictures of many sizes do not always fit in."""
    clips = train_clips(request.getfixturevalue(fixture), views=2)
    for workers, first in ((0, 0), (1, 3), (2, 0)):
        steps = range(first, 20)
        made = Slots(clips, steps, workers)
        for step, batch in zip(steps, made.stream(), strict=True):
            assert made.holds(batch.frames, step) or fixture == "mixed_corpus"
            assert_equal(batch, clips[step])


def test_pixels_of_batches_that_are_decoded_late(tiny_corpus):
    clips = train_clips(tiny_corpus)
    late = LateClips(clips, 0.5)
    for step, batch in enumerate(Slots(late, range(8), 1).stream()):
        assert_equal(late.finish(batch, CPU), clips[step])
    assert late.frame_bytes(0) <= clips.frame_bytes(0) / 2
    assert LateClips(clips, 1.0).frame_bytes(0) == 0
    assert next(Slots(LateClips(clips, 1.0), range(2), 1).stream()).frames.numel() == 0


def test_what_does_not_fit_in_goes_the_usual_way_which_is_said_once(tiny_corpus, monkeypatch, caplog):
    monkeypatch.setattr(slots, "MARGIN", 0.5)
    clips = train_clips(tiny_corpus)
    made = Slots(clips, range(6), 1)
    for step, batch in enumerate(made.stream()):
        assert not made.holds(batch.frames, step)
        assert_equal(batch, clips[step])
    (said,) = caplog.messages
    assert "larger pictures than step 0 has" in said


def test_too_little_memory_is_told(tiny_corpus, monkeypatch):
    monkeypatch.setattr(slots, "MARGIN", 2.0**38)
    with pytest.raises(
        VieError, match=r"no room for the batches of 3 workers, .* GiB: set data.workers or data.batch_size"
    ):
        Slots(train_clips(tiny_corpus), range(6), 3)


def test_clips_that_cannot_be_read(tiny_corpus, tmp_path):
    clips = train_clips(damaged(tiny_corpus, tmp_path / "corpus", 5, 30), views=2)
    for step, batch in enumerate(Slots(clips, range(6), 1).stream()):
        assert_equal(batch, clips[step])
    nothing = train_clips(damaged(tiny_corpus, tmp_path / "none", *range(48)))
    assert all(batch.is_empty for batch in Slots(nothing, range(3), 1).stream())


class Deadly(TrainClips):
    """Clips whose worker dies once, with a slot half filled."""

    died: Path

    def make(self, step: int, room: Room = fresh) -> TrainBatch:
        def filled(shape: tuple[int, ...]) -> Tensor:
            given = room(shape)
            if step == 7 and not self.died.exists():
                given.fill_(255)
                self.died.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return given

        return super().make(step, filled)


@pytest.fixture
def deadly(tiny_corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(prefetch, "LOOK_EVERY", 0.5)
    clips = train_clips(tiny_corpus)
    clips.__class__, clips.died = Deadly, tmp_path / "died"
    return clips


def test_a_worker_that_dies_spoils_no_batch(deadly, tiny_corpus):
    clips = train_clips(tiny_corpus)
    for step, batch in enumerate(Slots(deadly, range(20), 2).stream()):
        assert_equal(batch, clips[step])
    assert deadly.died.exists()


def test_no_worker_is_further_ahead_than_there_are_slots(tiny_corpus):
    """The frames of the last two batches stay as they are while all workers do what they can."""
    clips = train_clips(tiny_corpus)
    batches = Slots(clips, range(20), 2).stream()
    before: list[tuple[TrainBatch, np.ndarray]] = []
    for batch in batches:
        before = [*before[-1:], (batch, batch.frames.numpy().copy())]
        time.sleep(0.02)
        for kept, frames in before:
            np.testing.assert_array_equal(kept.frames.numpy(), frames)


@NEEDS_GPU
class TestOnTheGpu:
    @pytest.mark.parametrize("workers", [0, 2])
    def test_it_reads_them_where_they_are(self, workers, tiny_corpus):
        made = Slots(train_clips(tiny_corpus), range(6), workers)
        batches = made.stream()
        first = next(batches)
        assert not first.frames.is_pinned()
        with made.page_locked():
            assert first.frames.is_pinned()
        assert not first.frames.is_pinned()

    def test_memory_that_is_not_locked_is_slower_and_no_fault(self, tiny_corpus, caplog):
        made = Slots(train_clips(tiny_corpus), range(6), 0)
        with made.page_locked(), made.page_locked():  # it is locked already
            assert int((torch.ones(2, device="cuda") + 1).sum()) == 4
        assert "cannot be locked: copies to the GPU are slower" in caplog.text

    def test_nothing_is_filled_again_before_it_is_copied(self, tiny_corpus):
        """Copies that are late by more than all workers take to come round to their slot."""
        clips, device = train_clips(tiny_corpus, steps=60), torch.device("cuda")

        def late(batch: TrainBatch) -> TrainBatch:
            torch.cuda._sleep(40_000_000)
            return batch.to(device)

        batches = _beside_the_steps(Slots(clips, range(60), 2), late, device)
        sums = [int(batch.frames.sum()) for batch in batches]
        assert sums == [int(clips[step].frames.sum()) for step in range(60)]

    def test_workers_that_are_forked_while_memory_is_locked(self, deadly, tiny_corpus):
        clips = train_clips(tiny_corpus)
        batches = feed(deadly, range(20), DataConfig(workers=2), torch.device("cuda"))
        sums = [int(batch.frames.sum()) for batch in batches]
        assert sums == [int(clips[step].frames.sum()) for step in range(20)]
        assert deadly.died.exists()
