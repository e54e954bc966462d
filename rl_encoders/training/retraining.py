"""OOO's third phase: new agents, from nothing, on the data that exploration had gathered by some time.

Sobol Mark et al., Offline Retraining for Online RL: Decoupled Policy Learning to Mitigate Exploration Bias, 2023. When
to retrain is the user's choice; nothing of the exploring agent but its data is taken over, and no bonus is in it.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from rl_encoders.training.storage import Stored, episodes_until
from vie.errors import VieError
from vie.files import write_text_atomically
from vie.history import read_history

RESULTS = "retraining.json"

Comparison = dict[str, dict[str, float]]
"""By steps of the environment: what a new agent reaches, and as ``explored_...`` what the exploring one did then."""


def value_bounds(data: Sequence[Stored], gamma: float) -> tuple[float, float]:
    """Least and largest discounted sum of rewards like those of the data: r / (1 - gamma).

    Raises:
        VieError: gamma is 1, or there is no data.
    """
    if gamma >= 1:
        raise VieError(f"a discount of {gamma} bounds no value: give one below 1")
    if not data:
        raise VieError("there is no data to train anew on: give dataset, or a later step in retrain.at")
    least = min(float(one.reward.min()) for one in data)
    largest = max(float(one.reward.max()) for one in data)
    return least / (1 - gamma), largest / (1 - gamma)


def retrain(
    explored: Path,
    offline: Sequence[Stored],
    at: Sequence[int],
    train_anew: Callable[[int, list[Stored]], dict[str, float]],
    out: Path,
) -> Comparison:
    """Trains a new agent for each of some times, and puts it beside the one that explored.

    Args:
        explored: The run whose episodes are taken.
        offline: The data that it began with.
        at: Steps of the environment after which data is cut off.
        train_anew: From such a time and the data until then to what a new agent reaches; pessimistic, as it never acts.
        out: Folder in which ``retraining.json`` holds what is returned.

    Raises:
        VieError: The run has not come so far.
    """
    found: Comparison = json.loads((out / RESULTS).read_text()) if (out / RESULTS).exists() else {}
    evaluations = [row for row in read_history(explored) if "return" in row and "environment_steps" in row]
    for steps in at:
        result = train_anew(steps, [*offline, *episodes_until(explored, steps)])
        before = [row for row in evaluations if row["environment_steps"] <= steps]
        if before:
            result = result | {f"explored_{name}": before[-1][name] for name in result if name in before[-1]}
        found[str(steps)] = result
        write_text_atomically(out / RESULTS, json.dumps(found, indent=2) + "\n")
    return {str(steps): found[str(steps)] for steps in at}
