"""What figures of reports have in common: colours, style, panels measured in CSS pixels, curves, SVG markup."""

import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

INK, MUTED, AXIS, GRID = "#1c2430", "#6b7482", "#c3c9d2", "#e8ebef"
RUN_COLOURS = ("#2a67b1", "#cc5f2d", "#2b8a78", "#a8842c")
PAGE_WIDTH, GAP = 1096, 24
"""Of a page's column and between its panels, in CSS pixels."""

STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: the page sets its font
    "svg.hashsalt": "vie",  # the same numbers make the same page
    "text.parse_math": False,  # a class name may hold dollars
    "text.color": INK,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 18,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": AXIS,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.xmargin": 0,
    "grid.color": GRID,
    "xtick.color": AXIS,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "ytick.major.size": 0,
    "legend.frameon": False,
}


def row_axes(names: Sequence[str], width: int, right: int, height: int = 29) -> tuple[Figure, Axes]:
    """A figure with a named row for each of its values.

    Args:
        names: Of the rows, from the top; long ones are shortened.
        width: In CSS pixels.
        right: Room right of the axes, in CSS pixels.
        height: Of a row, in CSS pixels.
    """
    shown = [short(name, 30) for name in names]
    left = 24 + 7 * max(len(name) for name in shown)
    figure, (axes,) = panel_axes(width, 70 + height * len(names), left=left, right=right, top=28, bottom=42)
    axes.set_yticks(range(len(names)), shown)
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x")
    return figure, axes


def panel_axes(
    width: int,
    height: int,
    shares: Sequence[float] = (1.0,),
    *,
    left: int = 34,
    right: int = 12,
    top: int = 44,
    bottom: int = 40,
) -> tuple[Figure, list[Axes]]:
    """A figure of panels side by side.

    Args:
        width: Of the figure, in CSS pixels, as all lengths.
        height: Of the figure.
        shares: Of the width, one for each panel.
        left: Room left of the panels.
        right: Right of them.
        top: Above them.
        bottom: Below them.
    """
    figure = Figure(figsize=(width / 96, height / 96))
    margins = {"left": left / width, "right": 1 - right / width, "top": 1 - top / height, "bottom": bottom / height}
    axes = figure.subplots(1, len(shares), squeeze=False, width_ratios=shares, gridspec_kw={"wspace": 0, **margins})
    return figure, list(axes[0])


def tint(colour: str, share: float) -> str:
    """Mixes a colour with white, or with black where ``share`` is negative."""
    target = 1.0 if share > 0 else 0.0
    red, green, blue = (value + abs(share) * (target - value) for value in to_rgb(colour))
    return to_hex((red, green, blue))


def short(name: str, length: int) -> str:
    """The name, its middle left out where it has more than ``length`` characters."""
    return name if len(name) <= length else f"{name[: length // 2]}…{name[len(name) - length // 2 + 1 :]}"


def step_axis(axes: Axes, pixels: float, last: bool, name: str = "step") -> None:
    """Ticks of an axis of steps, as many as its pixels have room for; one that another panel follows has no name."""
    ticks = max(2, min(8, round(pixels / 75)))
    axes.xaxis.set_major_locator(MaxNLocator(ticks, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if last:
        axes.set_xlabel(name, loc="right")
    else:  # leave the end to the panel that follows
        first, end = axes.get_xlim()
        axes.set_xticks([tick for tick in axes.get_xticks() if first <= tick <= end - 0.12 * (end - first)])


def mark_switch(axes: Axes, step: float, text: str) -> None:
    """Words above the axes, over a step."""
    axes.annotate(text, (step, 1), (0, 4), xycoords=("data", "axes fraction"), textcoords="offset points", ha="center")


def label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]], gap: float) -> None:
    """Names curves at their right ends, the lower ones first, each at least ``gap`` above the one before."""
    floor = -np.inf
    for value, text, colour in sorted(ends):
        floor = max(value, floor + gap)
        place = axes.get_yaxis_transform()
        axes.annotate(text, (1, floor), (9, 0), xycoords=place, textcoords="offset points", color=colour, va="center")


def thinned(series: Sequence[float], points: int = 400) -> list[float]:
    """Means over equal parts of a long series: a million steps need no million points."""
    return [float(part.mean()) for part in np.array_split(np.asarray(series), min(points, len(series)))]


def svg(figure: Figure) -> str:
    """A figure as SVG markup for an HTML page: without XML header, its text in the font of the page."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    markup = buffer.getvalue()
    # Inside HTML the namespaces are known, and the ids of groups would be the same in every figure.
    markup = re.sub(r'\s+xmlns(:xlink)?="[^"]*"', "", markup[markup.index("<svg") :])
    return re.sub(r'<g id="[^"]*_\d+"', "<g", markup)
