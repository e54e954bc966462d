"""What a job file of agents says: tasks, encoders, methods, and which of their combinations stand beside each other."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from jsonargparse import ArgumentParser

from rl_encoders.demonstrators import REPLAY
from vie import VieError

Entry = TypeVar("Entry")


@dataclass(frozen=True)
class Collected:
    """An offline dataset that ``vie-rl collect`` makes in the task's environment, with the task's pictures and rewards.

    Attributes:
        policy: Of those that the environment has; ``random``; or ``replay:NAME`` of recordings among ``given``.
        noise: Standard deviation of what is added to scripted and recorded actions.
        episodes: That it holds.
        seed: Of its episodes; agents of all seeds learn from the same data.
        parallel: Episodes at once.
    """

    policy: str = "random"
    noise: float = 0.0
    episodes: int = 20
    seed: int = 0
    parallel: int = 1

    @property
    def recorded(self) -> str:
        """The name of the recordings that are done again; empty if there are none."""
        return self.policy.removeprefix(REPLAY) if self.policy.startswith(REPLAY) else ""


@dataclass(frozen=True)
class Task:
    """Where agents act, and what they learn from before.

    Attributes:
        environment: As ``rl_encoders.environments.make_environment`` takes it, like the next four.
        size: Side of the pictures in pixels.
        max_steps: Of an episode; null is the environment's own.
        reward: ``task`` or ``success``.
        arguments: Of the environment's own constructor.
        state: Parts of an observation that are numbers, which the agents see too.
        collect: The offline dataset, where it is to be made.
        data: Name among ``given``, where it is there already.
        score: What an agent is measured by: the share of episodes with ``success``, or their mean ``return``.
        returns: The returns that count as 0 and as 1; for ``return`` alone.
        settings: ``key=value`` of ``vie-rl train``.
    """

    environment: str
    size: int = 64
    max_steps: int | None = None
    reward: Literal["task", "success"] = "task"
    arguments: dict[str, Any] = field(default_factory=dict)
    state: list[str] = field(default_factory=list)
    collect: Collected | None = None
    data: str | None = None
    score: Literal["success", "return"] = "success"
    returns: tuple[float, float] | None = None
    settings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Encoder:
    """What agents see through.

    Attributes:
        source: As ``rl_encoders.load`` takes it, or a name among ``given``; empty for agents that see numbers alone.
        settings: ``key=value`` of ``vie-rl train``.
    """

    source: str = ""
    settings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Method:
    """How agents learn.

    Attributes:
        command: Of ``vie-rl``: ``train``, or ``ooo``, which retrains offline.
        recipes: Each laid over the one before.
        settings: ``key=value`` over these, and over those of the job, the task and the encoder.
        offline: Whether they learn from the task's dataset; otherwise from what they find themselves alone.
    """

    command: Literal["train", "ooo"] = "train"
    recipes: list[str] = field(default_factory=list)
    settings: list[str] = field(default_factory=list)
    offline: bool = True


@dataclass(frozen=True)
class Comparison:
    """Agents that stand side by side in a table and a figure: every method with every encoder on every task.

    Attributes:
        methods, encoders: By name.
        tasks: By name; all unless given.
    """

    methods: list[str]
    encoders: list[str]
    tasks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Run:
    """An agent, but for its seed."""

    task: str
    method: str
    encoder: str

    @property
    def name(self) -> str:
        return f"{self.task}/{self.method}/{self.encoder}"


@dataclass(frozen=True)
class Job:
    """A job file.

    Attributes:
        name: Of the file, without its end.
        given: Names of what only the command line can tell (encoders, datasets), and what they stand for.
        settings: ``key=value`` of ``vie-rl train`` for all runs, over their recipes.
        tasks, encoders, methods, comparisons: By name.
    """

    name: str
    given: Mapping[str, str]
    settings: list[str]
    tasks: Mapping[str, Task]
    encoders: Mapping[str, Encoder]
    methods: Mapping[str, Method]
    comparisons: Mapping[str, Comparison]

    def runs(self) -> list[Run]:
        """The agents of all comparisons, each once."""
        return list(dict.fromkeys(run for one in self.comparisons.values() for run in self.runs_of(one)))

    def runs_of(self, comparison: Comparison) -> list[Run]:
        """The agents of one."""
        tasks = comparison.tasks or list(self.tasks)
        return [Run(t, m, e) for t in tasks for m in comparison.methods for e in comparison.encoders]


SECTIONS: dict[str, type] = {"tasks": Task, "encoders": Encoder, "methods": Method, "comparisons": Comparison}


def read_job(path: Path) -> Job:
    """Reads a job file.

    Raises:
        VieError: It is missing or damaged, or an entry is malformed or names one that is not there.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise VieError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from error
    known = [*SECTIONS, "given", "settings"]
    if not isinstance(content, dict) or not content.keys() >= SECTIONS.keys():
        raise VieError(f"{path} is no job of agents: give {', '.join(SECTIONS)}, as benchmarks/small_agents.yaml does")
    # What begins with a dot is for YAML's own references.
    for name in content:
        if not str(name).startswith("."):
            _check_name(str(name), known, str(path), "has no part")
    sections: dict[str, Any] = {
        section: {str(name): _entry(kind, one, f"{path}: {section}.{name}") for name, one in _named(content, section)}
        for section, kind in SECTIONS.items()
    }
    given = {str(name): str(what) for name, what in (content.get("given") or {}).items()}
    job = Job(path.stem, given, list(content.get("settings") or []), **sections)
    _check(job, path)
    return job


