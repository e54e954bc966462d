"""The report's figures: plain numbers in, SVG markup for an HTML page out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps, rc_context
from matplotlib.artist import Artist
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from vie.reporting.drawing import (
    AXIS,
    INK,
    MUTED,
    STYLE,
    label_ends,
    mark_switch,
    panel_axes,
    row_axes,
    short,
    step_axis,
    svg,
    thinned,
    tint,
)

JOINED_COLOUR = "#7d3c86"
CLASS_COLOURS = (
    *("#2a67b1", "#e08a2c", "#2b8a78", "#c8443c", "#8361b8", "#7fb2e5", "#e6bf3f", "#86c06c"),
    *("#e892a8", "#8c6244", "#1f3f66", "#9aa2ad"),
)
TIME_COLOURS = {"data": "#e0b458", "step": "#34465e", "other": "#cfd6df"}
READOUT_NAMES = {"linear": "linear", "knn": "kNN", "knn_bank": "kNN, bank"}


@dataclass(frozen=True)
class Curve:
    """Accuracy of one read-out over the steps of a run; ``readout`` is a key of ``READOUT_NAMES``."""

    readout: str
    steps: Sequence[int]
    top1: Sequence[float]
    chance: float


@dataclass(frozen=True)
class Gain:
    """Accuracy of one read-out before and after training."""

    name: str
    before: float
    after: float
    colour: str


@rc_context(STYLE)
def gains_figure(gains: Sequence[Gain], chance: float, width: int) -> str:
    """From the network before training (ring) to the trained network (disc), one row for each gain."""
    figure, axes = row_axes([gain.name for gain in gains], width, right=54)
    for y, gain in enumerate(gains):
        axes.plot([gain.before, gain.after], [y, y], color=tint(gain.colour, 0.5), linewidth=2.5, zorder=2)
        axes.plot(gain.before, y, "o", color=gain.colour, markerfacecolor="white", markersize=6.5, zorder=3)
        axes.plot(gain.after, y, "o", color=gain.colour, markersize=7, zorder=4)
        axes.text(
            1 + 20 / width, y, f"{gain.after:.1f}", transform=axes.get_yaxis_transform(), va="center", weight="bold"
        )
    axes.axvline(chance, color=MUTED, linewidth=1, linestyle=(0, (1, 2)), zorder=1)
    axes.text(chance, -0.6, "chance", color=MUTED, ha="center", va="bottom")
    values = [value for gain in gains for value in (gain.before, gain.after)]
    axes.set_xlim(0, min(100, 1.12 * max(*values, chance)))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlabel("top-1 in %", loc="right")
    return svg(figure)


@rc_context(STYLE)
def loss_figure(
    losses: Mapping[str, tuple[Sequence[int], Sequence[float]]], title: str, switch: int, colour: str, width: int
) -> str:
    """Loss over steps: a panel and a scale for each stage ("ir", then from step ``switch`` on "la")."""
    last_step = max(steps[-1] for steps, _ in losses.values())
    ends = [0, switch, last_step] if len(losses) > 1 else [0, last_step]
    shares = np.clip(np.diff(ends) / max(ends[-1], 1), 0.3, 0.7)  # a short stage beside a very long one stays legible
    figure, panels = panel_axes(width, 250, shares.tolist(), right=48)
    for number, (axes, (stage, (steps, values))) in enumerate(zip(panels, losses.items(), strict=True)):
        axes.plot(thinned(steps), thinned(values), color=colour, linewidth=1.4)
        axes.set_xlim(ends[number], ends[number + 1])
        step_axis(axes, width * shares[number] / shares.sum(), last=number == len(losses) - 1)
        axes.set_ylim(0)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        if number:
            axes.yaxis.tick_right()
            axes.axvline(ends[number], color=INK, linewidth=1.4)
            mark_switch(axes, ends[number], f"IR → LA at step {switch:,}")
        else:
            axes.set_title(short(title, (width - 40) // 8))
        if len(losses) > 1:
            axes.text(0.97, 0.95, stage.upper(), transform=axes.transAxes, ha="right", va="top", color=MUTED)
    return svg(figure)


@rc_context(STYLE)
def accuracy_figure(
    curves: Sequence[Curve], title: str, switch: int | None, top: float, colour: str, width: int
) -> str:
    """Accuracies of one label over steps; each is dashed at its value of step 0, before training.

    Args:
        curves: Each with at least one point.
        title: Above the panel.
        switch: Step at which local aggregation took over, if it has.
        top: Upper end of the scale, so that panels can share it.
        colour: Of the stream.
        width: In pixels.
    """
    figure, (axes,) = panel_axes(width, 270, left=34, right=112)
    looks = {"linear": (0.0, "-", "o"), "knn": (0.42, "-", "s"), "knn_bank": (0.62, (0, (1, 1)), "")}
    last = max(curve.steps[-1] for curve in curves)
    ends: list[tuple[float, str, str]] = []
    for curve in curves:
        paleness, line, marker = looks[curve.readout]
        shade = tint(colour, paleness)
        dots = marker if len(curve.steps) <= 30 else ""
        axes.plot(curve.steps, curve.top1, color=shade, linestyle=line, marker=dots, markersize=4, linewidth=1.8)
        if curve.steps[0] == 0:
            axes.axhline(curve.top1[0], color=shade, linewidth=1, linestyle=(0, (5, 3)), zorder=1)
        ends.append((curve.top1[-1], f"{READOUT_NAMES[curve.readout]} {curve.top1[-1]:.1f}", tint(shade, -0.25)))
    chance = curves[0].chance
    axes.axhline(chance, color=MUTED, linewidth=1, linestyle=(0, (1, 2)), zorder=1)
    ends.append((chance, "chance", MUTED))
    axes.set_xlim(0, max(last, 1))
    axes.set_ylim(0, top)
    label_ends(axes, ends, gap=0.075 * top)
    axes.set_title(short(title, (width - 40) // 8))
    step_axis(axes, width, last=True)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if switch is not None:
        axes.axvline(switch, color=INK, linewidth=1)
        mark_switch(axes, switch, "IR → LA")
    for line2d in axes.lines:
        line2d.set_clip_on(False)
    return svg(figure)


@rc_context(STYLE)
def map_figure(
    points: npt.NDArray[np.float64], labels: npt.NDArray[np.int64], classes: Sequence[str], title: str, width: int
) -> str:
    """Points (N, 2) coloured by class number (N,), -1 for none; a legend where the classes are few."""
    few = 0 < len(classes) <= len(CLASS_COLOURS)
    figure, (axes,) = panel_axes(width, round(0.8 * width), left=6, right=120, top=30, bottom=6)
    hues = CLASS_COLOURS if few else [to_hex(hue) for hue in colormaps["turbo"](np.linspace(0, 1, len(classes)))]
    colours = [hues[label] if label >= 0 else AXIS for label in labels]
    axes.scatter(points[:, 0], points[:, 1], s=15, c=colours, linewidths=0.4, edgecolors="white")
    axes.set_title(title if few or not classes else f"{title}: {len(classes)} classes", pad=8)
    axes.set_axis_off()
    axes.margins(0.03)
    if few:
        handles = [
            Line2D([], [], linestyle="", marker="o", markersize=5, color=hue, label=short(name, 16))
            for name, hue in zip(classes, hues, strict=False)
        ]
        axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0), handletextpad=0.1, labelspacing=0.55)
    return svg(figure)


@rc_context(STYLE)
def throughput_figure(bars: Sequence[tuple[str, Mapping[str, float]]], width: int) -> str:
    """Milliseconds of a step by where they go ("data", "step", "other"), one bar for each name."""
    figure, axes = row_axes([name for name, _ in bars], width, right=20)
    for y, (_, parts) in enumerate(bars):
        left = 0.0
        for part, colour in TIME_COLOURS.items():
            axes.barh(y, parts[part], left=left, height=0.56, color=colour, label=part if y == 0 else None)
            left += parts[part]
    axes.set_xlim(0, 1.03 * max(sum(parts.values()) for _, parts in bars))
    axes.set_xlabel("ms per step", loc="right")
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        borderaxespad=0.2,
        borderpad=0.0,
        ncols=3,
        handlelength=0.9,
        handleheight=0.9,
        columnspacing=1.4,
    )
    return svg(figure)


@dataclass(frozen=True)
class Bars:
    """Accuracies of one encoder; those of random weights are pale.

    Attributes:
        name: Of the encoder.
        top1: By label, in per cent.
        pale: Whether its weights are random.
    """

    name: str
    top1: Mapping[str, float]
    pale: bool


@rc_context(STYLE)
def transfer_figure(encoders: Sequence[Bars], chance: Mapping[str, float], quantity: str, width: int) -> str:
    """What every encoder knows of every label: a row for each encoder, and in it a bar for each label.

    Args:
        encoders: From the top.
        chance: By label, in per cent; a dotted tick on the label's bars.
        quantity: What the bars show.
        width: In CSS pixels.
    """
    colours = dict(zip(chance, cycle(CLASS_COLOURS), strict=False))
    thickness = 0.8 / len(chance)
    figure, axes = row_axes([bars.name for bars in encoders], width, right=40, height=12 + 15 * len(chance))
    for row, bars in enumerate(encoders):
        for number, (label, top1) in enumerate(bars.top1.items()):
            y = row + (number - (len(bars.top1) - 1) / 2) * thickness
            colour = tint(colours[label], 0.6) if bars.pale else colours[label]
            axes.barh(y, top1, height=0.9 * thickness, color=colour)
            tick = [y - 0.5 * thickness, y + 0.5 * thickness]
            axes.plot([chance[label]] * 2, tick, color=INK, linewidth=1, linestyle=(0, (1, 1)))
            axes.annotate(f"{top1:.1f}", (top1, y), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_xlim(0, 100)
    axes.set_xlabel(quantity, loc="right")
    handles: list[Artist] = [Patch(color=colour, label=short(label, 24)) for label, colour in colours.items()]
    handles.append(Line2D([], [], color=INK, linewidth=1, linestyle=(0, (1, 1)), label="chance"))
    place: Any = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "borderaxespad": 0.2, "borderpad": 0.0}
    axes.legend(handles=handles, ncols=4, handlelength=0.9, handleheight=0.9, columnspacing=1.4, **place)
    return svg(figure)
