"""Figures of comparisons: learning curves of every task, and measures over all tasks with their intervals."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.agents.job import Job
from benchmarks.agents.results import RETRAINED, Record
from benchmarks.agents.summary import LOWER_IS_BETTER, MEASURES, Line, lines

PLACES = 100
"""Of a curve, between which seeds are put together: their evaluations follow the ends of their own episodes."""

Curve = Sequence[tuple[float, float]]
Numbers = npt.NDArray[np.float64]


def draw(job: Job, found: Sequence[Record], out: Path) -> list[Path]:
    """Draws ``curves-COMPARISON.svg`` and ``measures-COMPARISON.svg`` for each comparison that has results.

    Args:
        job: What is compared.
        found: What there is.
        out: Folder; made if absent.

    Returns:
        The files.
    """
    out.mkdir(parents=True, exist_ok=True)
    files = []
    for name, comparison in job.comparisons.items():
        agents = lines(job, comparison, found)
        if agents:
            for kind, figure in (("curves", _curves(agents, name)), ("measures", _measures(agents, name))):
                files.append(out / f"{kind}-{name}.svg")
                figure.savefig(files[-1])
    return files


def together(curves: Sequence[Curve]) -> tuple[Numbers, Numbers]:
    """Curves of several seeds at common places, where all of them have begun and none has ended.

    Args:
        curves: Of (place, score), places rising.

    Returns:
        Places (P,), and scores (seeds, P) on the straight lines between evaluations.
    """
    first, last = max(curve[0][0] for curve in curves), min(curve[-1][0] for curve in curves)
    places = np.linspace(first, max(first, last), PLACES)
    return places, np.stack([np.interp(places, *np.transpose(curve)) for curve in curves])


def _curves(agents: Sequence[Line], title: str) -> Figure:
    """A panel for each task, a line for each agent with the range of its seeds; the dotted line is the switch."""
    tasks = agents[0].tasks
    figure = Figure(figsize=(2.6 + 3.2 * len(tasks), 3.0), layout="constrained")
    panels = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
    for axes, task in zip(panels, tasks, strict=True):
        for line, colour in zip(agents, _colours(agents), strict=True):
            _draw_line(axes, line, task, colour)
        axes.axvline(0, color="C7", linestyle=":", linewidth=1)
        axes.set(title=task, xlabel="updates left offline | steps online")
        axes.update_datalim(((0, 0), (0, 1)))
        axes.autoscale_view()
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("score")
    handles = {name: handle for axes in panels for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), title=title, frameon=False, loc="outside right upper")
    return figure


def _colours(agents: Sequence[Line]) -> list[str]:
    """One for each method and encoder: agents that were retrained have that of whoever gathered their data."""
    keys = [(line.records[0].run.method, line.records[0].run.encoder) for line in agents]
    known = list(dict.fromkeys(keys))
    return [f"C{known.index(key)}" for key in keys]


def _draw_line(axes: Axes, line: Line, task: str, colour: str) -> None:
    mine = [record for record in line.records if record.run.task == task]
    curves = [record.curve for record in mine if record.curve]
    if curves:
        places, scores = together(curves)
        axes.plot(places, scores.mean(axis=0), label=line.label, color=colour)
        axes.fill_between(places, scores.min(axis=0), scores.max(axis=0), color=colour, alpha=0.2, linewidth=0)
    elif mine:  # a retrained agent has a single score, which stands where its data ends
        finals = [record.values["final"] for record in mine]
        where = [float(record.arm.removeprefix(RETRAINED)) for record in mine]
        axes.plot(where, finals, "o", markerfacecolor="none", label=line.label, color=colour)


def _measures(agents: Sequence[Line], title: str) -> Figure:
    """A panel for each measure, a point and its interval for each agent; small marks are its tasks' means."""
    measures = [name for name in MEASURES if any(line.values(name) for line in agents)]
    figure = Figure(figsize=(2.4 + 2.2 * len(measures), 1.1 + 0.3 * len(agents)), layout="constrained")
    panels = figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]
    for axes, measure in zip(panels, measures, strict=True):
        for row, (line, colour) in enumerate(zip(agents, _colours(agents), strict=True)):
            if (whole := line.over_all(measure)) is not None:
                if whole.interval:
                    axes.plot(whole.interval, (row, row), color=colour, linewidth=6, alpha=0.35)
                axes.plot(whole.iqm, row, "|", color=colour, markersize=12, markeredgewidth=2)
                means = [float(np.mean(list(seeds.values()))) for seeds in line.values(measure).values()]
                axes.plot(means, [row] * len(means), ".", color="C7", markersize=3)
        axes.set(title=f"{measure}{' (lower is better)' if measure in LOWER_IS_BETTER else ''}")
        axes.update_datalim(((-0.2 if measure == "dip" else 0, 0), (0.2 if measure == "dip" else 1, 0)))
        axes.autoscale_view()
        axes.grid(alpha=0.3)
    panels[0].set_yticks(range(len(agents)), [line.label for line in agents])
    panels[0].invert_yaxis()
    figure.suptitle(f"{title}: interquartile mean, 95 % interval", fontsize="medium")
    return figure
