"""Results files of agents: every evaluation of a run with its protocol, and what these come to."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.agents.job import Run
from benchmarks.agents.measures import dip, normalised, regret
from benchmarks.agents.runs import Plan
from benchmarks.works import Asked
from rl_encoders.training.retraining import RESULTS as RETRAINING
from rl_encoders.training.settings import TrainConfig
from rl_encoders.trajectories.minari import METADATA
from rl_encoders.trajectories.writer import FACTS
from vie import VieError
from vie.files import write_text_atomically
from vie.history import read_history

FORMAT = "vie-agents-1"
KEYS = {"task", "method", "encoder", "seed", "asked", "protocol", "evaluations", "retrained"}
EXPLORE = "explore"
"""Folder of the run that acts, within one of offline retraining."""
ACTED, RETRAINED = "acting", "retrained at "
"""Agents of offline retraining: the one that gathered the data, and those that learned from it up to some step."""

Content = dict[str, Any]


@dataclass(frozen=True)
class Record:
    """What a run, or an agent that was retrained on its data, came to.

    Attributes:
        run: Which.
        arm: Which of its agents; empty where it has one.
        seed: Of the run.
        values: Measures by name; those that it has.
        curve: Places and scores of its evaluations. A place is how many steps of the environment were taken online; how
            many updates were still to come offline, negative, before that.
    """

    run: Run
    arm: str
    seed: int
    values: Mapping[str, float]
    curve: Sequence[tuple[float, float]] = field(default_factory=list)


def write_result(plan: Plan, run: Run, seed: int, asked: Asked, command: str, machine: str) -> Path:
    """Keeps what a finished run has measured; a file that holds the same already is left as it is.

    Args:
        plan: Of the job.
        run: Which run.
        seed: Its seed.
        asked: What it was asked for.
        command: That was given.
        machine: On which it ran.

    Raises:
        VieError: The run has not been evaluated at its end, or its record is damaged.
    """
    folder, config = plan.folder(run, seed), plan.config(run)
    evaluations = _evaluations(folder / EXPLORE if (folder / EXPLORE).is_dir() else folder, config)
    retraining = folder / RETRAINING
    task = plan.job.tasks[run.task]
    content = {
        "format": FORMAT,
        **asdict(run),
        "seed": seed,
        "asked": asked,
        "evaluations": evaluations,
        "retrained": json.loads(retraining.read_text()) if retraining.exists() else {},
        "protocol": {
            "metric": f"{task.score} of episodes without exploration, those of one seed alike at every evaluation",
            "score": task.score,
            "returns": task.returns,
            "environment": asdict(config.environment),
            "data": _facts(plan, run) if config.dataset else None,
            **{name: getattr(config, name) for name in _COUNTS},
            "command": command,
            "machine": machine,
        },
    }
    path = plan.out / "results" / f"seed{seed}" / f"{run.name}.json"
    if not path.exists() or any(_read(path)[key] != json.loads(json.dumps(content[key])) for key in _FOUND):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(path, json.dumps(content, indent=1) + "\n")
    return path


_COUNTS = (
    *("imitation_updates", "offline_updates", "online_steps", "updates_per_step"),
    *("evaluate_every", "evaluate_every_steps", "evaluation_episodes"),
)
_MEASURED: Sequence[str] = ("environment_steps", "return", "success", "length")
_FOUND = ("asked", "evaluations", "retrained")


def read_results(folder: Path) -> list[Content]:
    """The results files below a folder, in the order of their names; raises ``VieError`` for any other file."""
    return [_read(path) for path in sorted(folder.rglob("*.json"))]


def check_asked(plan: Plan, content: Content) -> None:
    """Raises ``VieError`` where results of a run of the job are of other settings than the job's."""
    run, seed = Run(content["task"], content["method"], content["encoder"]), content["seed"]
    if run not in plan.job.runs():
        return
    was, now = content["asked"]["settings"], plan.settings(run)
    for key in sorted(was.keys() | now.keys()):
        if was.get(key) != now.get(key):
            raise VieError(
                f"results of {plan.key(run, seed)} are of {key}={was.get(key, 'the default')}, and the job asks for "
                f"{now.get(key, 'the default')}: they are left out; train it again, or delete them"
            )


def records(content: Content) -> list[Record]:
    """What a results file comes to: its run, then each agent that was retrained.

    The measures are ``after imitation``, ``after offline``, ``final`` and ``best`` scores, ``regret`` and ``dip``; a
    run has those whose phases it has. A retrained agent has a final score alone.

    Raises:
        VieError: What the task is scored by was not measured.
    """
    run = Run(content["task"], content["method"], content["encoder"])
    protocol, seed = content["protocol"], content["seed"]
    offline_updates = protocol["offline_updates"]
    curve: list[tuple[float, float]] = []
    values: dict[str, float] = {}
    online: list[float] = []
    for row in content["evaluations"]:
        score, steps = score_of(row, protocol, run.name), row["environment_steps"]
        curve.append((steps or row["updates"] - offline_updates, score))
        if steps:
            online.append(score)
        elif row["updates"] == 0:
            values["after imitation"] = score
        elif row["updates"] == offline_updates:
            values["after offline"] = score
    values |= {"final": curve[-1][1], "best": max(score for _, score in curve)}
    if online:
        values["regret"] = regret(online)
        if "after offline" in values:
            values["dip"] = dip(values["after offline"], online)
    retrained = content["retrained"]
    return [
        Record(run, ACTED if retrained else "", seed, values, curve),
        *(
            Record(run, f"{RETRAINED}{steps}", seed, {"final": score_of(row, protocol, run.name)})
            for steps, row in retrained.items()
        ),
    ]


def score_of(row: Mapping[str, float], protocol: Mapping[str, Any], name: str) -> float:
    """The score of an evaluation, 0 at worst and 1 at best.

    Raises:
        VieError: It has not what the task is scored by.
    """
    kind = protocol["score"]
    if kind not in row:
        raise VieError(f"{name} was evaluated without {kind}: its environment tells none, so score the task by return")
    return normalised(row["return"], *protocol["returns"]) if kind == "return" else row[kind]


def _evaluations(folder: Path, config: TrainConfig) -> list[dict[str, float]]:
    """The evaluations of a run, each once."""
    found: dict[tuple[int, int], dict[str, float]] = {}
    for row in read_history(folder):
        if "return" in row and "environment_steps" in row:
            measured = {name: row[name] for name in _MEASURED if name in row}
            found[row["step"], row["environment_steps"]] = {"updates": row["step"]} | measured
    rows = list(found.values())
    if not rows or rows[-1]["environment_steps"] < config.online_steps or rows[-1]["updates"] < config.offline_updates:
        raise VieError(f"{folder} has no evaluation at its end: delete it to train it again")
    return rows


def _facts(plan: Plan, run: Run) -> dict[str, Any]:
    """What an offline dataset says of itself."""
    path = Path(plan.data(run.task)) / METADATA
    name = plan.job.tasks[run.task].data
    if not path.exists():
        return {"given": name}
    metadata = json.loads(path.read_text())
    counts = {"episodes": metadata.get("total_episodes"), "steps": metadata.get("total_steps")}
    return {**({"given": name} if name else {}), **counts, **metadata.get(FACTS, {})}


def _read(path: Path) -> Content:
    try:
        content: Content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise VieError(f"{path} cannot be read ({error}): delete it, and it is written again") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT or not content.keys() >= KEYS:
        raise VieError(f"{path} is no results file of vie-bench agents: take it out of this folder")
    return content
