"""Transitions, beside a list of the trajectories that were written."""

import numpy as np
import pytest
import torch

from rl_encoders.replay.buffer import Replay, joined
from vie import VieError

A = 2


def trajectory(number, length, terminal=True):
    """What is seen tells the trajectory and the step."""
    generator = np.random.default_rng(number)
    seen = torch.tensor([[number, step] for step in range(length + 1)])
    return {
        "kept": {"place": seen, "pixels": seen.to(torch.uint8)[:, None, :]},
        "action": generator.normal(size=(length, A)).astype(np.float32),
        "reward": generator.normal(size=length).astype(np.float32),
        "terminal": terminal,
        "mc_return": generator.normal(size=length).astype(np.float32),
    }


@pytest.fixture
def filled():
    replay, written = Replay(100), [trajectory(number, 5 + number, number % 2 == 0) for number in range(6)]
    for each in written:
        replay.add(**each)
    return replay, written


def check(batch, written):
    for row in range(len(batch.action)):
        number, step = batch.seen["place"][row].tolist()
        one = written[number]
        assert batch.next_seen["place"][row].tolist() == [number, step + 1]
        assert batch.seen["pixels"][row].tolist() == [[number, step]]
        np.testing.assert_array_equal(batch.action[row], one["action"][step])
        assert batch.reward[row] == one["reward"][step]
        assert batch.mc_return[row] == one["mc_return"][step]
        assert batch.terminal[row] == (one["terminal"] and step == len(one["action"]) - 1)


def test_every_transition_can_be_drawn_and_is_itself(filled):
    replay, written = filled
    assert len(replay) == sum(len(one["action"]) for one in written)
    batch = replay.at(replay.starts)
    check(batch, written)
    assert batch.terminal.sum() == 3


def test_the_oldest_go_first():
    replay, written = Replay(20), [trajectory(number, 4 + number % 3) for number in range(30)]
    for number, each in enumerate(written):
        replay.add(**each)
        batch = replay.at(replay.starts)
        check(batch, written)
        assert {*batch.seen["place"][:, 0].tolist()} <= {*range(number - 4, number + 1)}
    assert 20 - 5 <= len(replay) <= 20


def test_draws_are_functions_of_their_seed(filled):
    replay, written = filled
    one, same, other = replay.draw(32, (1, 7)), replay.draw(32, (1, 7)), replay.draw(32, (1, 8))
    assert torch.equal(one.seen["place"], same.seen["place"])
    assert not torch.equal(one.seen["place"], other.seen["place"])
    check(one, written)


def test_each_is_as_likely(filled):
    replay, _ = filled
    drawn = replay.draw(45_000, (0,)).seen["place"]
    counts = torch.unique(drawn, dim=0, return_counts=True)[1]
    assert len(counts) == len(replay) == 45
    assert 850 < int(counts.min()) < int(counts.max()) < 1150


@pytest.mark.parametrize("rows", [12, 13, 14, 18, 100])
def test_clips_end_at_the_observation_and_do_not_reach_beyond_the_first(rows):
    replay = Replay(rows, back={"pixels": (4, 2, 0)})
    for number in range(5):
        replay.add(**trajectory(number, 4 + number % 4))
        batch = replay.at(replay.starts)
        for row in range(len(batch.action)):
            number, step = batch.seen["place"][row].tolist()
            for clip, end in ((batch.seen["pixels"][row], step), (batch.next_seen["pixels"][row], step + 1)):
                assert clip[:, 0].tolist() == [[number, max(0, end - back)] for back in (4, 2, 0)]


def test_of_what_is_half_overwritten_those_are_drawn_whose_clips_are_there():
    replay = Replay(14, back={"pixels": (2, 0)})
    for number in range(2):
        replay.add(**trajectory(number, 9))
    # Of the first, observations 6 to 9 are left: the clip of 8 begins at 6.
    drawn = replay.at(replay.starts).seen["place"].tolist()
    assert drawn == [[0, 8], *([1, step] for step in range(9))]
    assert len(replay) == 10


def test_an_empty_one_has_nothing_to_draw():
    assert len(Replay(10)) == 0
    with pytest.raises(VieError, match="no transitions to draw: add a trajectory"):
        Replay(10).draw(1, (0,))


def test_mixtures():
    replay = Replay(50)
    replay.add(**trajectory(0, 9))
    one, two = replay.draw(3, (0,)), replay.draw(5, (1,))
    both = joined(one, two)
    assert len(both.action) == 8
    check(both, [trajectory(0, 9)])


def test_what_does_not_fit_is_refused(filled):
    replay, _ = filled
    with pytest.raises(VieError, match="101 observations does not fit into a replay of 100: enlarge it"):
        replay.add(**trajectory(0, 100))
    with pytest.raises(VieError, match="encode all of them alike"):
        replay.add(**{**trajectory(0, 3), "kept": {"place": torch.zeros(4, 2)}})
