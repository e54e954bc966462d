"""Episodes without exploration, and what they amount to."""

from collections.abc import Sequence

import numpy as np

from rl_encoders.agents.agent import Agent
from rl_encoders.rollout import Episode, World, run_episodes
from rl_encoders.training.actor import Actor
from rl_encoders.training.seeding import EVALUATE, seeded


def evaluate(agent: Agent, worlds: Sequence[World], count: int, seed: int, name: str, chunk: int = 1) -> list[Episode]:
    """Runs episodes of an agent's best actions, one in each world at once.

    Args:
        agent: That acts.
        worlds: Alike; a policy that draws its actions draws others in other numbers of worlds.
        count: Of episodes.
        seed: Of the run: the same episodes begin alike whenever they are evaluated.
        name: Of the run, for errors.
        chunk: As of ``Actor``.

    Raises:
        EpisodeError: An environment fails.
    """
    episodes: list[Episode] = []
    while len(episodes) < count:
        numbers = range(len(episodes), min(count, len(episodes) + len(worlds)))
        # What the agent draws follows the first.
        seeds = [seeded(seed, EVALUATE, number) for number in reversed(numbers)][::-1]
        names = [f"{name} evaluation {number}" for number in numbers]
        episodes += run_episodes(worlds, Actor(agent, explore=False, chunk=chunk), names, seeds)
    return episodes


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
