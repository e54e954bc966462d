"""Monte-Carlo returns."""

import numpy as np
import pytest

from rl_encoders.agents.returns import monte_carlo_returns
from vie import VieError


def sums(rewards, gamma):
    """By the definition: a sum for every step."""
    length = len(rewards)
    return np.array([sum(gamma ** (k - t) * float(rewards[k]) for k in range(t, length)) for t in range(length)])


def test_they_are_discounted_sums():
    rewards = np.random.default_rng(0).normal(size=50).astype(np.float32)
    found = monte_carlo_returns(rewards, 0.97)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, sums(rewards, 0.97), rtol=1e-5, atol=1e-6)


def test_an_episode_without_success_goes_on_failing():
    """Cal-QL's antmaze: -5 a step, 0.99: -500 throughout."""
    failed = monte_carlo_returns(np.full(7, -5, np.float32), 0.99, failure_reward=-5.0)
    np.testing.assert_allclose(failed, np.full(7, -500.0), rtol=1e-6)


def test_an_episode_with_success_is_counted_as_it_was():
    rewards = np.array([-5, -5, 5], np.float32)
    found = monte_carlo_returns(rewards, 0.99, failure_reward=-5.0)
    np.testing.assert_allclose(found, sums(rewards, 0.99), rtol=1e-6)


def test_failing_for_ever_needs_a_discount():
    with pytest.raises(VieError, match="no value without a discount: give a gamma below 1"):
        monte_carlo_returns(np.full(7, -5, np.float32), 1.0, failure_reward=-5.0)


def test_no_steps():
    assert monte_carlo_returns(np.zeros(0, np.float32), 0.9).shape == (0,)
