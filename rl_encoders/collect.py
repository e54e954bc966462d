"""Offline datasets out of scripted or random policies, an episode at a time."""

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from rl_encoders.demonstrators import Policy
from rl_encoders.environments.guarded import Environment, episode_seed
from rl_encoders.rollout import MOST_FAULTS, Episode, EpisodeError, run_episode
from rl_encoders.trajectories.writer import MinariWriter
from vie import VieError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CollectReport:
    """What became of a collection.

    Attributes:
        episodes, steps: That the dataset holds.
        successes: How many of its episodes did the task; None where the environment does not tell.
        failed: Reasons by the names of episodes that were left out now.
    """

    episodes: int
    steps: int
    successes: int | None
    failed: Mapping[str, str]


def collect(
    environments: Sequence[Environment], policy: Policy, episodes: int, out: str | Path, label: Mapping[str, Any]
) -> CollectReport:
    """Fills a dataset; done again, it goes on where it was stopped, and the dataset is the same in the end.

    Every episode is on the disk before the next ones begin. One in which the environment fails is left out. What the
    dataset holds does not depend on the number of environments.

    Args:
        environments: Alike, in which episodes run at once; the ``seed`` of the first tells those of the episodes.
        policy: What acts.
        episodes: How many the dataset shall hold.
        out: Folder of the dataset, in Minari's format.
        label: What the dataset is: policy and whatever else decides what it holds.

    Raises:
        VieError: ``out`` holds another dataset, another process fills it, or three episodes on end failed.
    """
    first = environments[0]
    wanted = first.wanted
    facts = {
        "environment": wanted.name,
        "size": wanted.size,
        "max_steps": first.max_steps,
        "reward": wanted.reward,
        "arguments": dict(wanted.arguments),
        "seed": first.seed,
        "versions": dict(first.versions),
        **label,
    }
    failed: dict[str, str] = {}
    faults = 0
    with ExitStack() as stack:
        writer = stack.enter_context(closing(MinariWriter(out, first.space, facts)))
        bar = stack.enter_context(
            tqdm(total=episodes, initial=writer.episodes, unit="episode", desc=f"collect {wanted.name}")
        )
        threads = stack.enter_context(ThreadPoolExecutor(len(environments)))  # each waits for a process of its own
        number = writer.next_number
        while writer.episodes < episodes:
            together = environments[: episodes - writer.episodes]
            numbers = range(number, number + len(together))
            tried = threads.map(partial(_try, policy, first.seed), together, numbers)
            broken: EpisodeError | None = None
            for number, found in zip(numbers, tried, strict=True):
                if isinstance(found, EpisodeError):
                    failed[f"episode {number}"] = str(found)
                    logger.warning("%s; it is left out", found)
                    faults += 1
                    if faults == MOST_FAULTS:
                        broken = found
                else:
                    writer.write(found.trajectory, number, found.seed, found.success)
                    faults = 0
                    bar.update()
            if broken is not None:  # once what went well beside it is written
                raise VieError(
                    f"{MOST_FAULTS} episodes on end failed ({broken}); {writer.episodes} are in {out}, and the same "
                    "command goes on from there"
                ) from broken
            number += 1
        return CollectReport(writer.episodes, writer.steps, writer.successes, failed)


def _try(policy: Policy, seed: int, environment: Environment, number: int) -> Episode | EpisodeError:
    own = episode_seed(seed, number)
    try:
        # The seed of the policy is not that of the environment, whose draws it would repeat.
        plan = policy(environment, number, episode_seed(own, 1))
        return run_episode(environment, plan.act, f"episode {number}", own, plan.options)
    except EpisodeError as error:
        return error
