"""The comparisons of a job out of its results: per seed, per task, and over all of them with intervals."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from benchmarks.agents.job import Comparison, Job
from benchmarks.agents.measures import interquartile_mean, stratified_interval
from benchmarks.agents.results import Record

MEASURES = ("after imitation", "after offline", "final", "best", "regret", "dip")
LOWER_IS_BETTER = {"regret", "dip"}

BySeed = dict[str, dict[int, float]]
"""Task -> seed -> value."""


class Aggregate(NamedTuple):
    """An interquartile mean over tasks and seeds.

    Attributes:
        iqm: It.
        interval: Its 95 % interval; None where a task has a single seed, which says nothing of chance.
    """

    iqm: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Line:
    """An agent of a comparison, over its tasks and seeds.

    Attributes:
        label: What tables and figures call it: whatever of method and encoder differs within the comparison, and which
            agent of its runs it is.
        records: Of its runs, in the order of tasks and seeds.
        tasks: Of the comparison.
    """

    label: str
    records: Sequence[Record]
    tasks: Sequence[str]

    def values(self, measure: str) -> BySeed:
        """A measure where there is one."""
        found: BySeed = {}
        for task in self.tasks:
            mine = {r.seed: r.values[measure] for r in self.records if r.run.task == task and measure in r.values}
            if mine:
                found[task] = mine
        return found

    def over_all(self, measure: str) -> Aggregate | None:
        """A measure over all tasks and seeds; None where there is no value."""
        by_task = [list(seeds.values()) for seeds in self.values(measure).values()]
        if not by_task:
            return None
        interval = stratified_interval(by_task) if min(map(len, by_task)) > 1 else None
        return Aggregate(float(interquartile_mean(np.concatenate(by_task))), interval)


def lines(job: Job, comparison: Comparison, found: Sequence[Record]) -> list[Line]:
    """The agents of a comparison that have results, in the job's order."""
    wanted = job.runs_of(comparison)
    place = {run: number for number, run in enumerate(wanted)}
    groups: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
    mine = [record for record in found if record.run in place]
    for record in sorted(mine, key=lambda one: (place[one.run], one.seed)):
        groups[record.run.method, record.run.encoder, record.arm].append(record)
    order = {(run.method, run.encoder): number for number, run in reversed(list(enumerate(wanted)))}
    tasks = list(dict.fromkeys(run.task for run in wanted))
    # Retrained agents come after the one that explored, as in their files.
    keys = sorted(groups, key=lambda key: order[key[:2]])
    return [Line(_label(comparison, *key), groups[key], tasks) for key in keys]


def _label(comparison: Comparison, method: str, encoder: str, arm: str) -> str:
    parts = [method] if len(comparison.methods) > 1 or len(comparison.encoders) == 1 else []
    parts += [encoder] if len(comparison.encoders) > 1 else []
    return ", ".join([*parts, *([arm] if arm else [])])


def summary(job: Job, found: Sequence[Record]) -> dict[str, Any]:
    """All comparisons as JSON has them: for each agent its interquartile means, their intervals, and every value."""
    content: dict[str, Any] = {}
    for name, comparison in job.comparisons.items():
        content[name] = [
            {
                "agent": line.label,
                "runs": len(line.records),
                "measures": {
                    measure: {**whole._asdict(), "values": line.values(measure)}
                    for measure in MEASURES
                    if (whole := line.over_all(measure))
                },
            }
            for line in lines(job, comparison, found)
        ]
    return content
