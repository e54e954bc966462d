import csv
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from pretrain.corpora import MOTIONS, video_files, write_moving_digits
from pretrain.corpora.moving_digits import draw_path
from pretrain.corpora.writing import CHUNK
from pretrain.preparation.inputs import list_videos
from vie.errors import VieError

FEW = 3 * CHUNK + 7


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_moving_digits(tmp_path_factory.mktemp("corpora") / "digits")


@pytest.fixture(scope="module")
def rows(corpus):
    with corpus.open(newline="") as file:
        return list(csv.DictReader(file))


THREADS = """
import sys, threading
from pretrain.corpora.writing import in_processes
import torch
assert list(in_processes("numbers", [1, 2, 3], lambda n: n * torch.get_num_threads(), 2)) == [1, 2, 3]
seen = [torch.get_num_threads()]
other = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
other.start()
other.join()
print(seen)
"""


def test_training_after_it_has_as_many_threads_as_before():
    """In a process of its own, as whatever has computed before keeps its number."""
    number = min(2, len(os.sched_getaffinity(0)))  # with one there is nothing to lose
    environment = {**os.environ, "OMP_NUM_THREADS": str(number)}
    done = subprocess.run([sys.executable, "-c", THREADS], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([number, number])


def decode(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]).astype(np.float32)


def test_every_digit_once_with_motions_spread_evenly(corpus, rows):
    assert len(rows) == 1797
    assert all((corpus.parent / row["path"]).stat().st_size > 0 for row in rows)
    assert Counter(int(row["digit"]) for row in rows) == dict(
        enumerate([178, 182, 177, 183, 181, 182, 181, 179, 174, 180])
    )
    per_cell = Counter((row["digit"], row["split"], row["motion"]) for row in rows)
    assert len(per_cell) == 10 * 2 * len(MOTIONS)
    for split in ("train", "val"):
        for digit in "0123456789":
            counts = [per_cell[digit, split, motion] for motion in MOTIONS]
            assert max(counts) - min(counts) <= 1
    assert Counter(row["split"] for row in rows)["val"] == pytest.approx(0.2 * 1797, abs=5)


def test_the_listing_is_a_source(corpus):
    videos = list_videos(corpus)
    assert set(videos[0].labels) == {"digit", "motion"}
    assert {video.split for video in videos} == {"train", "val"}


def test_files_are_plain_h264(corpus, rows):
    with av.open(str(corpus.parent / rows[0]["path"])) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height, stream.frames, stream.average_rate) == (40, 40, 16, 25)


def track(video):
    """Centre x, centre y, logarithm of the mass of ink and orientation in every frame, from the pixels."""
    ink = (video.mean(-1) - 40).clip(0)
    mass = ink.sum((1, 2))
    at = np.arange(ink.shape[1])
    x, y = (ink.sum(axis) @ at / mass for axis in (1, 2))
    dx, dy = at[None, None, :] - x[:, None, None], at[None, :, None] - y[:, None, None]
    angle = 0.5 * np.arctan2(2 * (ink * dx * dy).sum((1, 2)), (ink * (dx**2 - dy**2)).sum((1, 2)))
    return x, y, np.log(mass), np.unwrap(angle, period=np.pi)


def test_the_pixels_move_as_the_label_says(corpus, rows):
    for motion in MOTIONS:
        chosen = [row["path"] for row in rows if row["motion"] == motion][:12]
        tracks = np.stack([track(decode(corpus.parent / path)) for path in chosen])
        change = tracks[:, :, -1] - tracks[:, :, 0]
        spread = np.ptp(tracks, axis=2)
        x, y, size, _ = np.median(np.abs(change), axis=0)
        if motion == "slide":
            assert x > 4 > 1 > y
        elif motion in ("rise", "fall"):
            assert y > 4 > 1 > x
            assert np.all(np.sign(change[:, 1]) == (-1 if motion == "rise" else 1))
        elif motion in ("grow", "shrink"):
            assert size > 0.4
            assert np.all(np.sign(change[:, 2]) == (1 if motion == "grow" else -1))
        elif motion == "orbit":
            assert np.all(spread[:, :2] > 3)
        elif motion == "bounce":
            assert np.all(spread[:, 1] > 4)
            assert np.all(spread[:, 1] > 2 * spread[:, 0])
        else:
            assert np.median(spread[:, :2]) < 1.5
            assert np.median(np.abs(change[:, 3])) > np.radians(20)


def test_one_moment_does_not_tell_the_motion():
    """Each motion's positions, sizes and angles have the same means and spreads as everyone's."""
    rng = np.random.default_rng(0)
    moments = np.stack([[draw_path(m, 16, rng)[rng.integers(16)] for _ in range(2000)] for m in MOTIONS])
    spread = moments.std(axis=(0, 1))
    assert np.all(np.abs(moments.mean(axis=1)) < 0.1 * spread)
    assert np.all(np.abs(moments.std(axis=1) / spread - 1) < 0.25)


