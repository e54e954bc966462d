"""Markdown tables of comparisons; no figure is typed by hand."""

import statistics
from collections.abc import Sequence

from benchmarks.agents.job import Job
from benchmarks.agents.results import Record
from benchmarks.agents.summary import MEASURES, Line, lines


def tables(job: Job, found: Sequence[Record]) -> str:
    """Two tables for each comparison: all measures over its tasks, and the final scores of each task and seed."""
    parts = []
    for name, comparison in job.comparisons.items():
        agents = lines(job, comparison, found)
        if not agents:
            continue
        seeds = len({record.seed for line in agents for record in line.records})
        over = f"{_count(len(agents[0].tasks), 'task')} and {_count(seeds, 'seed')}"
        head = f"**{name}**: interquartile mean over {over} [95 % interval]"
        whole = len(agents[0].tasks) * seeds
        parts += [head, _overall(agents, whole), f"**{name}**: final score by task", _by_task(agents)]
    return "\n\n".join(parts) or "There are no results yet."


def _overall(agents: Sequence[Line], whole: int) -> str:
    columns = [name for name in MEASURES if any(line.values(name) for line in agents)]
    rows = []
    for line in agents:
        runs = "" if len(line.records) == whole else f" ({len(line.records)} of {whole} runs)"
        rows.append([line.label + runs, *(_interval(line, name) for name in columns)])
    return _markdown(["agent", *columns], rows)


def _by_task(agents: Sequence[Line]) -> str:
    rows = []
    for line in agents:
        values = line.values("final")
        rows.append([line.label, *(_spread(values.get(task, {})) for task in line.tasks)])
    return _markdown(["agent", *agents[0].tasks], rows)


def _interval(line: Line, measure: str) -> str:
    if (whole := line.over_all(measure)) is None:
        return ""
    mean, interval = whole
    return _number(mean) + (f" [{_number(interval[0])}, {_number(interval[1])}]" if interval else "")


def _spread(by_seed: dict[int, float]) -> str:
    """Mean over seeds, and every seed's value."""
    if not by_seed:
        return ""
    values = [by_seed[seed] for seed in sorted(by_seed)]
    return f"{_number(statistics.mean(values))} ({', '.join(map(_number, values))})"


def _number(value: float) -> str:
    return f"{value:z.2f}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {' | '.join(row)} |" for row in rows)])
