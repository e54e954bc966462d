"""Which films a page shows, and how they get into it."""

import base64
from pathlib import Path
from typing import Any

from rl_encoders.reporting.run import Run
from rl_encoders.training.films import Film

MOST = 4
"""Films of one evaluation that are shown."""


def moments(run: Run) -> list[dict[str, Any]]:
    """The films of a run's first evaluation, of the last before it began to act, and of its last.

    Returns:
        For each, a ``title`` and its ``films``; empty for a run without any.
    """
    times = list(dict.fromkeys((film.updates, film.environment_steps) for film in run.films))
    offline = [time for time in times if not time[1]]
    chosen = dict.fromkeys([*times[:1], *offline[-1:], *times[-1:]])
    return [
        {
            "title": _when(*time),
            "films": [shown(run.path, film) for film in run.films if (film.updates, film.environment_steps) == time][
                :MOST
            ],
        }
        for time in chosen
    ]


def retrained_pairs(run: Run) -> list[dict[str, Any]]:
    """Films of the exploring agent and of one trained anew on what it had found by then, which begin alike."""
    pairs = []
    for steps, (path, film) in run.retrained_films.items():
        before = [one for one in run.films if one.environment_steps <= int(steps) and one.seed == film.seed]
        if before:
            films = {"explored": shown(run.path, before[-1]), "retrained": shown(path, film)}
            pairs.append({"steps": int(steps), **films})
    return pairs


def shown(run: Path, film: Film) -> dict[str, Any]:
    """A film as its page takes it: the video inside, and what came of the episode."""
    return {
        "source": "data:video/mp4;base64," + base64.b64encode(film.video(run).read_bytes()).decode(),
        "result": film.result,
        "success": film.success,
        "length": film.length,
    }


def _when(updates: int, steps: int) -> str:
    return f"after {steps:,} steps of the environment" if steps else f"after {updates:,} updates on offline data"
