"""Accuracy over steps, mean and spread over seeds: one figure for each corpus."""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vie.history import read_history

Curve = dict[int, list[float]]
"""Step -> one value for each seed."""
Curves = dict[tuple[str, str], dict[str, Curve]]
"""(Read-out, label) -> job -> curve."""


def draw_curves(runs: Mapping[str, Sequence[Path]], folder: Path) -> list[Path]:
    """Draws ``curves-CORPUS.svg``: a row of panels for each read-out, a column for each label, a line for each job.

    A dotted line marks a job's switch from instance recognition to local aggregation.

    Args:
        runs: Folders of the runs of each job, one for each seed; a job's name starts with its corpus and a dash.
        folder: Where the figures go.

    Returns:
        The files.
    """
    corpora: dict[str, dict[str, Sequence[Path]]] = defaultdict(dict)
    for job, folders in runs.items():
        corpus, _, name = job.partition("-")
        corpora[corpus][name] = folders
    return [_draw(corpus, jobs, folder / f"curves-{corpus}.svg") for corpus, jobs in corpora.items()]


def _draw(corpus: str, jobs: Mapping[str, Sequence[Path]], out: Path) -> Path:
    curves, switches = _collect(jobs)
    readouts, labels = (list(dict.fromkeys(key[part] for key in curves)) for part in (0, 1))
    figure = Figure(figsize=(2 + 3.4 * len(labels), 0.6 + 2.6 * len(readouts)), layout="constrained")
    panels = figure.subplots(max(1, len(readouts)), max(1, len(labels)), squeeze=False, sharex=True)
    colours = {name: f"C{number}" for number, name in enumerate(sorted(jobs))}
    for row, readout in zip(panels, readouts, strict=False):
        for axes, label in zip(row, labels, strict=False):
            for name, curve in sorted(curves[readout, label].items()):
                _draw_line(axes, name, curve, colours[name])
                if name in switches:
                    axes.axvline(switches[name], color=colours[name], linestyle=":", linewidth=1)
            axes.set_title(f"{label}, {readout}")
    for axes in panels[-1]:
        axes.set_xlabel("steps")
    for axes in panels[:, 0]:
        axes.set_ylabel("top-1, %")
    handles, names = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, title=corpus, frameon=False, loc="outside right upper")
    figure.savefig(out)
    return out


def _draw_line(axes: Axes, name: str, curve: Curve, colour: str) -> None:
    steps = sorted(curve)
    means = [statistics.mean(curve[step]) for step in steps]
    spreads = [statistics.stdev(curve[step]) if len(curve[step]) > 1 else 0.0 for step in steps]
    axes.plot(steps, means, label=name, color=colour)
    low, high = ([m + sign * s for m, s in zip(means, spreads, strict=True)] for sign in (-1, 1))
    axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)


def _collect(jobs: Mapping[str, Sequence[Path]]) -> tuple[Curves, dict[str, int]]:
    """The curves of all jobs, and the step at which each switches its objective."""
    curves: Curves = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    switches: dict[str, int] = {}
    for name, folders in jobs.items():
        for folder in folders:
            history = read_history(folder)
            for row in history:
                for result in row.get("evaluation", []):
                    curves[result["readout"], result["label"]][name][row["step"]].append(result["top1"])
            stages = {row["stage"] for row in history if "stage" in row}
            if stages == {"ir", "la"}:
                switches[name] = max(row["step"] for row in history if row.get("stage") == "ir")
    return curves, switches
