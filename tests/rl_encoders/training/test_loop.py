"""Whole runs: offline, online, evaluated."""

import pytest
import torch

from rl_encoders import load
from rl_encoders.agents.perception import Eyes
from tests.rl_encoders.training.runs import PIXELS, PlainTraining, Training, agent, config, same
from tests.rl_encoders.training.worlds import LENGTH, Line, random_walks
from vie.history import read_history


def test_it_learns_offline_and_then_by_itself(tmp_path):
    run = Training(config(tmp_path / "run", offline_updates=150, evaluate_every=50), agent(), random_walks(30), Line())
    before = run.evaluate()
    after = run.train()
    assert after["return"] > before["return"] + 1
    assert after["success"] > 0.5
    assert after["length"] == LENGTH
    rows = read_history(tmp_path / "run")
    assert [row["step"] for row in rows if "return" in row] == [50, 100, 150, 150 + 4 * LENGTH]
    assert {row["phase"] for row in rows if "phase" in row} == {"offline", "online"}
    assert len([row for row in rows if "episode_return" in row]) == 4
    assert len(list((tmp_path / "run/episodes").iterdir())) == 4


def test_evaluations_change_nothing(tmp_path):
    walks = random_walks(8)
    often = Training(config(tmp_path / "often", evaluate_every=7), agent(), walks, Line())
    rarely = Training(config(tmp_path / "rarely"), agent(), walks, Line())
    often.train()
    rarely.train()
    same(often.agent, rarely.agent)


def test_each_phase_has_its_own_evaluations(tmp_path):
    every = {"evaluate_every": 50, "evaluate_every_steps": 2 * LENGTH}
    settings = config(tmp_path / "run", offline_updates=100, online_steps=5 * LENGTH, **every)
    Training(settings, agent(), random_walks(8), Line()).train()
    rows = [row for row in read_history(tmp_path / "run") if "return" in row]
    assert [(row["step"], row["environment_steps"]) for row in rows] == [
        *((50, 0), (100, 0)),
        *((100 + steps, steps) for steps in (2 * LENGTH, 4 * LENGTH, 5 * LENGTH)),
    ]


@pytest.mark.parametrize("mode", ["frozen", "finetune"])
def test_through_pixels(mode, tmp_path, monkeypatch):
    eyes = Eyes(load(**PIXELS, mode=mode, project=8), control_hz=10)
    passes, encode = [], eyes.encoder.encode
    monkeypatch.setattr(eyes.encoder, "encode", lambda clips: passes.append(len(clips)) or encode(clips))
    learner = agent(eyes=eyes)
    walks = random_walks(4, pixels=True)
    run = Training(
        config(tmp_path, offline_updates=4, online_steps=LENGTH, evaluation_episodes=0),
        learner,
        walks,
        Line(pixels=True),
    )
    before = learner.eyes.encoder.fingerprint()
    run.train()
    learner.eyes.encoder.verify(learner.critic_optimizer)
    if mode == "frozen":
        assert sum(passes) <= (len(walks) + 1) * (LENGTH + 1)  # and fewer where the point stands still
        assert run.online.columns["pixels"].shape[1:] == eyes.encoder.kept_shape
    else:
        assert run.online.columns["pixels"].dtype == torch.uint8
    assert (learner.eyes.encoder.fingerprint() == before) == (mode == "frozen")


def test_own_data_alone(tmp_path):
    run = Training(config(tmp_path, offline_updates=0), agent(), None, Line())
    run.train()
    assert run.updates == 4 * LENGTH


def test_offline_data_alone(tmp_path):
    run = Training(config(tmp_path, online_steps=0), agent(), random_walks(4))
    assert run.train() == {}
    assert run.updates == 40


def test_episodes_are_those_of_their_seeds(tmp_path):
    one, two, other = Line(), Line(), Line()
    Training(config(tmp_path / "1", offline_updates=2), agent(), random_walks(4), one).train()
    Training(config(tmp_path / "2", offline_updates=2), agent(), random_walks(4), two).train()
    Training(config(tmp_path / "3", offline_updates=2, seed=1), agent(), random_walks(4), other).train()
    assert one.resets == two.resets
    assert not {*one.resets} & {*other.resets}
    assert len({*one.resets}) == 4 + 3


def test_evaluations_in_several_environments_are_those_in_one(tmp_path):
    learner = agent()
    one = PlainTraining(config(tmp_path / "one", offline_updates=0, evaluation_episodes=5), learner, None, [Line()])
    worlds = [Line(), Line(), Line()]
    three = PlainTraining(config(tmp_path / "three", offline_updates=0, evaluation_episodes=5), learner, None, worlds)
    assert one.evaluate() == pytest.approx(three.evaluate(), rel=1e-5)
    assert [len(world.resets) for world in worlds] == [2, 2, 1]
    assert sorted(seed for world in worlds for seed in world.resets) == sorted(one.worlds[0].resets)


def test_a_policy_that_imitates_is_evaluated_before_its_critics_learn(tmp_path):
    run = Training(config(tmp_path, imitation_updates=6), agent("pa-rl"), random_walks(8), Line())
    run.train()
    rows = [(row["step"], row["environment_steps"]) for row in read_history(tmp_path) if "return" in row]
    assert rows == [(0, 0), (40, 0), (40 + 4 * LENGTH, 4 * LENGTH)]