def test_the_background_is_the_same_in_every_video(corpus, rows):
    corners = np.stack([decode(corpus.parent / row["path"])[:, 0, [0, -1]].mean() for row in rows[::60]])
    assert np.std(corners) < 8


@pytest.fixture
def few(monkeypatch):
    """Fewer digits, where all would show no more."""
    images, digits = load_digits(return_X_y=True)
    monkeypatch.setattr("sklearn.datasets.load_digits", lambda **_: (images[:FEW], digits[:FEW]))


def test_same_seed_same_bytes_and_another_seed_another_plan(few, tmp_path):
    small = {"size": 16, "frames": 4, "seed": 1}
    listings = [write_moving_digits(tmp_path / str(workers), workers=workers, **small) for workers in (1, 3)]
    first, second = ({video.name: video.path.read_bytes() for video in list_videos(listing)} for listing in listings)
    assert len(first) == FEW
    assert first == second
    other = write_moving_digits(tmp_path / "other", **{**small, "seed": 0})
    assert listings[0].read_bytes() == listings[1].read_bytes() != other.read_bytes()


def test_several_videos_of_a_digit_stay_in_one_split(few, tmp_path):
    listing = write_moving_digits(tmp_path / "d", size=16, frames=2, videos_per_digit=2)
    videos = list_videos(listing)
    assert len(videos) == 2 * FEW
    by_image = {}
    for video in videos:
        by_image.setdefault(video.name.split("/")[1].split("_")[0], []).append(video)
    assert all(len({video.split for video in group}) == 1 for group in by_image.values())
    assert all(len({video.labels["motion"] for video in group}) == 2 for group in by_image.values())


def test_a_complete_corpus_is_kept_and_anything_else_is_refused(corpus, tmp_path):
    before = corpus.stat().st_mtime_ns
    assert write_moving_digits(corpus.parent) == corpus
    assert corpus.stat().st_mtime_ns == before
    with pytest.raises(VieError, match=r"'seed': 0.*'seed': 5"):
        write_moving_digits(corpus.parent, seed=5)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").touch()
    with pytest.raises(VieError, match="something other"):
        write_moving_digits(tmp_path / "mine")
    assert (tmp_path / "mine/thesis.txt").exists()
    for wrong in ({"size": 31}, {"seed": -1}, {"workers": 0}):
        with pytest.raises(VieError, match="out of range"):
            write_moving_digits(tmp_path / "odd", **wrong)
    assert not (tmp_path / "odd").exists()


def test_an_unwritable_place_is_an_error_of_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(VieError, match="cannot be written") as caught:
        write_moving_digits(tmp_path / "file/below/digits")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (OSError(28, "No space left on device"), "cannot be written (No space left on device): make room"),
        (VieError("this one is bad: mend it"), "this one is bad: mend it"),
    ],
)
def test_a_fault_half_way_is_told_as_it_is_and_leaves_nothing(fault, told, few, tmp_path, monkeypatch):
    written = video_files.write_mp4

    def failing(path: Path, *given: object, **named: object) -> None:
        if path.stem.endswith("_000030"):
            raise fault
        written(path, *given, **named)

    monkeypatch.setattr(video_files, "write_mp4", failing)
    for _ in range(3):
        with pytest.raises(VieError, match=re.escape(told)) as caught:
            write_moving_digits(tmp_path / "digits", size=16, frames=4, workers=3)
        assert "\n" not in str(caught.value)
        assert not list(tmp_path.iterdir())


def test_folders_beside_the_corpus_are_left_alone(few, tmp_path):
    (tmp_path / "d.partial").mkdir()
    (tmp_path / "d.partial/thesis.txt").touch()
    (tmp_path / "d").mkdir()
    write_moving_digits(tmp_path / "d", size=16, frames=2)
    assert (tmp_path / "d.partial/thesis.txt").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "d.partial"]
    assert (tmp_path / "d").stat().st_mode == (tmp_path / "d.partial").stat().st_mode


def test_rendering_is_smooth_below_a_pixel():
    from pretrain.corpora.moving_digits import render

    glyph = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0))
    steps = torch.zeros(1, 9, 4)
    steps[0, :, 0] = torch.linspace(0, 1 / 16, 9)  # one pixel of 32 in eight steps
    frames = render(glyph, steps, 32)[0].float()
    assert torch.allclose(frames[8][:, 1:], frames[0][:, :-1], atol=1.01)
    jumps = (frames[1:] - frames[:-1]).abs().mean((1, 2))
    assert jumps.min() > 0.5 * jumps.max()
