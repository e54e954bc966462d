import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from pretrain.data import prefetch, slots
from pretrain.data.clips import TrainBatch
from pretrain.data.late import LateClips
from pretrain.data.readers import Room, fresh
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
            assert made.holds(batch.frames) or fixture == "mixed_corpus"
            assert_equal(batch, clips[step])


def test_pixels_of_batches_that_are_decoded_late(tiny_corpus):
    clips = train_clips(tiny_corpus)
    late = LateClips(clips, 0.5)
    for step, batch in enumerate(Slots(late, range(8), 1).stream()):
        assert_equal(late.finish(batch, CPU), clips[step])


def test_what_does_not_fit_in_goes_the_usual_way(tiny_corpus, monkeypatch):
    monkeypatch.setattr(slots, "MARGIN", 0.5)
    clips = train_clips(tiny_corpus)
    made = Slots(clips, range(6), 1)
    for step, batch in enumerate(made.stream()):
        assert not made.holds(batch.frames)
        assert_equal(batch, clips[step])


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


class Deadly:
    """Clips whose worker dies once, with a slot half filled."""

    def __init__(self, folder: Path, corpus: Path) -> None:
        self.died, self.clips = folder / "died", train_clips(corpus)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, step: int) -> TrainBatch:
        return self.make(step)

    def show(self, step: int):
        return self.clips.show(step)

    def make(self, step: int, room: Room = fresh) -> TrainBatch:
        def filled(shape: tuple[int, ...]) -> Tensor:
            given = room(shape)
            if step == 7 and not self.died.exists():
                given.fill_(255)
                self.died.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return given

        return self.clips.make(step, filled)


def test_a_worker_that_dies_spoils_no_batch(tiny_corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(prefetch, "LOOK_EVERY", 0.5)
    clips = Deadly(tmp_path, tiny_corpus)
    for step, batch in enumerate(Slots(clips, range(20), 2).stream()):
        assert_equal(batch, clips.clips[step])
    assert clips.died.exists()


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
@pytest.mark.parametrize("workers", [0, 2])
def test_a_gpu_reads_them_where_they_are(workers, tiny_corpus):
    made = Slots(train_clips(tiny_corpus), range(6), workers)
    batches = made.stream()
    first = next(batches)
    assert not first.frames.is_pinned()
    with made.page_locked():
        assert first.frames.is_pinned()
    assert not first.frames.is_pinned()
