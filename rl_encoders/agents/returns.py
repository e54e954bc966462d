"""Monte-Carlo returns of episodes."""

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float32]


def monte_carlo_returns(
    rewards: Numbers, terminal: bool, gamma: float, failure_reward: float | None = None, forever: bool = False
) -> Numbers:
    """Discounted sums of the rewards to come, of every step of an episode.

    Args:
        rewards: (T,).
        terminal: Whether the episode ended in a terminal state. One that ran out of time counts what it has got and no
            more: nothing is known of what would have come.
        gamma: Discount, from 0 to 1.
        failure_reward: Of a task with sparse rewards, that of every step before success. An episode that has no other
            never succeeds, and is worth ``failure_reward / (1 - gamma)`` at every step, as if it went on for ever
            (Cal-QL, Nakamoto et al. 2023, section 6: antmaze and Adroit). None counts all episodes alike.
        forever: Whether the last reward of an episode that is not terminal goes on for ever (OOO's kitchen).

    Returns:
        (T,) float32; computed in float64.
    """
    sums = np.asarray(rewards, np.float64)
    if failure_reward is not None and np.allclose(sums, failure_reward):
        return np.full(len(sums), failure_reward / (1 - gamma), np.float32)
    found = np.empty(len(sums))
    ahead = sums[-1] / (1 - gamma) if forever and not terminal and len(sums) else 0.0
    for step in reversed(range(len(sums))):
        ahead = found[step] = sums[step] + gamma * ahead
    return found.astype(np.float32)