def _named(content: Mapping[str, Any], section: str) -> list[tuple[str, Any]]:
    entries = content[section]
    if not isinstance(entries, dict) or not entries:
        raise VieError(f"the job has no {section}: give some, by name")
    for name in entries:
        if not re.fullmatch(r"[\w.+-]+", str(name)):
            raise VieError(f"{section}: {name!r} cannot name a folder: use letters, digits and . + - _")
    return list(entries.items())


def _entry(kind: type[Entry], content: Any, where: str) -> Entry:
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise VieError(f"{where} is {content!r}: give keys and values, as benchmarks/small_agents.yaml does")
    known = [one.name for one in fields(kind)]  # type: ignore[arg-type]
    for name in content:
        _check_name(str(name), known, where, "takes no")
    needed = [one.name for one in fields(kind) if one.default is one.default_factory is MISSING]  # type: ignore[arg-type]
    if missing := [name for name in needed if name not in content]:
        raise VieError(f"{where} lacks {', '.join(missing)}: give it, as benchmarks/small_agents.yaml does")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind)
    try:
        values = parser.instantiate(parser.parse_object(content)).as_dict()
    except Exception as error:  # jsonargparse raises errors of many types for a bad value
        raise VieError(f"{where}: {' '.join(str(error).split())}") from error
    return kind(**values)


def _check_name(name: str, known: list[str], where: str, what: str) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise VieError(f"{where} {what} {name!r}: {f'did you mean {near[0]!r}?' if near else ', '.join(known)}")


def _check(job: Job, path: Path) -> None:
    for name, one in job.comparisons.items():
        for section in ("tasks", "methods", "encoders"):
            for named in getattr(one, section):
                _check_name(named, list(getattr(job, section)), f"{path}: comparisons.{name}", f"names {section}, not")
        if not (one.methods and one.encoders):
            raise VieError(f"{path}: comparisons.{name} compares nothing: give it methods and encoders")
    for name, task in job.tasks.items():
        where = f"{path}: tasks.{name}"
        if task.collect and task.data:
            raise VieError(f"{where} has two datasets: give collect to make one, or data to name one that is there")
        if task.data:
            _check_name(task.data, list(job.given), where, "takes data that is not among given,")
        if task.collect and task.collect.recorded:
            _check_name(task.collect.recorded, list(job.given), where, "replays what is not among given,")
        if (task.score == "return") != (task.returns is not None):
            raise VieError(f"{where} is scored by {task.score}: give returns=[least, most] with score=return alone")
        if task.returns and not task.returns[1] > task.returns[0]:
            raise VieError(f"{where} has returns from {task.returns[0]:g} to {task.returns[1]:g}: give [least, most]")
    for run in job.runs():
        if job.methods[run.method].offline and not (job.tasks[run.task].collect or job.tasks[run.task].data):
            raise VieError(
                f"{path}: {run.method} learns offline, and {run.task} has no data: give the task collect or data, or "
                "the method offline=false"
            )
