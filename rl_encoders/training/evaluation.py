"""Episodes without exploration, and what they amount to."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from rl_encoders.rollout import MOST_FAULTS, Acts, Episode, EpisodeError, World, run_episodes
from rl_encoders.training.seeding import EVALUATE, seeded

logger = logging.getLogger(__name__)


def evaluate(
    act: Callable[[], Acts], worlds: Sequence[World], count: int, seed: int, name: str, whole: int = 0
) -> list[Episode]:
    """Runs episodes of an agent's best actions, one in each world at once.

    Args:
        act: What acts, in as many episodes as there are worlds; asked anew for each lot.
        worlds: Alike; a policy that draws its actions draws others in other numbers of worlds.
        count: Of episodes.
        seed: Of the run: the same episodes begin alike whenever they are evaluated.
        name: Of the run, for errors.
        whole: Episodes that are returned with what was seen; the others leave it out, as it may be much.

    Raises:
        EpisodeError: An environment has failed three times on end.
    """
    episodes: list[Episode] = []
    faults = 0
    while len(episodes) < count:
        numbers = range(len(episodes), min(count, len(episodes) + len(worlds)))
        # What the agent draws follows the first.
        seeds = [seeded(seed, EVALUATE, number) for number in reversed(numbers)][::-1]
        names = [f"{name} evaluation {number}" for number in numbers]
        try:
            found = run_episodes(worlds, act(), names, seeds)
        except EpisodeError as error:
            faults += 1
            if faults == MOST_FAULTS:
                raise
            logger.warning("%s; it is run again", error)
            continue
        faults = 0
        episodes += [one if number < whole else _unseen(one) for number, one in zip(numbers, found, strict=True)]
    return episodes


def _unseen(episode: Episode) -> Episode:
    return replace(episode, trajectory=replace(episode.trajectory, observations={}))


def summary(episodes: Sequence[Episode]) -> dict[str, float]:
    """Means of undiscounted returns and lengths, and the share that did the task where the environment tells.

    Empty without episodes.
    """
    if not episodes:
        return {}
    told = [one.success for one in episodes if one.success is not None]
    return {
        "return": float(np.mean([one.trajectory.rewards.sum() for one in episodes])),
        "length": float(np.mean([len(one.trajectory) for one in episodes])),
        **({"success": float(np.mean(told))} if told else {}),
    }
