"""One HTML page about one run of an agent, or about several side by side."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from rl_encoders.reporting.figures import Curve, learning_figure, metric_figure
from rl_encoders.reporting.films import moments, retrained_pairs
from rl_encoders.reporting.run import Evaluation, Run, Series, read_run
from vie.reporting.drawing import GAP, PAGE_WIDTH, RUN_COLOURS
from vie.reporting.page import check_names, write_page
from vie.settings import flatten

METRICS = {
    "td_loss": "TD error of the critics",
    "critic_loss": "loss of the critics",
    "gap": "gap: sampled actions over the data's",
    "q": "value of the data's actions",
    "q_policy": "value of the policy's actions",
    "calibrated": "share of actions held up by returns",
    "policy_loss": "loss of the policy",
    "entropy": "entropy of the policy",
    "alpha": "temperature",
    "bonus": "bonus for novelty",
    "rnd_loss": "loss of its predictor",
}
"""What a page calls them, in its order; others follow under their own names."""

SHOWN = (
    *("environment.name", "environment.reward", "environment.max_steps", "environment.size", "environment.state"),
    *("dataset", "encoder.source", "encoder.mode", "encoder.pool", "encoder.project", "encoder.size"),
    *("agent.algorithm", "agent.exploration", "seed", "offline_updates", "online_steps", "updates_per_step"),
    *("data.batch", "data.mix", "data.chunk", "evaluation_episodes"),
)
"""Settings that every page shows; those in which its runs differ follow."""

QUANTITIES = {"success": ("success in %", 100.0), "return": ("return", 1.0)}
"""Of evaluations: what the page calls them, and their factor."""

WINDOW = 20
"""Of an agent's own episodes, whose mean is shown."""


def write_report(runs: Sequence[Path], out: Path) -> Path:
    """Writes one HTML file, which needs no other file and no network, about runs.

    What a run does not hold (an environment, pictures, a second phase) makes the page shorter; of an unfinished one it
    says how far it has come.

    Args:
        runs: Folders of ``vie-rl train`` or ``vie-rl ooo``.
        out: The file to write.

    Returns:
        The file.

    Raises:
        VieError: A folder holds no run, two have the same name, or the page cannot be written.
    """
    check_names(runs)
    notes: list[str] = []
    found = [read_run(path.resolve(), colour, notes) for path, colour in zip(runs, cycle(RUN_COLOURS), strict=False)]
    quantities = ["success"] if all(map(_is_success, found)) else list(QUANTITIES)
    return write_page(
        out,
        Path(__file__).parent / "templates",
        "report.html.j2",
        runs=found,
        tasks=list(dict.fromkeys(run.config.environment.name or run.config.dataset for run in found)),
        results=[_result(run) for run in found if run.evaluations],
        episodes=sorted({run.config.evaluation_episodes for run in found}),
        quantities={name: QUANTITIES[name][0] for name in quantities},
        window=WINDOW,
        curves=[Markup(figure) for figure in _curves(found, quantities)],
        retrained=[{"run": run, "lines": list(_retrained(run))} for run in found if run.retrained],
        films=[{"run": run, "moments": shown} for run in found if (shown := moments(run))],
        pairs=[{"run": run, "pairs": shown} for run in found if (shown := retrained_pairs(run))],
        metrics=[Markup(figure) for figure in _metrics(found)],
        settings=_settings(found),
        notes=notes,
    )


def _result(run: Run) -> dict[str, Any]:
    """A row of the table: the first evaluation, the one before the first step of the environment, the last."""
    offline = [one for one in run.evaluations if not one.environment_steps]
    cells: dict[str, Evaluation | None] = {
        "first": run.evaluations[0],
        "offline": offline[-1] if offline else None,
        "last": run.evaluations[-1],
    }
    if cells["offline"] in (cells["first"], cells["last"]):
        cells["offline"] = None
    if cells["first"] is cells["last"]:
        cells["first"] = None
    return {"run": run, "cells": {name: _cell(one) for name, one in cells.items()}}


