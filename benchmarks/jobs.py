"""The jobs of a benchmark: what each trains or joins, from what, and what its encoder is measured on."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from benchmarks.transfer.config import parse_task
from benchmarks.works import Asked, Command, asked_of
from pretrain.settings import parse_config
from pretrain.summary import last_stage
from vie import VieError


@dataclass(frozen=True)
class Transfer:
    """A task that an encoder is measured on, as `vie-bench transfer` takes it.

    Attributes:
        task: Name of the task, or its YAML file.
        corpus: Prepared corpus; by default the job's own.
        modes: What is measured; null is the task's own.
        splits: Ways to split the corpus, each measured by itself; null is the task's own.
        settings: ``key=value`` over the task.
    """

    task: str
    corpus: str | None = None
    modes: list[str] | None = None
    splits: list[str | None] = field(default_factory=lambda: [None])
    settings: list[str] = field(default_factory=list)

    def by_split(self) -> list[list[str]]:
        """The settings of each of its measurements."""
        shared = [*([f"modes={json.dumps(self.modes)}"] if self.modes else []), *self.settings]
        return [shared if split is None else [*shared, f"data.split={split}"] for split in self.splits]


@dataclass(frozen=True)
class Job:
    """One entry of a jobs file.

    Attributes:
        name: Its corpus's name, a dash, and what the tables call it.
        corpus: Prepared corpus, a folder beside the others.
        recipes: Of the run, each laid over the one before.
        settings: ``key=value`` over the recipes.
        start: Job whose encoder the training begins from.
        hybrid: Two jobs, static and dynamic, whose encoders are joined; nothing is trained then.
        joined: Jobs of one such name are streams of one corpus, whose features are also tested side by side.
        transfer: What the encoder is measured on.
    """

    name: str
    corpus: str
    recipes: list[str] = field(default_factory=list)
    settings: list[str] = field(default_factory=list)
    start: str | None = None
    hybrid: list[str] = field(default_factory=list)
    joined: str | None = None
    transfer: list[Transfer] = field(default_factory=list)

    @property
    def needs(self) -> list[str]:
        """Jobs that come before this one."""
        return [*self.hybrid, *([self.start] if self.start else [])]

    def run(self, out: Path, seed: int) -> Path:
        """Folder of the run."""
        return out / f"seed{seed}" / self.name

    def making(self, jobs: dict[str, "Job"], data: Path, out: Path, seed: int) -> Command:
        """The command that trains or joins its encoder; the jobs that it needs are done."""
        run = self.run(out, seed)
        if self.hybrid:
            parts = [str(jobs[name].encoder(out, seed)) for name in self.hybrid]
            return [sys.executable, "-m", "pretrain", "join", *parts, str(run / "encoder-joined")]
        settings = [f"run={run}", f"seed={seed}", f"data.path={data / self.corpus}", *self.settings]
        if self.start:
            settings.append(f"model.start={jobs[self.start].encoder(out, seed)}")
        return [
            sys.executable,
            "-m",
            "pretrain",
            "train",
            *(f"--config={recipe}" for recipe in self.recipes),
            *settings,
        ]

    def measuring(self, data: Path, out: Path, seed: int) -> list[Command]:
        """The commands that measure its encoder, which is there."""
        name = self.name.partition("-")[2] or self.name
        encoder, results = str(self.encoder(out, seed)), str(out / "transfer")
        return [
            [
                *(sys.executable, "-m", "benchmarks", "transfer", transfer.task, encoder, "--name", name),
                *("--out", results, "--data", str(data / (transfer.corpus or self.corpus)), *settings),
            ]
            for transfer in self.transfer
            for settings in transfer.by_split()
        ]

    def to_make(self, jobs: dict[str, "Job"]) -> Asked:
        """What ``making`` is asked for, and what its beginning and its parts are made of.

        Raises:
            VieError: A recipe is missing, or a setting is wrong.
        """
        return {
            "corpus": self.corpus,
            "settings": {} if self.hybrid else asked_of(parse_config(self.recipes, self.settings), _changes_nothing),
            "start": jobs[self.start].to_make(jobs) if self.start else None,
            "hybrid": [jobs[name].to_make(jobs) for name in self.hybrid],
        }

    def to_measure(self) -> list[Asked]:
        """What each command of ``measuring`` is asked for; raises ``VieError`` as ``to_make``."""
        return [
            {"corpus": transfer.corpus or self.corpus, "settings": asked_of(parse_task(transfer.task, settings))}
            for transfer in self.transfer
            for settings in transfer.by_split()
        ]

    def encoder(self, out: Path, seed: int) -> Path:
        """Folder of its finished encoder."""
        run = self.run(out, seed)
        return run / f"encoder-{'joined' if self.hybrid else last_stage(run)}"


def read_jobs(path: Path) -> dict[str, Job]:
    """The jobs of a YAML file, by name; keys that begin with a dot hold what the entries share.

    Raises:
        VieError: The file is missing or holds no jobs, or an entry is malformed or needs a job that does not stand
            before it.
    """
    try:
        entries = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise VieError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(entries, dict):
        raise VieError(f"{path} holds no jobs: give keys and values, as benchmarks/pretraining.yaml has them")
    jobs: dict[str, Job] = {}
    for name, content in entries.items():
        if str(name).startswith("."):
            continue
        try:
            transfer = [Transfer(**one) for one in content.get("transfer", [])]
            job = Job(**{"name": str(name), **content, "transfer": transfer})
        except (TypeError, AttributeError) as error:
            raise VieError(f"{path}: {name} is no job ({error}): see benchmarks.jobs.Job") from error
        if missing := [needed for needed in job.needs if needed not in jobs]:
            raise VieError(f"{path}: {name} needs {', '.join(missing)}: list what it needs before it")
        jobs[job.name] = job
    return jobs


def _changes_nothing(key: str) -> bool:
    """Whether a setting leaves the encoder as it is."""
    return key.startswith("monitor.")
