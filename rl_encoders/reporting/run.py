"""What the report reads of a run's folder."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from rl_encoders.training.films import Film, read_films
from rl_encoders.training.policy import CONFIG_NAME
from rl_encoders.training.retraining import RESULTS, Comparison
from rl_encoders.training.settings import TrainConfig, parse_train_config
from vie.errors import VieError
from vie.history import HISTORY_NAME, read_history
from vie.reporting.page import attempt

EXPLORE = "explore"
COUNTS = ("step", "phase", "imitated")
ALGORITHMS = {"sac": "SAC", "cql": "CQL", "calql": "Cal-QL", "iql": "IQL", "parl": "PA-RL", "bc": "behaviour cloning"}
Series = tuple[list[int], list[float]]
"""Places and values."""


@dataclass(frozen=True)
class Evaluation:
    """Episodes without exploration.

    Attributes:
        updates, environment_steps: By then.
        measured: Means over the episodes: ``return``, ``length``, and ``success`` where the environment tells.
    """

    updates: int
    environment_steps: int
    measured: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Run:
    """What a run's folder holds; empty for what it does not.

    Attributes:
        path: The folder of the run itself: of offline retraining, that of the exploration.
        name: What the page calls it.
        colour: Of it on the page.
        config: Its settings.
        config_text: As they stand in its folder.
        history: Its measurements.
        films: Videos of its evaluations, the first ones first.
        retrained: Of offline retraining: what new agents reach, and what the exploring one did.
        retrained_films: The last film of each of them, by their steps.
    """

    path: Path
    name: str
    colour: str
    config: TrainConfig
    config_text: str
    history: list[dict[str, Any]]
    films: list[Film]
    retrained: Comparison
    retrained_films: Mapping[str, tuple[Path, Film]]

    @cached_property
    def evaluations(self) -> list[Evaluation]:
        """In their order; one that was done again after a stop counts once."""
        found = {
            (row["step"], row["environment_steps"]): Evaluation(
                row["step"],
                row["environment_steps"],
                {name: row[name] for name in ("return", "success", "length") if name in row},
            )
            for row in self.history
            if "return" in row and "environment_steps" in row
        }
        return list(found.values())

    @cached_property
    def episodes(self) -> Series:
        """Returns of the agent's own episodes over the steps of the environment."""
        rows = [row for row in self.history if "episode_return" in row]
        return [row["environment_steps"] for row in rows], [row["episode_return"] for row in rows]

    @cached_property
    def metrics(self) -> dict[str, Series]:
        """What is known of updates, by name, over their numbers; of those that imitate ``imitation: NAME``."""
        found: dict[str, Series] = {}
        for row in self.history:
            imitates = row.get("phase") == "imitate"
            if "phase" not in row or (imitates and "imitated" not in row):
                continue
            for name, value in row.items():
                if name not in COUNTS:
                    places, values = found.setdefault(f"imitation: {name}" if imitates else name, ([], []))
                    places.append(int(row["imitated" if imitates else "step"]))
                    values.append(value)
        return found

    @property
    def updates(self) -> int:
        return int(self.history[-1]["step"]) if self.history else 0

    @property
    def environment_steps(self) -> int:
        return max((row["environment_steps"] for row in self.history if "environment_steps" in row), default=0)

    @property
    def switch(self) -> int | None:
        """Updates after which it began to act, if it has, and if there were any."""
        return self.config.offline_updates if self.environment_steps and self.config.offline_updates else None

    @property
    def unfinished(self) -> str:
        """What is left to do; empty for a run that is done."""
        config, offline = self.config, min(self.updates, self.config.offline_updates)
        # Without an environment the last updates may be on no line of the record.
        if config.offline_updates - offline >= (1 if config.environment.name else config.log_every):
            return f"{offline:,} of {config.offline_updates:,} offline updates are done"
        if self.environment_steps < config.online_steps:
            return f"{self.environment_steps:,} of {config.online_steps:,} steps of the environment are done"
        return ""

    @property
    def algorithm(self) -> str:
        agent = self.config.agent
        return ALGORITHMS[agent.algorithm] + (" with a bonus for novelty" if agent.exploration else "")


def read_run(path: Path, colour: str, notes: list[str]) -> Run:
    """Reads what a run's folder holds.

    Args:
        path: The folder that ``vie-rl train`` or ``vie-rl ooo`` has begun.
        colour: Of the run, on the page.
        notes: Takes what is damaged.

    Raises:
        VieError: The folder holds no run, or its settings cannot be read.
    """
    explored = path / EXPLORE
    own = explored if (explored / CONFIG_NAME).is_file() else path
    if not (own / CONFIG_NAME).is_file():
        raise VieError(
            f"{path} holds no run ({CONFIG_NAME} is missing): give the folder that vie-rl train or vie-rl ooo has "
            "begun as run=FOLDER"
        )
    retrained: Comparison = {}
    if (path / RESULTS).exists():
        retrained = attempt(RESULTS, partial(_read_retrained, path), notes) or {}
    films = {steps: read_films(path / f"retrained-{steps}") for steps in retrained}
    return Run(
        own,
        path.name,
        colour,
        parse_train_config([own / CONFIG_NAME]),
        (own / CONFIG_NAME).read_text(),
        attempt(f"{HISTORY_NAME} of {path.name}", partial(read_history, own), notes) or [],
        read_films(own),
        retrained,
        {steps: (path / f"retrained-{steps}", found[-1]) for steps, found in films.items() if found},
    )


def _read_retrained(path: Path) -> Comparison:
    found: Comparison = json.loads((path / RESULTS).read_text())
    return found
