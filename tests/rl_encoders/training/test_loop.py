"""Whole runs: offline, online, stopped and continued."""

import json
import os
import signal

import numpy as np
import pytest
import torch

from rl_encoders import load
from rl_encoders.agents.action_optimiser import Improvement
from rl_encoders.agents.base_policy import GaussianHead, SeeingPolicy
from rl_encoders.agents.calql import CalQL, CalQLConfig
from rl_encoders.agents.iql import IQL, IQLConfig
from rl_encoders.agents.parl import PARL, PARLConfig
from rl_encoders.agents.perception import Eyes, States
from rl_encoders.training.config import DataConfig, RunConfig
from rl_encoders.training.loop import Training as PlainTraining
from rl_encoders.training.storage import filled, read_offline
from tests.rl_encoders.training.worlds import LENGTH, Line, random_walks
from vie import VieError
from vie.history import read_history

SMALL = {"critic_hidden": (32, 32), "gamma": 0.9, "tau": 0.05, "critic_lr": 2e-3}
PIXELS = {"source": "vie_single_r18", "width": 4, "size": 32, "proprio": {"place": 1}}


def agent(kind="cal-ql", eyes=None):
    torch.manual_seed(0)
    eyes = eyes or States({"place": 1})
    if kind == "iql":
        made = IQL(eyes, 1, IQLConfig(**SMALL, policy_hidden=(32, 32), policy_lr=2e-3))
    elif kind == "pa-rl":
        config = PARLConfig(
            **SMALL, critics=3, candidates=6, action_samples=4, weight=0.1, improvement=Improvement(3, 2, 0.05)
        )
        made = PARL(eyes, 1, config, SeeingPolicy(States({"place": 1}), GaussianHead(1, 1, (32,)), lr=2e-3))
    else:
        made = CalQL(eyes, 1, CalQLConfig(**SMALL, policy_hidden=(32, 32), policy_lr=2e-3, weight=0.5))
    made.make_optimizers()
    return made


def Training(settings, learner, trajectories=None, world=None):  # noqa: N802
    """On trajectories, checked against the world."""
    offline = None
    if trajectories:
        space = world.space if world else None
        stored = read_offline(trajectories, space, learner.eyes, settings.data)
        offline = filled(stored, learner.eyes, learner.device, settings.data)
    return PlainTraining(settings, learner, offline, [world] if world else [])


def config(folder, **changes):
    given = {
        **{"run": str(folder), "offline_updates": 40, "online_steps": 4 * LENGTH, "log_every": 10},
        **{"imitation_updates": 10, "checkpoint_every": 2, "evaluation_episodes": 3},
        "data": DataConfig(gamma=0.9, batch=32, rows=500),
    }
    return RunConfig(**{**given, **changes})


def same(one, other):
    mine, theirs = one.state_dict(), other.state_dict()
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        same_tensor = torch.equal(tensor, theirs[name]) if isinstance(tensor, torch.Tensor) else tensor == theirs[name]
        assert same_tensor, name


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


@pytest.mark.parametrize("kind", ["cal-ql", "iql", "pa-rl"])
def test_stopped_anywhere_it_goes_on_exactly(kind, tmp_path):
    walks = random_walks(8)
    whole = Training(config(tmp_path / "whole"), agent(kind), walks, Line())
    whole.train()
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
        paths = [tmp_path / name / f"episodes/{number:06d}.safetensors" for name in ("whole", "parts")]
        assert paths[0].read_bytes() == paths[1].read_bytes()


def test_killed_between_checkpoints_it_goes_on_from_the_last(tmp_path, monkeypatch):
    walks = random_walks(8)
    whole = Training(config(tmp_path / "whole"), agent(), walks, Line())
    whole.train()
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
    same(whole.agent, again.agent)


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


def test_evaluations_change_nothing(tmp_path):
    walks = random_walks(8)
    often = Training(config(tmp_path / "often", evaluate_every=7), agent(), walks, Line())
    rarely = Training(config(tmp_path / "rarely"), agent(), walks, Line())
    often.train()
    rarely.train()
    same(often.agent, rarely.agent)


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


class Broken(Line):
    def step(self, action):
        seen, reward, *rest = super().step(action)
        return seen, np.nan if self.steps == 5 else reward, *rest


