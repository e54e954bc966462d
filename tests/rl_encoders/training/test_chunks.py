"""Actions in chunks: what is stored of them, and how they are carried out."""

import numpy as np
import pytest
import torch

from rl_encoders import load
from rl_encoders.agents.calql import CalQL, CalQLConfig
from rl_encoders.agents.perception import Eyes, States
from rl_encoders.agents.returns import monte_carlo_returns
from rl_encoders.rollout import run_episodes
from rl_encoders.training.actor import Actor
from rl_encoders.training.config import DataConfig
from rl_encoders.training.loop import Training
from rl_encoders.training.storage import Stored, filled, read_offline
from tests.rl_encoders.training.runs import SMALL, config, same
from tests.rl_encoders.training.worlds import LENGTH, Line, random_walks
from vie import VieError

GAMMA = 0.9


def episode(steps, terminal):
    chance = np.random.default_rng(steps)
    reward = chance.normal(size=steps).astype(np.float32)
    action = chance.normal(size=(steps, 2)).astype(np.float32)
    returns = monte_carlo_returns(reward, GAMMA)
    return Stored({"place": torch.arange(steps + 1.0)[:, None]}, action, reward, terminal, returns)


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 9])
def test_every_chunk_that_is_known_whole_is_there_once(steps, terminal):
    one, found = episode(steps, terminal), {}
    for part in one.chunked(3, GAMMA):
        assert part.action.shape == (len(part.reward), 6)
        assert len(part.kept["place"]) == len(part.reward) + 1
        for number, start in enumerate(part.kept["place"][:-1, 0].int().tolist()):
            last = number == len(part.reward) - 1
            found[start] = (
                part.action[number],
                part.reward[number],
                part.terminal and last,
                part.mc_return[number],
                int(part.kept["place"][number + 1]),
            )
    starts = range(steps) if terminal else range(max(0, steps - 2))
    assert sorted(found) == list(starts)
    for start, (action, reward, ended, mc_return, following) in found.items():
        within = [step for step in range(start, start + 3) if step < steps]
        assert reward == pytest.approx(sum(GAMMA ** (step - start) * one.reward[step] for step in within), rel=1e-5)
        np.testing.assert_array_equal(action.reshape(3, 2)[: len(within)], one.action[within])
        assert ended == (terminal and start + 3 >= steps)
        assert following == min(start + 3, steps)
        # What the chunk is worth and what comes after it are the return of its first step.
        rest = 0 if ended or following == steps else GAMMA**3 * one.mc_return[following]
        if terminal or following < steps:
            assert mc_return == pytest.approx(reward + rest, rel=1e-4)


class Steps:
    """Says which step it is in, and remembers what it was told to do."""

    def __init__(self):
        self.space, self.told = Line().space, []

    def reset(self, *, seed=None, options=None):
        self.step_number = 0
        return {"place": np.zeros(1, np.float32)}, {}

    def step(self, action):
        self.told.append(float(action[0]))
        self.step_number += 1
        return {"place": np.full(1, self.step_number, np.float32)}, 0.0, False, self.step_number == 7, {}


def test_a_chunk_is_carried_out_before_the_next_is_chosen(monkeypatch):
    agent = CalQL(States({"place": 1}), 3, CalQLConfig(**SMALL, policy_hidden=(32,)))
    asked = []

    def act(seen, explore):
        asked.append(seen["place"][:, 0].tolist())
        return np.stack([[place / 10, place / 10 + 0.01, place / 10 + 0.02] for place in seen["place"][:, 0].tolist()])

    monkeypatch.setattr(agent, "act", act)
    worlds, actor = [Steps(), Steps()], Actor(agent, explore=False, chunk=3)
    episodes = run_episodes(worlds, actor, ["one", "two"], [0, 1])
    assert asked == [[0, 0], [3, 3], [6, 6]]
    np.testing.assert_allclose(worlds[1].told, [0, 0.01, 0.02, 0.3, 0.31, 0.32, 0.6], rtol=1e-6)
    assert len(actor.kept(1, episodes[1].trajectory)["place"]) == 8


def test_it_learns_in_chunks_and_goes_on_exactly(tmp_path):
    def made():
        torch.manual_seed(0)
        agent = CalQL(States({"place": 1}), 3, CalQLConfig(**{**SMALL, "gamma": 0.9**3}, policy_hidden=(32, 32)))
        agent.make_optimizers()
        return agent

    def run(name, **changes):
        data = DataConfig(gamma=0.9, batch=32, rows=500, chunk=3)
        settings = config(tmp_path / name, data=data, **changes)
        agent = made()
        stored = read_offline(random_walks(20), Line().space, agent.eyes, data)
        return Training(settings, agent, filled(stored, agent.eyes, agent.device, data), [Line()])

    whole = run("whole")
    assert len(whole.offline) == 20 * (LENGTH - 2)
    whole.train()
    for steps in (LENGTH, 4 * LENGTH):
        part = run("parts", online_steps=steps)
        part.train()
    same(whole.agent, part.agent)
    assert len(whole.online) == 4 * (LENGTH - 2)


def test_clips_that_are_trained_on_are_refused(tmp_path):
    eyes = Eyes(load("vie_slow_r18", "finetune", width=4, size=32), control_hz=25)
    agent = CalQL(eyes, 2, CalQLConfig())
    with pytest.raises(VieError, match=r"data.chunk=2 with clips of a trunk that is trained: chunks leave out frames"):
        Training(config(tmp_path, data=DataConfig(chunk=2), offline_updates=0), agent, None, [Line()])
