"""One figure for each task and split: what every encoder knows of every label."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.transfer.table import Content, Record, by_seed, pick


def draw_comparison(contents: list[Content], readout: str, out: Path, labels: Sequence[str] = ()) -> list[Path]:
    """Draws ``OUT/TASK[-SPLIT].svg``: a panel for each label, a line for each encoder with its spread over seeds.

    The best on average come first. A hollow mark is the same network with random weights; the dotted line is chance.

    Args:
        contents: From ``pretrain.transfer_results.read_results``.
        readout: As for ``benchmarks.transfer.table.comparison``.
        out: Folder; made if absent.
        labels: As for ``benchmarks.transfer.table.collect``.

    Returns:
        The files.
    """
    records = pick(contents, readout, labels)
    out.mkdir(parents=True, exist_ok=True)
    files = []
    for task, split in sorted({record[:2] for record in records}):
        mine = [record for record in records if record[:2] == (task, split)]
        files.append(out / f"{'-'.join(part for part in (task, *split.split()) if part)}.svg")
        figure = _draw(mine, f"{task}{f', {split}' if split else ''}: {readout}")
        figure.savefig(files[-1])
    return files


def _draw(records: list[Record], title: str) -> Figure:
    labels = [label for label in dict.fromkeys(record.label for record in records) if not _is_one_of_a_family(label)]
    shown = [record for record in records if record.label in labels]
    encoders = sorted({_network(record) for record in shown}, key=lambda name: -_mean(name, shown))
    size = (1.8 + 2.6 * len(labels), 0.9 + 0.24 * len(encoders))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(labels), sharey=True, squeeze=False)
    for axes, label in zip(panels[0], labels, strict=True):
        here = [record for record in records if record.label == label]
        for row, encoder in enumerate(encoders):
            colour = "C1" if "two-pathway" in encoder else "C0"
            for name, filled in ((encoder, True), (f"{encoder} (random)", False)):
                values = by_seed(record for record in here if record.encoder == name)
                if values:
                    spread = statistics.stdev(values) if len(values) > 1 else 0.0
                    face = colour if filled else "none"
                    mean = statistics.mean(values)
                    axes.errorbar(mean, row, xerr=spread, fmt="o", color=colour, markerfacecolor=face, capsize=3)
        axes.axvline(statistics.mean(record.chance for record in here), color="C7", linestyle=":", linewidth=1)
        axes.set(title=label, xlim=(0, 102), xlabel="top-1, %")
        axes.grid(axis="both", alpha=0.3)
    panels[0, 0].set_yticks(range(len(encoders)), encoders)
    panels[0, 0].invert_yaxis()
    figure.suptitle(title, fontsize="medium")
    return figure


def _network(record: Record) -> str:
    return record.encoder.removesuffix(" (random)")


def _mean(encoder: str, records: list[Record]) -> float:
    mine = [record.top1 for record in records if record.encoder == encoder]
    return statistics.mean(mine) if mine else 0.0


def _is_one_of_a_family(label: str) -> bool:
    """Whether the label has a mean of its own, which is drawn instead."""
    return "." in label and not label.endswith(".*")
