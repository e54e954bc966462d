import numpy as np
import pytest

from vie.video import Sampling, clip_frames, even_positions
from vie.video.clips import count_starts


def frames(sampling: Sampling, num_frames: int, fps: float, position: float) -> list[int]:
    arrays = np.array([num_frames]), np.array([fps], dtype=np.float32), np.array([position])
    return clip_frames(sampling, *arrays)[0].tolist()


def starts(sampling: Sampling, num_frames: int, fps: float = 25.0, positions: int = 6000) -> np.ndarray:
    position = (np.arange(positions) + 0.5) / positions
    clips = clip_frames(sampling, np.full(positions, num_frames), np.full(positions, fps, np.float32), position)
    return clips[:, 0]


def test_frames_of_a_clip():
    sampling = Sampling(frames=4, stride=3, fps=25.0, size=8)
    assert frames(sampling, 20, 25.0, 0.0) == [0, 3, 6, 9]
    assert frames(sampling, 20, 25.0, 1 - 2**-53) == [10, 13, 16, 19]
    assert frames(sampling, 20, 25.0, 0.5) == [5, 8, 11, 14]
    assert frames(sampling, 10, 25.0, 0.999) == [0, 3, 6, 9]


def test_rate_of_the_video_sets_the_step():
    sampling = Sampling(frames=4, stride=2, fps=25.0, size=8)
    assert frames(sampling, 100, 25.0, 0) == [0, 2, 4, 6]
    assert frames(sampling, 100, 50.0, 0) == [0, 4, 8, 12]
    assert frames(sampling, 100, 12.5, 0) == [0, 1, 2, 3]
    assert frames(sampling, 100, 6.25, 0) == [0, 0, 1, 1]
    assert frames(sampling, 100, 30.0, 0) == [0, 2, 4, 7]  # 0, 2.4, 4.8 and 7.2
    own = Sampling(frames=4, stride=2, fps=None, size=8)
    assert frames(own, 100, 50.0, 0) == frames(own, 100, 7.0, 0) == [0, 2, 4, 6]


def test_short_videos_loop():
    sampling = Sampling(frames=6, stride=2, fps=25.0, size=8)
    assert frames(sampling, 5, 25.0, 0.0) == [0, 2, 4, 1, 3, 0]
    assert frames(sampling, 5, 25.0, 0.999) == [4, 1, 3, 0, 2, 4]
    assert frames(sampling, 1, 25.0, 0.7) == [0] * 6
    assert frames(sampling, 10, 25.0, 0.0) == [0, 2, 4, 6, 8, 0]
    assert frames(sampling, 11, 25.0, 0.99) == [0, 2, 4, 6, 8, 10]


@pytest.mark.parametrize(("num_frames", "wanted"), [(60, 45), (20, 5), (16, 1), (15, 15), (7, 7)])
def test_starts_are_uniform(num_frames, wanted):
    sampling = Sampling(frames=16, stride=1, fps=25.0, size=8)
    values, counts = np.unique(starts(sampling, num_frames), return_counts=True)
    np.testing.assert_array_equal(values, np.arange(wanted))
    assert counts.max() - counts.min() <= 1


def test_starts_are_uniform_at_another_rate():
    sampling = Sampling(frames=5, stride=2, fps=25.0, size=8)
    values, counts = np.unique(starts(sampling, 30, fps=50.0), return_counts=True)
    np.testing.assert_array_equal(values, np.arange(30 - 16))
    assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize(
    "sampling", [Sampling(16, 1, 25.0, 8), Sampling(4, 16, 25.0, 8), Sampling(1, 1, 25.0, 8), Sampling(8, 3, None, 8)]
)
def test_any_clip_stays_in_its_video(sampling):
    rng = np.random.default_rng(0)
    count = 3000
    num_frames = rng.integers(1, 90, count)
    fps = rng.choice(np.array([5, 12.5, 23.976, 25, 29.97, 60], dtype=np.float32), count)
    position = rng.choice(np.array([0, 0.5, 1 - 2**-53, *rng.random(30)]), count)
    clips = clip_frames(sampling, num_frames, fps, position)
    assert clips.shape == (count, sampling.frames)
    assert clips.dtype == np.int64
    assert (clips >= 0).all()
    assert (clips < num_frames[:, None]).all()
    # Each frame lies within one of where the rate puts it, counted around the end of the video.
    step = sampling.stride * (fps.astype(float) / sampling.fps if sampling.fps else np.ones(count))
    offset = clips - clips[:, :1]
    exact = np.arange(sampling.frames) * step[:, None]
    np.testing.assert_array_equal(offset % num_frames[:, None], np.floor(exact).astype(int) % num_frames[:, None])
    long = exact[:, -1] <= num_frames - 1
    assert long.any()
    assert (np.diff(clips[long], axis=1) >= 0).all()  # a video that is long enough never loops


