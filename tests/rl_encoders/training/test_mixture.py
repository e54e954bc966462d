"""Draws from data of others and from what an agent has found, one after the other in one replay."""

import numpy as np
import pytest
import torch

from rl_encoders.agents.perception import States
from rl_encoders.training.config import DataConfig
from rl_encoders.training.mixture import Parted, transitions
from rl_encoders.training.storage import filled, stored
from tests.rl_encoders.training.worlds import random_walks

EYES = States({"place": 1})
OTHERS, OWN = 6, 2


def parted(mix, chunk=1, own=OWN):
    """Rewards tell whose a transition is: below 10 of others, whose largest are 7, above it the agent's own."""
    data = DataConfig(chunk=chunk)
    walks = random_walks(OTHERS + own)
    for number, walk in enumerate(walks):
        walk.rewards[:] = np.arange(len(walk)) % 7 + (1 if number < OTHERS else 10)
        walk.rewards[3] += number >= OTHERS
    kept = [stored(walk, EYES.keep(walk.observations), data) for walk in walks]
    replay = filled(kept, EYES, torch.device("cpu"), data)
    return Parted(replay, transitions(kept[:OTHERS], data), mix), sum(len(walk) for walk in walks[:OTHERS])


@pytest.mark.parametrize(("mix", "of_others"), [(0.5, 128), (0.25, 64), (1.0, 256), (0.0, 0), (-1.0, 192)])
def test_each_part_has_its_share(mix, of_others):
    source, _ = parted(mix)
    batch = source.draw(256, (0, 3))
    assert len(batch.reward) == 256
    assert int((batch.reward < 10).sum()) == of_others
    assert torch.equal(batch.reward, source.draw(256, (0, 3)).reward)
    assert not torch.equal(batch.reward, source.draw(256, (0, 4)).reward)


def test_chunks_are_counted_as_they_are_kept():
    source, steps = parted(0.5, chunk=3)
    assert 0 < len(source.others) < steps
    assert len(source.others) + len(source.own) == len(source) == len(source.replay)
    each = len(source.others) / OTHERS
    assert len(source.own) == each * OWN


def test_what_is_added_is_of_the_agents_own():
    source, _ = parted(0.5)
    best = source.of_largest_reward()
    batch = source.draw(32, (0,), best)
    assert (batch.reward == source.replay.reward.max()).all()


def test_without_own_data_all_is_drawn_alike():
    source, _ = parted(0.5, own=0)
    assert torch.equal(source.draw(64, (1,)).reward, source.replay.draw(64, (1,)).reward)
    assert (source.draw(8, (0,), source.of_largest_reward()).reward == 7).all()
