"""Videos of evaluations."""

import logging

import av
import numpy as np
import pytest

from rl_encoders.agents.perception import States
from rl_encoders.replay.trajectory import Trajectory
from rl_encoders.rollout import Episode
from rl_encoders.training.films import frames, keep_films, read_films
from rl_encoders.training.loop import Training
from rl_encoders.training.storage import filled, read_offline
from tests.rl_encoders.training.runs import agent, config, same
from tests.rl_encoders.training.worlds import LENGTH, Line, random_walks
from vie.history import read_history


def shown(path):
    with av.open(str(path)) as container:
        rate = float(container.streams.video[0].average_rate)
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]), rate


def training(folder, **changes):
    learner, world = agent(), Line(pixels=True)
    walks = random_walks(4, pixels=True)
    settings = config(folder, **changes)
    offline = filled(
        read_offline(walks, world.space, learner.eyes, settings.data), learner.eyes, learner.device, settings.data
    )
    return Training(settings, learner, offline, [world], control_hz=5.0)


def walk(success=True, **parts):
    count = len(next(iter(parts.values()))) - 1
    trajectory = Trajectory("walk", parts, np.zeros((count, 1), np.float32), np.ones(count, np.float32), terminal=False)
    return Episode(trajectory, success, seed=7)


def test_every_evaluation_of_a_run_is_filmed(tmp_path):
    training(tmp_path, films=2, evaluate_every=20, online_steps=2 * LENGTH).train()
    films, rows = read_films(tmp_path), [row for row in read_history(tmp_path) if "return" in row]
    assert [(film.updates, film.environment_steps) for film in films[::2]] == [
        (row["step"], row["environment_steps"]) for row in rows
    ]
    assert [film.number for film in films] == [0, 1] * len(rows)
    # The same episodes begin alike at every evaluation.
    assert {film.seed for film in films[::2]} == {films[0].seed}
    for film in films:
        pictures, rate = shown(film.video(tmp_path))
        assert pictures.shape == (LENGTH + 1 + 5, 192, 192, 3)  # and the last one for a second
        assert np.abs(np.diff(pictures[-6:].astype(int), axis=0)).mean() < 1
        assert rate == 5.0
        assert (film.length, film.success) == (LENGTH, bool(film.success))
    first = Line(pixels=True).reset(seed=films[0].seed)[0]["pixels"].repeat(6, axis=0).repeat(6, axis=1)
    assert np.abs(shown(films[0].video(tmp_path))[0][0].astype(int) - first).mean() < 8


def test_films_change_nothing_that_is_learned(tmp_path):
    with_films = training(tmp_path / "with", films=3, evaluate_every=7, online_steps=LENGTH)
    without = training(tmp_path / "without", films=0, online_steps=LENGTH)
    with_films.train()
    without.train()
    same(with_films.agent, without.agent)
    assert not (tmp_path / "without/films").exists()


def test_without_pictures_there_is_no_film(tmp_path):
    settings, learner = config(tmp_path, offline_updates=4, online_steps=LENGTH), agent()
    stored = read_offline(random_walks(4), Line().space, States({"place": 1}), settings.data)
    Training(settings, learner, filled(stored, learner.eyes, learner.device, settings.data), [Line()]).train()
    assert not (tmp_path / "films").exists()
    assert read_films(tmp_path) == []


def test_a_film_that_cannot_be_written_ends_no_run(tmp_path, caplog):
    (tmp_path / "films").write_text("no folder")
    with caplog.at_level(logging.WARNING):
        found = training(tmp_path, offline_updates=4, online_steps=0).train()
    assert found["length"] == LENGTH
    assert "is left out" in caplog.text


def test_a_film_that_was_being_written_is_passed_over(tmp_path, caplog):
    pixels = np.zeros((4, 64, 64, 3), np.uint8)
    keep_films(tmp_path, [walk(pixels=pixels), walk(None, pixels=pixels)], 10.0, 3, 2)
    one, other = read_films(tmp_path)
    assert (one.success, other.success, one.result, one.seed) == (True, None, 3.0, 7)
    one.video(tmp_path).unlink()
    other.video(tmp_path).with_suffix(".json").write_text("{")
    with caplog.at_level(logging.WARNING):
        assert read_films(tmp_path) == []
    assert "is passed over" in caplog.text


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ([(64, 64)], (192, 192)),
        ([(112, 112)], (224, 224)),
        ([(300, 201)], (300, 202)),
        ([(64, 64), (64, 64)], (192, 384)),
        ([(64, 64), (32, 48)], (192, 336)),
    ],
)
def test_cameras_side_by_side_are_large_enough_to_be_seen(sizes, shape):
    chance = np.random.default_rng(0)
    parts = {f"camera {i}": chance.integers(0, 256, (2, *size, 3), np.uint8) for i, size in enumerate(sizes)}
    found = frames({"state": np.zeros((2, 3), np.float32), **parts})
    assert found.shape == (2, *shape, 3)
    step = shape[0] // sizes[0][0]
    for part in parts.values():
        height, width = part.shape[1:3]
        np.testing.assert_array_equal(found[:, : height * step : step, : width * step : step], part)
        found = found[:, :, width * step :]