def test_clips_do_not_depend_on_their_batch():
    rng = np.random.default_rng(1)
    num_frames, fps = rng.integers(1, 50, 20), rng.choice(np.array([10, 25, 50], dtype=np.float32), 20)
    position = rng.random(20)
    sampling = Sampling(8, 2, 25.0, 8)
    together = clip_frames(sampling, num_frames, fps, position)
    for number in range(20):
        alone = clip_frames(sampling, *(values[number : number + 1] for values in (num_frames, fps, position)))
        np.testing.assert_array_equal(alone[0], together[number])


@pytest.mark.parametrize("binned", [False, True])
@pytest.mark.parametrize("fps", [12.5, 25.0, 29.97, 60.0])
def test_counted_starts_are_those_that_clips_have(binned, fps):
    sampling = Sampling(frames=4, stride=3, fps=25.0, size=8, binned=binned)
    for num_frames in range(1, 60):
        count = count_starts(sampling, np.array([num_frames]), np.array([fps], np.float32))[0]
        position = (np.arange(400) + 0.5) / 400
        arrays = np.full(400, num_frames), np.full(400, fps, np.float32), position
        first = clip_frames(sampling, *arrays, in_bin=0.0)[:, 0]
        np.testing.assert_array_equal(np.unique(first), np.arange(count))


def test_starts_within_a_stretch():
    """Uniform over the stretch; of what lies beyond the last start, as much as there is, or the last start itself."""
    sampling = Sampling(frames=4, stride=3, fps=25.0, size=8)  # the starts of 30 frames are 0 to 20
    stretches = {(0, 1): [0], (5, 4): [5, 6, 7, 8], (17, 9): [17, 18, 19, 20], (20, 3): [20], (25, 5): [20]}
    position = (np.arange(100) + 0.5) / 100
    arrays = np.full(100, 30), np.full(100, 25, np.float32), position
    for (first, starts), wanted in stretches.items():
        clips = clip_frames(sampling, *arrays, within=(np.full(100, first), np.full(100, starts)))
        values, counts = np.unique(clips[:, 0], return_counts=True)
        assert values.tolist() == wanted
        assert (counts == 100 / len(wanted)).all()
    whole = clip_frames(sampling, *arrays, within=(np.zeros(100, np.int64), np.full(100, 30)))
    np.testing.assert_array_equal(whole, clip_frames(sampling, *arrays))


def test_even_positions():
    np.testing.assert_allclose(even_positions(1), [0.5])
    np.testing.assert_allclose(even_positions(4), [0.125, 0.375, 0.625, 0.875])
    assert frames(Sampling(1, 1, 25.0, 8), 11, 25.0, even_positions(1)[0]) == [5]


class TestBins:
    SAMPLING = Sampling(frames=4, stride=12, fps=25.0, size=8, binned=True)

    def drawn(self, num_frames: int, fps: float = 25.0, clips: int = 4000) -> np.ndarray:
        rng = np.random.default_rng(0)
        return clip_frames(
            self.SAMPLING,
            np.full(clips, num_frames),
            np.full(clips, fps, np.float32),
            rng.random(clips),
            rng.random((clips, 4)),
        )

    def test_the_middle_without_a_draw(self):
        assert frames(self.SAMPLING, 100, 25.0, 0.0) == [6, 18, 30, 42]
        assert frames(self.SAMPLING, 100, 25.0, 0.9999) == [58, 70, 82, 94]

    def test_every_frame_comes_from_its_own_bin(self):
        """Four consecutive bins of 12 frames; the first begins anywhere that leaves room for them."""
        found = self.drawn(49)
        assert found.min() == 0
        assert found.max() == 48
        assert (np.diff(found, axis=1) > 0).all()
        assert np.diff(found, axis=1).max() == 23
        whole = self.drawn(48)
        for number in range(4):
            assert sorted(set(whole[:, number])) == list(range(12 * number, 12 * number + 12))

    def test_bins_shrink_in_short_videos(self):
        found = self.drawn(20)
        for number in range(4):
            assert sorted(set(found[:, number])) == list(range(5 * number, 5 * number + 5))
        assert self.drawn(3).max() == 2
        assert (self.drawn(1) == 0).all()

    @pytest.mark.parametrize("num_frames", range(1, 60))
    def test_frames_are_inside_the_video(self, num_frames):
        for fps in (10.0, 25.0, 29.97, 60.0):
            found = self.drawn(num_frames, fps, clips=200)
            assert found.min() >= 0
            assert found.max() < num_frames
            assert (np.diff(found, axis=1) >= 0).all()

    def test_the_rate_of_the_video_sets_the_bins(self):
        found = self.drawn(96, fps=50.0)
        for number in range(4):
            assert sorted(set(found[:, number])) == list(range(24 * number, 24 * number + 24))
