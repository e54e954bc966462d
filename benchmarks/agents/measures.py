"""What a learning curve of an agent comes to, and what curves of several tasks and seeds come to together.

Scores are 0 at worst and 1 at best, so that tasks can be put together. The aggregates follow Agarwal et al., Deep
Reinforcement Learning at the Edge of the Statistical Precipice, NeurIPS 2021.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import trim_mean

Scores = npt.NDArray[np.float64]

DRAWS = 10_000
"""Of a bootstrap; the ends of an interval then move by less than a hundredth of its width from seed to seed."""


def normalised(value: float, least: float, most: float) -> float:
    """A return as a score: 0 at ``least``, 1 at ``most``; beyond these where it is beyond them.

    Raises:
        ValueError: ``most`` is not above ``least``.
    """
    if not most > least:
        raise ValueError(f"returns from {least} to {most} are no range")
    return (value - least) / (most - least)


def regret(scores: Sequence[float]) -> float:
    """1 - the mean of all scores of the online phase: 0 for an agent that is perfect from its first evaluation on.

    As Cal-QL has it (Nakamoto et al. 2023), of evaluations that are evenly spread. They are of the policy without
    exploration, unlike the figures that CORL reports under this name, which are of training episodes.

    Args:
        scores: At least one.

    Raises:
        ValueError: There are none.
    """
    if not scores:
        raise ValueError("the regret of no evaluation is unknown")
    return 1.0 - float(np.mean(scores))


def dip(before: float, online: Sequence[float], first: int = 3) -> float:
    """How far the score falls at the switch from offline to online learning.

    Args:
        before: Score at the end of the offline phase.
        online: Scores of the online phase, in their order; at least one.
        first: How many of them count: what is lost later is not the switch's fault.

    Returns:
        ``before`` less their mean, which is 0 on average for an agent that does not change, as their lowest would not
        be; negative where the score has risen.

    Raises:
        ValueError: There are none.
    """
    if not online:
        raise ValueError("there is no dip without an evaluation online")
    return before - float(np.mean(online[:first]))


def interquartile_mean(scores: Scores) -> Scores:
    """The mean of the middle half along the last axis (IQM): float64 (..., N) to (...).

    A quarter of the values, rounded down, is left out at each end: of fewer than four none is.
    """
    mean: Scores = np.asarray(trim_mean(scores, proportiontocut=0.25, axis=-1))
    return mean


def stratified_interval(
    by_task: Sequence[Sequence[float]],
    aggregate: Callable[[Scores], Scores] = interquartile_mean,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[float, float]:
    """Interval of an aggregate over tasks and seeds, by the bootstrap's percentiles.

    Seeds are drawn anew within each task, as many as it has: the tasks are those that were chosen, and the seeds are
    what chance decides. With few seeds such intervals are too narrow: three have but ten different draws.

    Args:
        by_task: Scores of each task's seeds; at least one of each.
        aggregate: From (draws, N) to (draws,).
        level: Share of the bootstrap that the interval holds.
        draws: Of the bootstrap.
        seed: Of these draws.

    Returns:
        Its lower and its upper end.
    """
    rng = np.random.default_rng(seed)
    drawn = [
        np.asarray(scores, np.float64)[rng.integers(0, len(scores), size=(draws, len(scores)))] for scores in by_task
    ]
    low, high = np.quantile(aggregate(np.concatenate(drawn, axis=1)), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
