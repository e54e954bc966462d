"""Runs that are stopped or killed, and gone on with."""

import os
import signal
from pathlib import Path

import pytest
import torch

from rl_encoders import load
from rl_encoders.agents.action_optimiser import Improvement
from rl_encoders.agents.base_policy import GaussianHead, SeeingPolicy
from rl_encoders.agents.parl import PARL, PARLConfig
from rl_encoders.agents.perception import Eyes
from tests.rl_encoders.training.runs import PIXELS, SMALL, Training, agent, config, same
from tests.rl_encoders.training.worlds import LENGTH, Line, random_walks
from vie import VieError
from vie.history import read_history


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole run of Cal-QL; do not write into its folder."""
    return trained("cal-ql", tmp_path_factory.mktemp("whole"))


def trained(kind, folder):
    whole = Training(config(folder), agent(kind), random_walks(8), Line())
    whole.train()
    return whole


@pytest.mark.parametrize("kind", ["cal-ql", "iql", "pa-rl"])
def test_stopped_anywhere_it_goes_on_exactly(kind, finished, tmp_path):
    walks = random_walks(8)
    whole = finished if kind == "cal-ql" else trained(kind, tmp_path / "whole")
    for stop in (
        {"offline_updates": 23, "online_steps": 0},
        {"online_steps": LENGTH},
        {"online_steps": 3 * LENGTH},
        {},
    ):
        part = Training(config(tmp_path / "parts", **stop), agent(kind), walks, Line())
        part.train()
    assert (part.updates, part.steps, part.episodes) == (whole.updates, whole.steps, whole.episodes)
    assert whole.updates == 40 + 4 * LENGTH
    same(whole.agent, part.agent)
    for number in range(4):
        paths = [Path(run.config.run) / f"episodes/{number:06d}.safetensors" for run in (whole, part)]
        assert paths[0].read_bytes() == paths[1].read_bytes()


def test_killed_between_checkpoints_it_goes_on_from_the_last(finished, tmp_path, monkeypatch):
    walks = random_walks(8)
    killed = Training(config(tmp_path / "killed"), agent(), walks, Line())
    update, count = killed.agent.update, []

    def die(batch):
        count.append(1)
        if len(count) == 40 + 2 * LENGTH + 5:
            raise KeyboardInterrupt
        return update(batch)

    monkeypatch.setattr(killed.agent, "update", die)
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    again = Training(config(tmp_path / "killed"), agent(), walks, Line())
    assert again.episodes == 3
    again.train()
    same(finished.agent, again.agent)


def test_what_was_collected_after_the_last_checkpoint_is_not_collected_again(tmp_path, monkeypatch):
    walks, rare = random_walks(8), {"checkpoint_every": 1000, "evaluate_every": LENGTH}
    whole = Training(config(tmp_path / "whole", **rare), agent(), walks, Line())
    whole.train()
    killed = Training(config(tmp_path / "killed", **rare), agent(), walks, Line())
    update = killed.agent.update

    def die(batch):
        if killed.updates == 40 + 2 * LENGTH + 5:
            raise KeyboardInterrupt
        return update(batch)

    monkeypatch.setattr(killed.agent, "update", die)
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    kept = {path.name: path.read_bytes() for path in (tmp_path / "killed/episodes").iterdir()}
    assert len(kept) == 3
    world = Line()
    again = Training(config(tmp_path / "killed", evaluation_episodes=0, **rare), agent(), walks, world)
    assert (again.updates, again.episodes) == (0, 0)
    again.train()
    same(whole.agent, again.agent)
    assert len(world.resets) == 1
    for name, content in kept.items():
        assert (tmp_path / "killed/episodes" / name).read_bytes() == content
    gained = [row["episode_return"] for row in read_history(tmp_path / "killed") if "episode_return" in row]
    assert gained == pytest.approx(
        [row["episode_return"] for row in read_history(tmp_path / "whole") if "episode_return" in row], rel=1e-5
    )


@pytest.mark.parametrize("kind", ["cal-ql", "pa-rl"])
def test_a_schedule_is_followed_and_gone_on_with(kind, tmp_path):
    def through_pixels():
        torch.manual_seed(0)
        made = {**PIXELS, "mode": "partial", "train_from": {0: "none", 6: "conv5", 10: "all"}, "project": 8}
        eyes = Eyes(load(**made), control_hz=10)
        if kind == "cal-ql":
            return agent(eyes=eyes)
        config = PARLConfig(**SMALL, critics=3, candidates=6, action_samples=4, improvement=Improvement(3, 2, 0.05))
        own = Eyes(load(**made), control_hz=10)
        policy = SeeingPolicy(own, GaussianHead(own.dim, 1, (32,)), lr=2e-3)
        learner = PARL(eyes, 1, config, policy)
        learner.make_optimizers()
        return learner

    def run(name, updates):
        given = {"imitation_updates": 2, "online_steps": 0, "evaluation_episodes": 0, "offline_updates": updates}
        return Training(config(tmp_path / name, **given), through_pixels(), random_walks(2, pixels=True))

    whole = run("whole", 14)
    seen = []
    update = whole.agent.update
    whole.agent.update = lambda batch: (
        seen.append([eyes.encoder.trunk.first_trained for eyes, _ in whole.agent.seers()]) or update(batch)
    )
    whole.train()
    stages = len(whole.agent.eyes.encoder.trunk.stages)
    first = [each[0] for each in seen]
    assert first[:6] == [stages] * 6
    assert all(0 < one < stages for one in first[6:10])
    assert first[10:] == [0] * 4
    assert all(len(set(each)) == 1 for each in seen)
    for updates in (3, 8, 12, 14):
        part = run("parts", updates)
        part.train()
    same(whole.agent, part.agent)


def test_a_damaged_checkpoint_is_refused(tmp_path):
    Training(config(tmp_path, offline_updates=4, online_steps=0), agent(), random_walks(3)).train()
    for path in (tmp_path / "checkpoint").glob("state-*"):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(VieError, match=r"checkpoint in .* cannot be read .*: delete the folder to begin anew"):
        Training(config(tmp_path, offline_updates=8, online_steps=0), agent(), random_walks(3))


def test_a_signal_in_an_episode_or_an_evaluation_stops_at_once(finished, tmp_path):
    class Slow(Line):
        def __init__(self, at):
            super().__init__()
            self.at_step, self.taken = at, 0

        def step(self, action):
            self.taken += 1
            if self.taken == self.at_step:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().step(action)

    for steps in (5, 3 * LENGTH + 5):  # in the evaluation of three episodes, in the first episode
        world = Slow(steps)
        stopped = Training(config(tmp_path / str(steps)), agent(), random_walks(8), world)
        with pytest.raises(VieError, match="stopped at step 40 by SIGTERM; the same command goes on"):
            stopped.train()
        assert world.taken == steps
        assert not (tmp_path / str(steps) / "episodes").exists()
        again = Training(config(tmp_path / str(steps)), agent(), random_walks(8), Line())
        assert again.updates == 40
        again.train()
        same(finished.agent, again.agent)


def test_it_ends_where_it_has_acted_and_is_to_act_no_more(tmp_path):
    Training(config(tmp_path), agent(), random_walks(8), Line()).train()
    again = Training(config(tmp_path, online_steps=0), agent(), random_walks(8), Line())
    assert (again.episodes, len(again.online)) == (4, 4 * LENGTH)
    again.train()


def test_a_signal_stops_after_the_update(finished, tmp_path, monkeypatch):
    run = Training(config(tmp_path / "run"), agent(), random_walks(8), Line())
    update = run.agent.update

    def ask(batch):
        if run.updates == 20:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(batch)

    monkeypatch.setattr(run.agent, "update", ask)
    with pytest.raises(VieError, match=r"stopped at step 2. by SIGTERM; the same command goes on"):
        run.train()
    again = Training(config(tmp_path / "run"), agent(), random_walks(8), Line())
    assert again.updates in (21, 22)
    again.train()
    same(finished.agent, again.agent)