def _cell(one: Evaluation | None) -> dict[str, Any] | None:
    if one is None:
        return None
    told = {name: factor * one.measured[name] for name, (_, factor) in QUANTITIES.items() if name in one.measured}
    return {"updates": one.updates, "steps": one.environment_steps, **told}


def _curves(runs: Sequence[Run], quantities: Sequence[str]) -> Iterator[str]:
    for quantity in quantities:
        title, factor = QUANTITIES[quantity]
        curves = [curve for run in runs if (curve := _curve(run, quantity, factor))]
        if curves:
            bounds = (0.0, 104.0) if quantity == "success" else None
            yield learning_figure(curves, f"{title} of evaluations", bounds, PAGE_WIDTH)


def _curve(run: Run, quantity: str, factor: float) -> Curve | None:
    points = [one for one in run.evaluations if quantity in one.measured]
    before = [one for one in points if not one.environment_steps]
    online = [one for one in points if one.environment_steps]
    if online:
        online = [*before[-1:], *online]  # the second phase begins where the first ends
    offline = before if run.config.offline_updates else []
    if not online and not any(one.updates for one in offline):
        return None
    new = [(int(steps), factor * found[quantity]) for steps, found in run.retrained.items() if quantity in found]
    return Curve(
        run.name,
        run.colour,
        ([one.updates for one in offline], [factor * one.measured[quantity] for one in offline]),
        ([one.environment_steps for one in online], [factor * one.measured[quantity] for one in online]),
        _running(run.episodes, factor) if quantity == "return" or _is_success(run) else ([], []),
        ([steps for steps, _ in new], [value for _, value in new]),
    )


def _is_success(run: Run) -> bool:
    """Whether an undiscounted return says no more than whether the task was done."""
    return run.config.environment.reward == "success"


def _running(episodes: Series, factor: float) -> Series:
    """The mean of the last episodes, from the first whole window on."""
    places, values = episodes
    if len(values) < WINDOW:
        return [], []
    return places[WINDOW - 1 :], np.convolve(values, np.full(WINDOW, factor / WINDOW), "valid").tolist()


def _retrained(run: Run) -> Iterator[dict[str, Any]]:
    """Rows of the table: exploration and exploitation side by side."""
    for steps, found in run.retrained.items():
        quantities = [name for name in QUANTITIES if name in found]
        told = {
            name: (QUANTITIES[name][1] * found[explored] if (explored := f"explored_{name}") in found else None)
            for name in quantities
        }
        yield {
            "steps": int(steps),
            "explored": told,
            "retrained": {name: QUANTITIES[name][1] * found[name] for name in quantities},
        }


def _metrics(runs: Sequence[Run]) -> Iterator[str]:
    names = dict.fromkeys(name for run in runs for name in run.metrics)
    order = [*(name for name in METRICS if name in names), *(name for name in names if name not in METRICS)]
    width = (PAGE_WIDTH - 2 * GAP) // 3
    for name in order:
        lines: list[tuple[str, Series]] = [(run.colour, run.metrics[name]) for run in runs if name in run.metrics]
        switches = [] if name.startswith("imitation") else [run.switch for run in runs if run.switch]
        yield metric_figure(METRICS.get(name, name), lines, sorted(set(switches)), width)


def _settings(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Rows of the table: what matters, then whatever differs."""
    each = [flatten(asdict(run.config)) for run in runs]
    differing = [key for key in each[0] if key != "run" and any(one.get(key) != each[0][key] for one in each)]
    keys = [*SHOWN, *(key for key in differing if key not in SHOWN)]
    rows = [{"key": key, "values": [_plain(one.get(key)) for one in each]} for key in keys]
    return [row for row in rows if any(row["values"])]


def _plain(value: Any) -> str:
    if value is None or value == "" or value == []:
        return ""
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
