"""OOO's third phase: new agents, from nothing, on the data that exploration had gathered by some time.

Sobol Mark et al., Offline Retraining for Online RL: Decoupled Policy Learning to Mitigate Exploration Bias, 2023. When
to retrain is the user's choice; nothing of the exploring agent but its data is taken over, and no bonus is in it.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rl_encoders.agents.agent import Agent
from rl_encoders.training.config import RunConfig
from rl_encoders.training.loop import Training, World
from rl_encoders.training.storage import Stored, episodes_until, filled
from vie.files import write_text_atomically
from vie.history import read_history

RESULTS = "retraining.json"

MakeAgent = Callable[[float, float], Agent]
"""Makes a new agent, on its device, from the least and the largest value that the data allows."""


def value_bounds(data: Sequence[Stored], gamma: float) -> tuple[float, float]:
    """Least and largest discounted sum of rewards like those of the data: r / (1 - gamma)."""
    least = min(float(one.reward.min()) for one in data)
    largest = max(float(one.reward.max()) for one in data)
    return least / (1 - gamma), largest / (1 - gamma)


def retrain(
    explored: Path, offline: Sequence[Stored], at: Sequence[int], make: MakeAgent, config: RunConfig, world: World
) -> dict[str, dict[str, float]]:
    """Trains a new agent for each of some times, and evaluates it beside the one that explored.

    Done again, it goes on where it was stopped.

    Args:
        explored: The run whose episodes are taken.
        offline: The data that it began with.
        at: Steps of the environment after which data is cut off.
        make: Makes the agents, which are to be pessimistic.
        config: Of each of their runs, which lie in ``config.run``: offline updates alone.
        world: To evaluate in.

    Returns:
        By these steps, what the new agent reaches, and as ``explored_...`` what the exploring one did at that time.

    Raises:
        VieError: The run has not come so far.
    """
    found: dict[str, dict[str, float]] = {}
    evaluations = [row for row in read_history(explored) if "return" in row and "environment_steps" in row]
    for steps in at:
        data = [*offline, *episodes_until(explored, steps)]
        agent = make(*value_bounds(data, config.data.gamma))
        mine = replace(config, run=str(Path(config.run) / f"at-{steps}"), online_steps=0)
        training = Training(mine, agent, filled(data, agent.eyes, agent.device), world)
        training.train()
        found[str(steps)] = training.evaluate()
        before = [row for row in evaluations if row["environment_steps"] <= steps]
        if before:
            names = [name for name in ("return", "success", "length") if name in before[-1]]
            found[str(steps)] |= {f"explored_{name}": before[-1][name] for name in names}
        write_text_atomically(Path(config.run) / RESULTS, json.dumps(found, indent=2) + "\n")
    return found