WRONG = {
    "no run": ({"run": ""}, {}, "the run has no folder: give it as run=FOLDER"),
    "no data": ({}, {"trajectories": None}, "no offline data to learn from"),
    "no world": ({}, {"world": None}, "online_steps=48 need an environment"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_is_refused(case, tmp_path):
    changes, arguments, message = WRONG[case]
    with pytest.raises(VieError, match=message):
        Training(
            config(tmp_path / "run", **changes),
            agent(),
            **{"trajectories": random_walks(2), "world": Line(), **arguments},
        )
    assert not (tmp_path / "run").exists()


def test_a_bad_episode_is_named_and_those_before_it_are_kept(tmp_path):
    walks = random_walks(3)
    walks[1].rewards[4] = np.inf
    with pytest.raises(VieError, match=r"^walk 1 has inf for the reward of step 4"):
        Training(config(tmp_path), agent(), walks, Line())
    with pytest.raises(VieError, match="episode 0 has nan for the reward of step 4"):
        Training(config(tmp_path, offline_updates=2, evaluation_episodes=0), agent(), random_walks(3), Broken()).train()


def test_data_of_another_environment_is_refused(tmp_path):
    with pytest.raises(VieError, match="walk 0 has no observation 'pixels'"):
        Training(config(tmp_path), agent(), random_walks(2), Line(pixels=True))


class Flaky(Line):
    """Fails in the middle of some of its episodes."""

    def __init__(self, faults):
        super().__init__()
        self.faults = faults

    def step(self, action):
        if self.steps == 5 and len(self.resets) in self.faults:
            raise VieError("a wheel came off")
        return super().step(action)


def test_an_episode_that_fails_is_kept_as_far_as_it_came(tmp_path, caplog):
    run = Training(config(tmp_path, evaluation_episodes=0), agent(), random_walks(8), Flaky({2}))
    run.train()
    assert (run.episodes, run.steps) == (5, 4 * LENGTH + 5)
    assert "episode 1, step 5: a wheel came off; what came before is kept" in caplog.text
    assert len(run.online) == run.steps
    again = Training(config(tmp_path, evaluation_episodes=0), agent(), random_walks(8), Line())
    assert len(again.online) == run.steps


def test_an_environment_that_always_fails_ends_the_run_whole(tmp_path):
    run = Training(config(tmp_path, evaluation_episodes=0), agent(), random_walks(8), Flaky({2, 3, 4}))
    with pytest.raises(VieError, match="episode 3, step 5: a wheel came off"):
        run.train()
    again = Training(config(tmp_path), agent(), random_walks(8), Line())
    assert again.episodes == 3
    assert again.train()["length"] == LENGTH


def test_an_evaluation_that_fails_is_run_again_and_made_up_for(tmp_path, caplog):
    whole = Training(config(tmp_path / "whole"), agent(), random_walks(8), Line())
    whole.train()
    once = Training(config(tmp_path / "once"), agent(), random_walks(8), Flaky({2}))
    once.train()
    assert "evaluation 1, step 5: a wheel came off; it is run again" in caplog.text
    with pytest.raises(VieError, match=r"evaluation 1, step 5: a wheel came off"):
        Training(config(tmp_path / "often"), agent(), random_walks(8), Flaky({2, 3, 4})).train()
    often = Training(config(tmp_path / "often"), agent(), random_walks(8), Line())
    assert (often.updates, often.episodes) == (40, 0)
    often.train()
    rows = [
        [(row["step"], row["return"]) for row in read_history(tmp_path / name) if "return" in row]
        for name in ("whole", "once", "often")
    ]
    assert rows[0] == rows[1] == rows[2]
    assert rows[0][0][0] == 40


def test_an_episode_whose_beginning_fails_is_passed_over(tmp_path):
    class Shut(Line):
        def reset(self, *, seed=None, options=None):
            if len(self.resets) == 1:
                self.resets.append(seed)
                raise VieError("the door is shut")
            return super().reset(seed=seed)

    world = Shut()
    run = Training(config(tmp_path, evaluation_episodes=0, checkpoint_every=1), agent(), random_walks(8), world)
    run.train()
    assert (run.episodes, run.attempts, run.steps) == (4, 5, 4 * LENGTH)
    assert len(set(world.resets)) == 5
    assert Training(config(tmp_path), agent(), random_walks(8), Line()).attempts == 5


def test_evaluations_in_several_environments_are_those_in_one(tmp_path):
    learner = agent()
    one = PlainTraining(config(tmp_path / "one", offline_updates=0, evaluation_episodes=5), learner, None, [Line()])
    worlds = [Line(), Line(), Line()]
    three = PlainTraining(config(tmp_path / "three", offline_updates=0, evaluation_episodes=5), learner, None, worlds)
    assert one.evaluate() == pytest.approx(three.evaluate(), rel=1e-5)
    assert [len(world.resets) for world in worlds] == [2, 2, 1]
    assert sorted(seed for world in worlds for seed in world.resets) == sorted(one.worlds[0].resets)


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


def test_a_loss_that_is_no_number_ends_the_run(tmp_path, monkeypatch):
    run = Training(config(tmp_path), agent(), random_walks(3), Line())
    update = run.agent.update
    monkeypatch.setattr(
        run.agent, "update", lambda batch: {**update(batch), "q": torch.tensor(torch.nan if run.updates > 25 else 0.0)}
    )
    with pytest.raises(VieError, match=r"q is no number after 30 updates: lower the learning rates"):
        run.train()
    assert json.loads((tmp_path / "checkpoint/state.json").read_text())["tensors"].startswith("state-")


def test_a_damaged_checkpoint_is_refused(tmp_path):
    Training(config(tmp_path, offline_updates=4, online_steps=0), agent(), random_walks(3)).train()
    for path in (tmp_path / "checkpoint").glob("state-*"):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(VieError, match=r"checkpoint in .* cannot be read .*: delete the folder to begin anew"):
        Training(config(tmp_path, offline_updates=8, online_steps=0), agent(), random_walks(3))


def test_a_signal_in_an_episode_or_an_evaluation_stops_at_once(tmp_path):
    class Slow(Line):
        def __init__(self, at):
            super().__init__()
            self.at_step, self.taken = at, 0

        def step(self, action):
            self.taken += 1
            if self.taken == self.at_step:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().step(action)

    whole = Training(config(tmp_path / "whole"), agent(), random_walks(8), Line())
    whole.train()
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
        same(whole.agent, again.agent)


def test_it_ends_where_it_has_acted_and_is_to_act_no_more(tmp_path):
    Training(config(tmp_path), agent(), random_walks(8), Line()).train()
    again = Training(config(tmp_path, online_steps=0), agent(), random_walks(8), Line())
    assert (again.episodes, len(again.online)) == (4, 4 * LENGTH)
    again.train()


def test_a_signal_stops_after_the_update(tmp_path, monkeypatch):
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
    whole = Training(config(tmp_path / "whole"), agent(), random_walks(8), Line())
    again.train()
    whole.train()
    same(whole.agent, again.agent)
