"""Accuracy over steps, mean and spread over seeds, as one figure."""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from pretrain.history import read_history

Curve = dict[int, list[float]]  # step -> one value for each seed


def draw_curves(runs: Mapping[str, Sequence[Path]], out: Path) -> None:
    """Draws the linear accuracy of every job, one panel for each corpus and label.

    Args:
        runs: Folders of the runs of each job, one for each seed; a job's name starts with its corpus.
        out: The figure's file; its ending says the format.
    """
    curves: dict[tuple[str, str], dict[str, Curve]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for job, folders in runs.items():
        corpus, _, name = job.partition("-")
        for folder in folders:
            for row in read_history(folder):
                for result in row.get("evaluation", []):
                    if result["readout"] == "linear":
                        curves[corpus, result["label"]][name][row["step"]].append(result["top1"])
    figure = Figure(figsize=(4.2 * max(1, len(curves)), 3.4), layout="constrained")
    panels = figure.subplots(1, max(1, len(curves)), squeeze=False)[0]
    for axes, ((corpus, label), jobs) in zip(panels, curves.items(), strict=False):
        for name, curve in sorted(jobs.items()):
            steps = sorted(curve)
            means = [statistics.mean(curve[step]) for step in steps]
            spreads = [statistics.stdev(curve[step]) if len(curve[step]) > 1 else 0.0 for step in steps]
            (line,) = axes.plot(steps, means, label=name, linestyle="--" if name.endswith("-ir") else "-")
            low, high = ([m + sign * s for m, s in zip(means, spreads, strict=True)] for sign in (-1, 1))
            axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
        axes.set(title=f"{corpus}: {label}", xlabel="steps", ylabel="linear top-1, %")
        axes.legend(frameon=False, fontsize="small")
    figure.savefig(out)
