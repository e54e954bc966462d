"""Monte-Carlo returns."""

import numpy as np
import pytest

from rl_encoders.agents.returns import monte_carlo_returns


def sums(rewards, gamma, beyond=0.0):
    """By the definition: a sum for every step."""
    length = len(rewards)
    return np.array(
        [
            sum(gamma ** (k - t) * float(rewards[k]) for k in range(t, length)) + gamma ** (length - t) * beyond
            for t in range(length)
        ]
    )


@pytest.mark.parametrize("terminal", [True, False])
def test_they_are_discounted_sums(terminal):
    rewards = np.random.default_rng(0).normal(size=50).astype(np.float32)
    found = monte_carlo_returns(rewards, terminal, 0.97)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, sums(rewards, 0.97), rtol=1e-5, atol=1e-6)


def test_an_episode_without_success_goes_on_failing():
    """Cal-QL's antmaze: -5 a step, 0.99: -500 throughout."""
    failed = monte_carlo_returns(np.full(7, -5, np.float32), False, 0.99, failure_reward=-5.0)
    np.testing.assert_allclose(failed, np.full(7, -500.0), rtol=1e-6)


def test_an_episode_with_success_is_counted_as_it_was():
    rewards = np.array([-5, -5, 5], np.float32)
    np.testing.assert_allclose(
        monte_carlo_returns(rewards, True, 0.99, failure_reward=-5.0), sums(rewards, 0.99), rtol=1e-6
    )


def test_the_last_reward_may_go_on_for_ever():
    rewards = np.array([-4, -3, -2], np.float32)
    np.testing.assert_allclose(
        monte_carlo_returns(rewards, False, 0.9, forever=True), sums(rewards, 0.9, beyond=-2 / 0.1), rtol=1e-6
    )
    np.testing.assert_allclose(monte_carlo_returns(rewards, True, 0.9, forever=True), sums(rewards, 0.9), rtol=1e-6)


def test_no_steps():
    assert monte_carlo_returns(np.zeros(0, np.float32), False, 0.9, forever=True).shape == (0,)
