"""Monte-Carlo returns of episodes."""

import numpy as np
import numpy.typing as npt

from vie.errors import VieError

Numbers = npt.NDArray[np.float32]


def monte_carlo_returns(rewards: Numbers, gamma: float, failure_reward: float | None = None) -> Numbers:
    """Discounted sums of the rewards to come, of every step of an episode.

    One that ran out of time counts what it has got and no more: nothing is known of what would have come.

    Args:
        rewards: (T,).
        gamma: Discount, from 0 to 1.
        failure_reward: Of a task with sparse rewards, that of every step before success. An episode that has no other
            never succeeds, and is worth ``failure_reward / (1 - gamma)`` at every step, as if it went on for ever
            (Cal-QL, Nakamoto et al. 2023, section 6: antmaze and Adroit). None counts all episodes alike.

    Returns:
        (T,) float32; computed in float64.

    Raises:
        VieError: An episode failed for ever, and gamma is 1.
    """
    sums = np.asarray(rewards, np.float64)
    if failure_reward is not None and np.allclose(sums, failure_reward):
        if gamma >= 1:
            raise VieError(
                "a failure for ever has no value without a discount: give a gamma below 1, or no failure_reward"
            )
        return np.full(len(sums), failure_reward / (1 - gamma), np.float32)
    found = np.empty(len(sums))
    ahead = 0.0
    for step in reversed(range(len(sums))):
        ahead = found[step] = sums[step] + gamma * ahead
    return found.astype(np.float32)
