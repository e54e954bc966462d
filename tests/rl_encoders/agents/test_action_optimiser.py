"""PA-RL's action optimiser, beside a loop over single actions."""

import pytest
import torch

from rl_encoders.agents.action_optimiser import Candidates, Improvement, improve

B, N, A = 3, 12, 2


def hill(actions):
    """Highest at 0.3 in every component, differently steep for each state."""
    steep = torch.tensor([1.0, 2.0, 5.0], dtype=actions.dtype)[:, None]
    return -steep * (actions - 0.3).square().sum(dim=-1)


@pytest.fixture
def candidates():
    return torch.rand(B, N, A, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1


def alone(candidates, how, state, also=None):
    """One state: rank, climb, keep the best on the way."""
    steep = (1.0, 2.0, 5.0)[state]
    value = lambda a: -steep * float((a - 0.3).square().sum())  # noqa: E731
    kept = sorted(candidates[state], key=value, reverse=True)[: how.keep]
    if also is not None:
        kept[-1] = also[state]
    found = []
    for action in kept:
        best = action
        for _ in range(how.steps):
            action = (action + how.step_size * (-2 * steep * (action - 0.3))).clamp(how.low, how.high)
            best = action if value(action) > value(best) else best
        found.append((best, value(best)))
    return found


@pytest.mark.parametrize("also", [None, torch.full((B, A), 0.9, dtype=torch.float64)])
def test_it_is_the_loop_over_actions(candidates, also):
    how = Improvement(keep=4, steps=3, step_size=0.05)
    found = improve(candidates, hill, how, also)
    for state in range(B):
        for number, (action, value) in enumerate(alone(candidates, how, state, also)):
            torch.testing.assert_close(found.actions[state, number], action)
            assert float(found.values[state, number]) == pytest.approx(value)


def test_a_step_too_far_is_not_kept(candidates):
    """With steps that overshoot, the start is the best there is."""
    how = Improvement(keep=4, steps=5, step_size=50.0)
    found = improve(candidates, hill, how)
    started = candidates.gather(1, hill(candidates).topk(4).indices[..., None].expand(-1, -1, A))
    assert (found.values >= hill(started) - 1e-12).all()
    assert found.actions.abs().max() <= 1


def test_no_steps_rank_alone(candidates):
    found = improve(candidates, hill, Improvement(keep=2, steps=0))
    torch.testing.assert_close(found.values, hill(candidates).topk(2).values)


def test_the_critic_gets_no_gradient(candidates):
    slope = torch.ones(A, dtype=torch.float64, requires_grad=True)
    found = improve(candidates, lambda actions: (actions * slope).sum(dim=-1), Improvement(keep=3, steps=2))
    assert slope.grad is None
    assert not found.actions.requires_grad
    with torch.no_grad():
        again = improve(candidates, lambda actions: (actions * slope).sum(dim=-1), Improvement(keep=3, steps=2))
    torch.testing.assert_close(again.actions, found.actions)


def test_candidates_outside_are_brought_in():
    found = improve(torch.full((1, 2, 1), 9.0), lambda actions: actions[..., 0], Improvement(keep=1, steps=0, high=0.5))
    assert found.actions.tolist() == [[[0.5]]]


def test_one_is_chosen():
    candidates = Candidates(torch.tensor([[[0.0], [1.0], [2.0]]]), torch.tensor([[1.0, 3.0, 2.0]]))
    assert candidates.best().tolist() == [[1.0]]
    many = Candidates(candidates.actions.expand(4000, 3, 1), candidates.values.expand(4000, 3))
    drawn = many.drawn(generator=torch.Generator().manual_seed(0))[:, 0]
    wanted = torch.tensor([1.0, 3.0, 2.0]).softmax(0)
    for action in range(3):
        assert float((drawn == action).float().mean()) == pytest.approx(float(wanted[action]), abs=0.03)
