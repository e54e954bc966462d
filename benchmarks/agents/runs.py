"""The works of a job of agents: its datasets, each once, and its runs, each with every seed."""

import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.agents.job import Job, Run, Task
from benchmarks.works import Asked, Command, Work, asked_of
from rl_encoders.demonstrators import REPLAY
from rl_encoders.training.commands import CONFIG_NAME
from rl_encoders.training.settings import TrainConfig, parse_ooo_config, parse_train_config
from vie import VieError
from vie.settings import flatten

PARSERS: dict[str, Callable[[Sequence[str | Path], Sequence[str]], TrainConfig]] = {
    "train": parse_train_config,
    "ooo": parse_ooo_config,
}
"""What reads the settings of a command of ``vie-rl``."""

FREE = {"device", "films", "log_every", "checkpoint_every", "encoder.cache", "environment.parallel"}
"""Settings that a finished run has no trace of, or that say how fast it went."""

PLACED = {"run", "seed", "dataset", "encoder.source"}
"""Settings whose values are folders of the machine, or count up."""

OWN = PLACED | {f"environment.{name}" for name in ("name", "size", "max_steps", "reward", "arguments", "state")}
"""Settings that a job says by its tasks and encoders."""


@dataclass(frozen=True)
class Plan:
    """A job on a machine.

    Attributes:
        job: What is to be done.
        out: Folder of everything that comes of it.
        given: Paths, or other sources, by the job's names for them.
    """

    job: Job
    out: Path
    given: Mapping[str, str]
    _configs: dict[Run, TrainConfig] = field(default_factory=dict, repr=False, compare=False)

    def folder(self, run: Run, seed: int) -> Path:
        """Of a run."""
        return self.out / f"seed{seed}" / run.name

    @staticmethod
    def key(run: Run, seed: int) -> str:
        """Of its work."""
        return f"seed{seed}/{run.name}"

    def data(self, task: str) -> str:
        """The offline dataset of a task, as ``vie-rl train`` takes it; empty if it has none."""
        one = self.job.tasks[task]
        if one.data:
            return self.given.get(one.data, one.data)
        return str(self._collected(task) / "episodes") if one.collect else ""

    def works(self, seeds: Sequence[int]) -> dict[str, Work]:
        """Datasets first, then all runs of a seed before those of the next.

        Raises:
            VieError: Something is not given, or a recipe or a setting is wrong; names the run.
        """
        unknown = [name for name in self.given if name not in self.job.given]
        if unknown:
            known = ", ".join(self.job.given) or "nothing"
            raise VieError(f"{self.job.name} asks for no {unknown[0]}: it asks for {known}")
        for name, what in self.job.given.items():
            if name not in self.given:
                raise VieError(f"{self.job.name} asks for {name} ({what}): give it as --given {name}=PATH")
        runs, digests = self.job.runs(), {name: digest(source) for name, source in self.given.items()}
        found: dict[str, Work] = {}
        for task in dict.fromkeys(run.task for run in runs):
            if self.job.tasks[task].collect:
                found[_data_key(task)] = self._collecting(task, digests)
        asked = {run: self._asked(run, digests) for run in runs}
        for seed in seeds:
            found |= {self.key(run, seed): self._running(run, seed, asked[run]) for run in runs}
        return found

    def config(self, run: Run) -> TrainConfig:
        """The settings of a run of seed 0.

        Raises:
            VieError: One is wrong, or is said elsewhere in the job.
        """
        method = self.job.methods[run.method]
        if run not in self._configs:  # as parsing takes a tenth of a second
            try:
                self._configs[run] = PARSERS[method.command](method.recipes, self._settings(run, 0))
            except VieError as error:
                raise VieError(f"{self.job.name}, {run.name}: {error}") from error
        return self._configs[run]

    def settings(self, run: Run) -> Asked:
        """Those that decide what comes of a run, but for the defaults; raises ``VieError`` as ``config``."""
        return asked_of(self.config(run), lambda key: key in FREE | PLACED)

    def _collected(self, task: str) -> Path:
        return self.out / "data" / task

    def _collecting(self, name: str, digests: Mapping[str, str]) -> Work:
        task = self.job.tasks[name]
        assert task.collect is not None
        how = task.collect
        if how.recorded:
            how = replace(how, policy=REPLAY + self.given[how.recorded])
        command = [sys.executable, "-m", "rl_encoders", "collect", task.environment, "--out", self.data(name)]
        command += [f"--{setting}={value}" for setting, value in asdict(how).items()]
        command += [f"--size={task.size}", f"--reward={task.reward}"]
        command += [] if task.max_steps is None else [f"--max-steps={task.max_steps}"]
        command += [f"{argument}={json.dumps(value)}" for argument, value in task.arguments.items()]

        def follows(before: Asked) -> None:
            if before["episodes"] > how.episodes:
                raise VieError(f"it was to hold {before['episodes']} episodes, not {how.episodes}: delete its folder")

        return Work(f"data of {name}", self._collected(name), _made_of(task, digests), lambda: command, follows=follows)

    def _running(self, run: Run, seed: int, asked: Asked) -> Work:
        method, task, folder = self.job.methods[run.method], self.job.tasks[run.task], self.folder(run, seed)

        def make() -> Command:
            recipes = [f"--config={recipe}" for recipe in method.recipes]
            command = [sys.executable, "-m", "rl_encoders", method.command]
            return [*command, *recipes, *self._settings(run, seed)]

        def follows(before: Asked) -> None:
            if any(folder.rglob(CONFIG_NAME)):
                _check_same(before, asked)

        needs = [_data_key(run.task)] if method.offline and task.collect else []
        return Work(f"{run.name} of seed {seed}", folder, asked, make, needs, follows=follows)

    def _settings(self, run: Run, seed: int) -> list[str]:
        task, encoder, method = self.job.tasks[run.task], self.job.encoders[run.encoder], self.job.methods[run.method]
        said = [*self.job.settings, *task.settings, *encoder.settings, *method.settings]
        for setting in said:
            key = setting.partition("=")[0]
            if key in OWN:
                raise VieError(f"{key} is no setting of a job: its tasks and encoders say it by fields of their own")
        source = self.given.get(encoder.source, encoder.source)
        return [
            *said,
            *(f"run={self.folder(run, seed)}", f"seed={seed}", f"encoder.source={source}"),
            f"dataset={self.data(run.task) if method.offline else ''}",
            *(f"environment.name={task.environment}", f"environment.size={task.size}"),
            f"environment.max_steps={'null' if task.max_steps is None else task.max_steps}",
            *(f"environment.reward={task.reward}", f"environment.state=[{','.join(task.state)}]"),
            f"environment.arguments={json.dumps(task.arguments)}",
        ]

    def _asked(self, run: Run, digests: Mapping[str, str]) -> Asked:
        """What a run is asked for, without folders of this machine but with what lies in them."""
        task, encoder, method = self.job.tasks[run.task], self.job.encoders[run.encoder], self.job.methods[run.method]
        data: Any = None
        if method.offline:
            data = digests[task.data] if task.data else _made_of(task, digests)
        return {
            "command": method.command,
            "encoder": digests.get(encoder.source, encoder.source),
            "data": data,
            "settings": self.settings(run),
        }


