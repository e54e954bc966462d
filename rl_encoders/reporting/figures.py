"""The report's figures: plain numbers in, SVG markup for an HTML page out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from rl_encoders.reporting.run import Series
from vie.reporting.drawing import (
    INK,
    STYLE,
    label_ends,
    mark_switch,
    panel_axes,
    short,
    step_axis,
    svg,
    thinned,
    tint,
)

NOTHING: Series = ([], [])


@dataclass(frozen=True)
class Curve:
    """One quantity of one run.

    Attributes:
        name: Of the run.
        colour: Of it.
        offline: Evaluations over updates, before the first step of the environment.
        online: Over steps of the environment; the last of the offline ones stands at 0.
        episodes: Of the agent's own episodes, over steps of the environment; a pale line.
        retrained: Of new agents on the data until then (OOO).
    """

    name: str
    colour: str
    offline: Series = NOTHING
    online: Series = NOTHING
    episodes: Series = NOTHING
    retrained: Series = NOTHING


@rc_context(STYLE)
def learning_figure(curves: Sequence[Curve], title: str, bounds: tuple[float, float] | None, width: int) -> str:
    """A quantity of evaluations: over updates offline, then over steps of the environment, on one scale.

    Pale lines are the agents' own episodes, diamonds agents that were trained anew.

    Args:
        curves: One for each run, not all of them empty.
        title: Above the panels.
        bounds: Of the scale; None leaves it to the values.
        width: In CSS pixels.
    """
    ends = [
        _end([curve.offline for curve in curves]),
        _end([one for curve in curves for one in (curve.online, curve.episodes, curve.retrained)]),
    ]
    parts = [part for part, end in enumerate(ends) if end]
    right = 60 + 7 * max(len(short(curve.name, 20)) for curve in curves)
    shares = [0.38, 0.62] if len(parts) == 2 else [1.0]
    figure, panels = panel_axes(width, 300, shares, left=52, right=right)
    low, high = bounds or _scale(curves)
    for axes, part, share in zip(panels, parts, shares, strict=True):
        for curve in curves:
            _draw(axes, curve, online=part == 1)
        axes.set_xlim(0, ends[part])
        axes.set_ylim(low, high)
        last = part == parts[-1]
        pixels = (width - right) * share
        step_axis(axes, pixels, last, "steps of the environment" if part else "updates on offline data")
        axes.yaxis.set_major_locator(MaxNLocator(5))
        if part != parts[0]:
            axes.set_yticklabels([])
            axes.axvline(0, color=INK, linewidth=1.4)
            mark_switch(axes, 0, "offline → online")
        elif not last:
            axes.set_xlabel("updates on offline data", loc="left")
    panels[0].set_title(title, pad=22)
    named = [
        (curve, line[1][-1]) for curve in curves if (line := curve.online if curve.online[0] else curve.offline)[0]
    ]
    labels = [
        (value, f"{short(curve.name, 20)} {_told(value)}" if len(curves) > 1 else _told(value), curve.colour)
        for curve, value in named
    ]
    label_ends(panels[-1], labels, gap=0.075 * (high - low))
    return svg(figure)


@rc_context(STYLE)
def metric_figure(name: str, lines: Sequence[tuple[str, Series]], switches: Sequence[int], width: int) -> str:
    """A quantity of updates over their number.

    Args:
        name: Of the quantity.
        lines: Colour and values of each run.
        switches: Updates after which runs began to act.
        width: In CSS pixels.
    """
    figure, (axes,) = panel_axes(width, 190, left=50, top=38, bottom=36)
    for colour, (places, values) in lines:
        axes.plot(thinned(places, 200), thinned(values, 200), color=colour, linewidth=1.3)
    for switch in switches:
        axes.axvline(switch, color=INK, linewidth=1, linestyle=(0, (4, 2)))
    axes.set_xlim(0, max(1, *(places[-1] for _, (places, _) in lines)))
    step_axis(axes, width, last=True, name="updates")
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.set_title(short(name, (width - 50) // 7), pad=10)
    return svg(figure)


def _draw(axes: Axes, curve: Curve, online: bool) -> None:
    if online:
        axes.plot(*curve.episodes, color=tint(curve.colour, 0.65), linewidth=1.2, zorder=1)
    places, values = curve.online if online else curve.offline
    dots = "o" if len(places) <= 40 else ""
    axes.plot(places, values, color=curve.colour, marker=dots, markersize=4, linewidth=1.8, clip_on=False, zorder=3)
    if online:
        hollow: Any = {"markerfacecolor": "white", "markersize": 8, "markeredgewidth": 1.8}
        axes.plot(*curve.retrained, "D", color=curve.colour, clip_on=False, zorder=4, **hollow)


def _end(lines: Sequence[Series]) -> int:
    return max((places[-1] for places, _ in lines if places), default=0)


def _scale(curves: Sequence[Curve]) -> tuple[float, float]:
    lines = [line for one in curves for line in (one.offline, one.online, one.retrained, one.episodes)]
    values = np.array([value for _, found in lines for value in found])
    low, high = float(values.min()), float(values.max())
    room = 0.06 * (high - low) or 0.5
    return low - room, high + room


def _told(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
