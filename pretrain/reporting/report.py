"""One HTML page about one run, or about the streams of a corpus side by side."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pretrain.monitor import METRICS_NAME
from pretrain.reporting import figures
from pretrain.reporting.gallery import draw_maps, find_neighbours
from pretrain.reporting.run import Run, read_run
from pretrain.reporting.transfer import Content, transfer_tasks
from pretrain.summary import Row, summarise
from vie.reporting.drawing import GAP, PAGE_WIDTH, RUN_COLOURS
from vie.reporting.page import attempt, check_names, write_page

STAGES = {
    "random": "random initialisation",
    "start": "the encoder that it began from",
    "ir": "instance recognition",
    "la": "local aggregation",
    "opn": "order prediction (OPN)",
    "rotnet": "rotation prediction (3DRotNet)",
    "simclr": "SimCLR",
    "supervised": "supervised",
    "joined": "last stages joined",
}
BEGINNINGS = ("random", "start")
READOUTS = ("knn", "linear")
WITHIN = ("host", "device")


def write_report(
    runs: list[Path], out: Path, summary: dict[str, Any] | None = None, transfer: Sequence[Content] = ()
) -> Path:
    """Writes one HTML file, which needs no other file and no network, about runs.

    What a run does not hold (labels, a val split, a second stage, a corpus that is still there) makes the page shorter.

    Args:
        runs: Folders of runs; streams of one corpus are also tested together.
        out: The file to write.
        summary: What ``summarise`` says of these runs, where that is known already.
        transfer: Contents of results files of `vie-bench transfer`; what they say becomes a section.

    Returns:
        The file.

    Raises:
        VieError: A folder holds no run, two have the same name, or the page cannot be written.
    """
    check_names(runs)
    notes: list[str] = []
    colours = cycle(RUN_COLOURS)
    found = [read_run(run.resolve(), colour, notes) for run, colour in zip(runs, colours, strict=False)]
    results, protocol = (summary["results"], summary["protocol"]) if summary else _results(found, notes)
    transferred = partial(transfer_tasks, transfer, {run.name: run.colour for run in found})
    times = [row for run in found for row in _times(run)]
    return write_page(
        out,
        Path(__file__).parent / "templates",
        "report.html.j2",
        runs=found,
        corpora=list(dict.fromkeys(run.corpus for run in found)),
        tables=[_table(results, label, found) for label in dict.fromkeys(row["label"] for row in results)],
        protocol=protocol,
        transfer=attempt("transfer results", transferred, notes) or [],
        losses=list(_loss_figures(found)),
        accuracies=list(_accuracy_figures(found)),
        galleries=list(_galleries(found, results, notes)),
        maps=list(_maps(found, notes)),
        times=times,
        machines={run.name: run.machine for run in found if run.machine},
        time_figure=Markup(figures.throughput_figure([(row["name"], row["ms"]) for row in times], 455))
        if times
        else "",
        notes=notes,
    )


def _results(runs: Sequence[Run], notes: list[str]) -> tuple[list[Row], dict[str, Any]]:
    """Rows of ``summarise`` and their protocol: with joined rows where all runs have features of one corpus."""
    evaluated = [run for run in runs if (run.path / METRICS_NAME).is_file()]
    if len({Path(run.config.data.path).resolve() for run in evaluated}) == 1 and all(run.features for run in evaluated):
        together = attempt("joined results", partial(summarise, [run.path for run in evaluated]), notes)
        if together:
            return together["results"], together["protocol"]
    rows: list[Row] = []
    protocol: dict[str, Any] = {}
    for run in evaluated:
        alone = attempt(f"results of {run.name}", partial(summarise, [run.path]), notes)
        if alone:
            rows, protocol = rows + alone["results"], alone["protocol"]
    return rows, protocol


def _table(results: Sequence[Row], label: str, runs: Sequence[Run]) -> dict[str, Any]:
    """One label's results by stream and stage, and a figure of what training has added."""
    rows = [row for row in results if row["label"] == label]
    streams, stages = list(dict.fromkeys(row["stream"] for row in rows)), list(STAGES)
    rows.sort(key=lambda row: (streams.index(row["stream"]), stages.index(row["stage"])))
    top1 = {(row["stream"], row["stage"], row["readout"]): row["top1"] for row in rows}
    best = {readout: max(row["top1"] for row in rows if row["readout"] == readout) for readout in READOUTS}
    colours = {run.name: run.colour for run in runs}
    lines: dict[tuple[str, str], Row] = {}
    gains: dict[tuple[str, str], figures.Gain] = {}
    for row in rows:
        stream, stage, readout, value = row["stream"], row["stage"], row["readout"], row["top1"]
        colour = colours.get(stream, figures.JOINED_COLOUR)
        line = lines.setdefault((stream, stage), {**row, "stage": STAGES[stage], "colour": colour, "cells": {}})
        first = next((name for name in BEGINNINGS if (stream, name, readout) in top1), stage)
        before = None if stage == first else top1[stream, first, readout]
        gain = None if before is None else value - before
        line["cells"][readout] = {"value": value, "gain": gain, "best": value == best[readout]}
        if before is not None:  # of several stages, the last one stays
            name = f"{stream}, {figures.READOUT_NAMES[readout]}"
            gains[stream, readout] = figures.Gain(name, before, value, colour)
    figure = figures.gains_figure(list(gains.values()), rows[0]["chance"], 455) if gains else ""
    videos = int(rows[0]["videos"])
    return {
        "label": label,
        "lines": list(lines.values()),
        "videos": videos,
        "interval": 98 / videos**0.5,  # half of a 95% interval, in points, where half of the answers are right
        "figure": Markup(figure),
    }


