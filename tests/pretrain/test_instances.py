from typing import NamedTuple

import numpy as np
import pytest

from pretrain.data.clips import TrainClips
from pretrain.data.instances import Instances, temporal_bins, whole_videos
from pretrain.data.readers import Pixels, ShardReader
from pretrain.data.room import Room, fresh
from vie.video import Augmentation, Sampling, Shards
from vie.video.clips import count_starts

SINGLE = Sampling(frames=1, stride=1, fps=25.0, size=8)
CLIP = Sampling(frames=4, stride=2, fps=25.0, size=8)


class Lengths(NamedTuple):
    """What the instances need to know of a corpus."""

    num_frames: np.ndarray
    fps: np.ndarray


def videos_of(num_frames: list[int], fps: float = 25.0) -> Lengths:
    return Lengths(np.array(num_frames), np.full(len(num_frames), fps, dtype=np.float32))


def bins(lengths: Lengths, frames: int, sampling: Sampling = SINGLE) -> list[tuple[int, int, int]]:
    """(video, first, starts) of each instance."""
    cut = temporal_bins(lengths, np.arange(len(lengths.num_frames)), sampling, frames)
    return list(zip(cut.videos.tolist(), cut.first.tolist(), cut.starts.tolist(), strict=True))


def test_bins_are_laid_from_the_beginning_and_the_last_is_what_is_left():
    assert bins(videos_of([10, 12, 1, 13]), 4) == [
        *[(0, 0, 4), (0, 4, 4), (0, 8, 2)],
        *[(1, 0, 4), (1, 4, 4), (1, 8, 4)],
        (2, 0, 1),
        *[(3, 0, 4), (3, 4, 4), (3, 8, 4), (3, 12, 1)],
    ]


@pytest.mark.parametrize("sampling", [SINGLE, CLIP])
@pytest.mark.parametrize("frames", [1, 3, 7, 60])
def test_every_start_is_in_one_bin(sampling, frames):
    """At the sampling's rate; by a loop."""
    lengths = videos_of(list(range(1, 50)))
    wanted = [
        (video, first, min(frames, starts - first))
        for video, starts in enumerate(count_starts(sampling, *lengths).tolist())
        for first in range(0, starts, frames)
    ]
    assert bins(lengths, frames, sampling) == wanted


@pytest.mark.parametrize("rate", [5.0, 12.5, 20.0, 23.976, 29.97, 50.0, 60.0])
@pytest.mark.parametrize("frames", [1, 3, 7, 52])
def test_bins_last_equally_long_at_any_rate(rate, frames):
    lengths = videos_of(list(range(1, 200)), rate)
    cut = temporal_bins(lengths, np.arange(199), SINGLE, frames)
    assert (cut.starts >= 1).all()
    follows = np.flatnonzero(np.diff(cut.videos) == 0)
    np.testing.assert_array_equal(cut.first[follows + 1], (cut.first + cut.starts)[follows])
    np.testing.assert_array_equal(np.bincount(cut.videos, cut.starts), lengths.num_frames)
    assert np.abs(cut.starts[follows] - max(1.0, frames * np.float32(rate) / 25)).max() < 1


def test_ten_seconds_are_the_releases_number_of_bins_at_any_rate():
    """Most videos of Kinetics; the release calls these runs 5-bin and 2-bin, and has 4.83 and 1.97 in the mean."""
    for rate, count in ((25.0, 250), (25.0, 260), (30.0, 300), (29.97, 300), (15.0, 150)):
        assert len(bins(videos_of([count], rate), 52)) == 5
        assert len(bins(videos_of([count], rate), 130)) == 2
    own = Sampling(frames=1, stride=1, fps=None, size=8)
    assert len(bins(videos_of([300], 30.0), 52, own)) == 6


def test_a_million_videos_are_cut_at_once():
    count = 1_000_000
    cut = temporal_bins(videos_of([250] * count), np.arange(count), SINGLE, 52)
    assert len(cut) == 5 * count
    assert cut.starts.sum() == 250 * count


class Seen:
    """A reader that notes what it was asked for."""

    def __init__(self, shards: Shards) -> None:
        self.inner = ShardReader(shards)
        self.first: list[tuple[int, int]] = []

    def read(self, videos: np.ndarray, frames: np.ndarray, boxes: np.ndarray, room: Room = fresh) -> Pixels:
        self.first += zip(videos.tolist(), frames[:, 0].tolist(), strict=True)
        return self.inner.read(videos, frames, boxes, room)


def starts_seen(shards: Shards, instances: Instances, sampling: Sampling, epochs: int) -> dict[int, set[int]]:
    """The first frames of each instance's clips."""
    reader = Seen(shards)
    clips = TrainClips(
        shards, instances, reader, sampling, Augmentation(), batch_size=len(instances), seed=0, steps=epochs
    )
    seen: dict[int, set[int]] = {number: set() for number in range(len(instances))}
    for step in range(epochs):
        reader.first.clear()
        shown = clips[step].instances.tolist()
        assert sorted(shown) == list(range(len(instances)))
        for instance, (video, first) in zip(shown, reader.first, strict=True):
            assert video == instances.videos[instance]
            seen[instance].add(first)
    return seen


@pytest.mark.parametrize("sampling", [SINGLE, CLIP])
def test_clips_begin_everywhere_in_their_bin_and_nowhere_else(mixed_corpus, sampling):
    shards = Shards(mixed_corpus)
    videos = np.array([1, 4, 11])
    instances = temporal_bins(shards, videos, sampling, 4)
    assert len(instances) > len(videos)
    for instance, seen in starts_seen(shards, instances, sampling, 80).items():
        first, starts = instances.first[instance], instances.starts[instance]
        assert seen == set(range(first, first + starts))


def test_whole_videos_begin_at_every_start(mixed_corpus):
    shards = Shards(mixed_corpus)
    videos = np.array([1, 4, 11])
    counts = count_starts(CLIP, shards.num_frames[videos], shards.fps[videos])
    for instance, seen in starts_seen(shards, whole_videos(shards, videos), CLIP, 200).items():
        assert seen == set(range(counts[instance]))
