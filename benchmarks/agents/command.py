"""``vie-bench agents``: carries a job out, or on, and tells what it came to."""

import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from benchmarks.agents.figure import draw
from benchmarks.agents.job import read_job
from benchmarks.agents.measures import DRAWS
from benchmarks.agents.results import Record, check_asked, read_results, records, write_result
from benchmarks.agents.runs import Plan
from benchmarks.agents.summary import summary
from benchmarks.agents.table import tables
from benchmarks.works import carry_out
from pretrain.runtime import describe_machine, resolve_device
from vie import VieError
from vie.files import write_text_atomically

THREADS = "OMP_NUM_THREADS"
PROTOCOL = (
    "interquartile means over tasks and seeds of scores from 0 to 1; 95 % intervals by the percentiles of "
    f"{DRAWS} bootstraps, which draw seeds within each task"
)


@dataclass(frozen=True)
class Order:
    """What the command was asked for.

    Attributes:
        job: Its file.
        out: Folder of everything that comes of it.
        seeds: Of the runs.
        parallel: Processes at a time.
        gpus: That they are spread over, as CUDA_VISIBLE_DEVICES takes them; all visible ones unless given.
        given: Paths by the job's names for them.
        only: Text that the names of the runs contain that are trained.
        train: Whether anything is trained; otherwise it is told what there is.
    """

    job: Path
    out: Path
    seeds: Sequence[int]
    parallel: int = 1
    gpus: Sequence[str] = ()
    given: dict[str, str] = field(default_factory=dict)
    only: str = ""
    train: bool = True


def run_agents(order: Order) -> list[str]:
    """Trains what is missing, and writes results, ``summary.json``, ``tables.md`` and figures.

    Results of other machines may be put among those of this one: all below ``results/`` are told of.

    Args:
        order: What is asked for.

    Returns:
        What went wrong, by run.

    Raises:
        VieError: The job, or what was given for it, is at fault; nothing has been begun then.
    """
    job = read_job(order.job)
    out = order.out.resolve()
    plan = Plan(job, out, {name: _source(name, path) for name, path in order.given.items()})
    errors = _train(plan, order) if order.train else []
    found: list[Record] = []
    for content in read_results(out / "results"):
        try:
            check_asked(plan, content)
            found += records(content)
        except VieError as error:
            errors.append(str(error))
    told = tables(job, found)
    out.mkdir(parents=True, exist_ok=True)
    content = {"job": job.name, "protocol": PROTOCOL, "comparisons": summary(job, found)}
    write_text_atomically(out / "summary.json", json.dumps(content, indent=1) + "\n")
    write_text_atomically(out / "tables.md", told + "\n")
    draw(job, found, out / "figures")
    print(told)
    return errors


def _source(name: str, path: str) -> str:
    """A path from wherever a process starts, or the name of something as it is.

    Raises:
        VieError: It is written as a path, and there is none.
    """
    if Path(path).exists():
        return str(Path(path).resolve())
    if path.startswith(("/", ".", "~")):
        raise VieError(f"--given {name}={path} is not there: give the path of an encoder or a dataset, or a name")
    return path


def _train(plan: Plan, order: Order) -> list[str]:
    """Carries out what is missing and keeps its results; returns what went wrong."""
    works = plan.works(order.seeds)
    wanted = {key for key in works if order.only in key}
    if not wanted:
        raise VieError(f"no run's name contains {order.only!r}: they are {', '.join(works)}")
    needed = {need for key in wanted for need in works[key].needs}
    chosen = {key: work for key, work in works.items() if key in wanted | needed}
    # Each process would take all cores otherwise.
    threads = str(max(1, len(os.sched_getaffinity(0)) // max(1, order.parallel)))
    failed = carry_out(chosen, order.parallel, order.gpus, {THREADS: os.environ.get(THREADS, threads)})
    errors = [f"{key}: {error if isinstance(error, VieError) else repr(error)}" for key, error in failed.items()]
    command, machine = shlex.join(sys.argv), describe_machine(resolve_device("auto"))
    for run, seed in product(plan.job.runs(), order.seeds):
        key = plan.key(run, seed)
        if key in chosen and key not in failed:
            try:
                write_result(plan, run, seed, works[key].to_make, command, machine)
            except VieError as error:
                errors.append(f"{key}: {error}")
    return errors