def _panel_width(panels: int, runs: int) -> int:
    """So that the runs lie side by side, where they are no more than three."""
    columns = 1 if panels == 1 else 3 if runs == 3 else 2
    return (PAGE_WIDTH - (columns - 1) * GAP) // columns


def _loss_figures(runs: Sequence[Run]) -> Iterator[Markup]:
    for run in runs:
        losses: dict[str, tuple[list[int], list[float]]] = {}
        for row in run.history:
            if "loss" in row:
                steps, values = losses.setdefault(row["stage"], ([], []))
                steps.append(row["step"])
                values.append(row["loss"])
        if losses:
            title, switch = f"{run.name}: loss", run.config.instance_recognition.steps
            yield Markup(figures.loss_figure(losses, title, switch, run.colour, _panel_width(len(runs), len(runs))))


def _accuracy_figures(runs: Sequence[Run]) -> Iterator[Markup]:
    """Panels by label, then by run; those of one label share their scale."""
    curves = {run.name: _curves(run) for run in runs if run.steps}
    width = _panel_width(sum(len(by_label) for by_label in curves.values()), len(runs))
    for label in dict.fromkeys(label for by_label in curves.values() for label in by_label):
        shown = {run: curves[run.name][label] for run in runs if label in curves.get(run.name, ())}
        top = 1.12 * max(1.0, *(value for found in shown.values() for curve in found for value in curve.top1))
        for run, found in shown.items():
            title = f"{run.name}: {label}, top-1 in %"
            yield Markup(figures.accuracy_figure(found, title, run.switch, top, run.colour, width))


def _curves(run: Run) -> dict[str, list[figures.Curve]]:
    """Accuracies by label; a step that was measured twice (the end of a stage) counts once."""
    points: dict[tuple[str, str], dict[int, Row]] = {}
    for row in run.history:
        for result in (*row.get("evaluation", ()), *row.get("monitor", ())):
            points.setdefault((result["label"], result["readout"]), {})[row["step"]] = result
    curves: dict[str, list[figures.Curve]] = {}
    for (label, readout), found in points.items():
        top1, chance = [result["top1"] for result in found.values()], next(iter(found.values()))["chance"]
        curves.setdefault(label, []).append(figures.Curve(readout, list(found), top1, chance))
    return curves


def _galleries(runs: Sequence[Run], results: Sequence[Row], notes: list[str]) -> Iterator[dict[str, Any]]:
    """Neighbours by run, framed by the label that its linear read-out gains most on."""
    for run in runs:
        if not (run.features and run.shards and run.sampling):
            continue
        top1 = {(row["label"], row["readout"]): row["top1"] for row in results if row["stream"] == run.name}  # the last
        gains = {
            row["label"]: top1[row["label"], "linear"] - row["top1"]
            for row in results
            if (row["stream"], row["readout"]) == (run.name, "linear") and row["stage"] in BEGINNINGS
        }
        columns = sorted(run.shards.label_columns, key=lambda column: -gains.get(column, -100.0))
        column = columns[0] if columns else None
        find = partial(find_neighbours, run.features, run.shards, run.sampling, column, run.config.monitor.knn)
        gallery = attempt(f"neighbours of {run.name}", find, notes)
        if gallery:
            gain, knn = gains.get(str(column)), top1.get((str(column), "knn"))
            yield {"run": run, "gallery": gallery, "gain": gain, "knn": knn}


def _maps(runs: Sequence[Run], notes: list[str]) -> Iterator[dict[str, Any]]:
    for run in runs:
        if run.features and run.shards and len(run.features["val"].videos) > 1:
            draw = partial(draw_maps, run.features["val"], run.shards, (PAGE_WIDTH - GAP) // 2)
            drawn = attempt(f"maps of {run.name}", draw, notes)
            if drawn:
                yield {"run": run, "method": drawn[0], "figures": [Markup(figure) for figure in drawn[1]]}


def _times(run: Run) -> Iterator[dict[str, Any]]:
    """Mean milliseconds of a step in each stage, warm-up and measurements on the way included."""
    steps, batch = run.config.monitor.log_every, run.config.data.batch_size
    for stage in dict.fromkeys(row["stage"] for row in run.history if "step_s" in row):
        rows = [row for row in run.history if row.get("stage") == stage]
        seconds = {part: sum(row.get(f"{part}_s", 0.0) for row in rows) for part in figures.TIME_COLOURS}
        ms = {part: 1000 * spent / len(rows) / steps for part, spent in seconds.items()}
        total = sum(ms.values())
        inner = {part: [1000 * row[f"{part}_s"] / steps for row in rows if f"{part}_s" in row] for part in WITHIN}
        within = {part: sum(found) / len(found) if found else None for part, found in inner.items()}
        name = f"{run.name}, {stage.upper()}"
        yield {
            "name": name,
            "colour": run.colour,
            "ms": ms,
            "within": within,
            "total": total,
            "clips_per_s": 1000 * batch / total,
        }
