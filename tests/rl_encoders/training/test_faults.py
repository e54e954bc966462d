"""What goes wrong in a run is named, and costs as little as it can."""

import json

import numpy as np
import pytest
import torch

from rl_encoders.training.config import DataConfig
from tests.rl_encoders.training.runs import Training, agent, config
from tests.rl_encoders.training.worlds import LENGTH, Line, random_walks
from vie import VieError
from vie.history import read_history


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


@pytest.mark.parametrize(("chunk", "least"), [(1, 13), (5, 4)])
def test_a_replay_without_room_for_an_episode_is_told_before_anything_is_learned(tmp_path, chunk, least):
    world = Line()
    world.max_steps = 12

    def training(rows: int):
        data = DataConfig(gamma=0.9, batch=4, rows=rows, chunk=chunk)
        return Training(config(tmp_path / "run", data=data), agent(), random_walks(2), world)

    with pytest.raises(VieError, match=f"data.rows={least - 1} are too few for an episode of 12 steps: .* {least}"):
        training(least - 1)
    assert not (tmp_path / "run").exists()
    training(least)


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


def test_a_loss_that_is_no_number_ends_the_run(tmp_path, monkeypatch):
    run = Training(config(tmp_path), agent(), random_walks(3), Line())
    update = run.agent.update
    monkeypatch.setattr(
        run.agent, "update", lambda batch: {**update(batch), "q": torch.tensor(torch.nan if run.updates > 25 else 0.0)}
    )
    with pytest.raises(VieError, match=r"q is no number after 30 updates: lower the learning rates"):
        run.train()
    assert json.loads((tmp_path / "checkpoint/state.json").read_text())["tensors"].startswith("state-")