def digest(source: str) -> str:
    """What a source holds, wherever it lies: SHA-256 of its files' names and contents; itself if it is no path."""
    path = Path(source)
    if not path.exists():
        return source
    files = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
    sums = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            sums.update(str(file.relative_to(path)).encode() + hashlib.file_digest(opened, "sha256").digest())
    return sums.hexdigest()


def _data_key(task: str) -> str:
    return f"data/{task}"


def _made_of(task: Task, digests: Mapping[str, str]) -> Asked:
    """What decides what a dataset holds that is made here."""
    assert task.collect is not None
    how = {name: value for name, value in asdict(task.collect).items() if name != "parallel"}
    recordings = {"recordings": digests[task.collect.recorded]} if task.collect.recorded else {}
    world = {name: getattr(task, name) for name in ("environment", "size", "max_steps", "reward")}
    arguments = {"arguments": task.arguments} if task.arguments else {}
    return world | arguments | how | recordings


def _check_same(before: Asked, now: Asked) -> None:
    """Raises ``VieError`` where a run was begun as something that it cannot become; it can only become longer."""
    was, becomes = flatten(before), flatten(now)
    longer = "settings.online_steps"
    if before["command"] == "train" and was.get(longer, 0) < becomes.get(longer, 0):
        was.pop(longer, None)
        becomes.pop(longer)
    for key in sorted(was.keys() | becomes.keys()):
        if was.get(key) != becomes.get(key):
            raise VieError(
                f"it was begun with {key}={was.get(key, 'the default')}, not {becomes.get(key, 'the default')}: delete "
                "its folder to train it again, or give another --run"
            )
