"""The report's section on transfer: what finished encoders know, read out of every layer."""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from pretrain.reporting import figures

Content = Mapping[str, Any]
Place = tuple[str, str, str]
Values = dict[tuple[str, Place], list[float]]

RANDOM, SHUFFLED = " (random)", ", frames shuffled"
HEADLINE: Place = ("logistic", "pooled", "avg")
PLACES: dict[Place, tuple[str, str]] = {
    ("knn", "pooled", "avg"): ("pooled", "kNN"),
    HEADLINE: ("pooled", "logistic"),
    ("linear", "pooled", "avg"): ("pooled", "SGD"),
    **{
        ("linear", f"conv{number}", pooling): (f"conv{number}", pooling)
        for number in range(1, 6)
        for pooling in ("flat", "avg")
    },
    ("finetune", "pooled", "avg"): ("all layers", "fine-tuned"),
    ("scratch", "pooled", "avg"): ("all layers", "from scratch"),
}
"""Column and sub-column of a table, by read-out, layer and pooling."""


def transfer_tasks(contents: Sequence[Content], colours: Mapping[str, str]) -> list[dict[str, Any]]:
    """For each task and split: its name, a figure, a table for each label, and its protocol.

    Accuracies are means over seeds, and over labels that share a name before a dot (``pair.door``, ``pair.drawer``).

    Args:
        contents: Of results files.
        colours: Of the streams on this page, by name; theirs are the first lines.
    """
    tasks: dict[str, list[Content]] = defaultdict(list)
    for content in contents:
        split = content["protocol"]["split"]
        tasks[f"{content['task']}, split {split}" if split else content["task"]].append(content)
    return [_task(name, mine, colours) for name, mine in tasks.items()]


def _task(name: str, contents: Sequence[Content], colours: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Values] = defaultdict(lambda: defaultdict(list))
    chances: dict[str, list[float]] = defaultdict(list)
    videos: dict[str, int] = {}
    for content in contents:
        for row in content["results"]:
            place = row["readout"], row["layer"], row["pooling"]
            if place not in PLACES:
                continue
            stem, dot, _ = row["label"].partition(".")
            label = f"{stem}.*" if dot else stem
            encoder = content["encoder"]["name"] + (RANDOM if content["mode"] == "random" else "")
            encoder += SHUFFLED if row.get("shuffled") else ""
            values[label][encoder, place].append(row["top1"])
            chances[label].append(row["chance"])
            videos[label] = row["videos"]
    chance = {label: statistics.mean(found) for label, found in chances.items()}
    return {
        "name": name,
        "figure": _figure(values, chance, colours),
        "tables": [
            {"label": label, "chance": chance[label], "videos": videos[label], **_table(found, colours)}
            for label, found in values.items()
        ],
        "protocol": _protocol(contents),
    }


def _table(values: Values, colours: Mapping[str, str]) -> dict[str, Any]:
    """One label's lines, one for each encoder, with the best of every column marked."""
    means = {key: statistics.mean(found) for key, found in values.items()}
    places = [place for place in PLACES if any(place == found for _, found in means)]
    best = {place: max(mean for (_, found), mean in means.items() if found == place) for place in places}
    heads: dict[str, int] = defaultdict(int)
    for place in places:
        heads[PLACES[place][0]] += 1
    firsts = [index == 0 or PLACES[places[index - 1]][0] != PLACES[place][0] for index, place in enumerate(places)]
    lines = []
    for encoder in _ordered({encoder for encoder, _ in means}, colours):
        cells = [
            {"value": means.get((encoder, place)), "best": means.get((encoder, place)) == best[place], "first": first}
            for place, first in zip(places, firsts, strict=True)
        ]
        colour = colours.get(_stream(encoder), figures.JOINED_COLOUR)
        lines.append({"name": encoder, "colour": colour, "pale": RANDOM in encoder, "cells": cells})
    columns = [{"name": PLACES[place][1], "first": first} for place, first in zip(places, firsts, strict=True)]
    return {"heads": dict(heads), "columns": columns, "lines": lines}


def _figure(values: Mapping[str, Values], chance: Mapping[str, float], colours: Mapping[str, str]) -> Markup:
    """All labels by one read-out: logistic regression on the pooled feature, or else the last column that there is."""
    places = {place for found in values.values() for _, place in found}
    place = HEADLINE if HEADLINE in places else [known for known in PLACES if known in places][-1]
    bars = []
    for encoder in _ordered({encoder for found in values.values() for encoder, _ in found}, colours):
        top1 = {
            label: statistics.mean(found[encoder, place])
            for label, found in values.items()
            if (encoder, place) in found
        }
        if top1:
            bars.append(figures.Bars(encoder, top1, RANDOM in encoder))
    return Markup(figures.transfer_figure(bars, chance, f"{' '.join(PLACES[place])}, top-1 in %", 536))


def _ordered(encoders: set[str], colours: Mapping[str, str]) -> list[str]:
    """The streams of the page first, each before the same with random weights."""
    streams = list(colours)

    def rank(encoder: str) -> tuple[int, str]:
        stream = _stream(encoder)
        return streams.index(stream) if stream in streams else len(streams), encoder

    return sorted(encoders, key=rank)


def _stream(encoder: str) -> str:
    return encoder.removesuffix(SHUFFLED).removesuffix(RANDOM)


def _protocol(contents: Sequence[Content]) -> dict[str, str]:
    """What the accuracies mean; where files differ in something, all that there is."""
    lines: dict[str, dict[str, None]] = defaultdict(dict)
    for content in contents:
        protocol = content["protocol"]
        (train, known), (test, asked) = protocol["train"], protocol["test"]
        stated = {
            "corpus": f"{protocol['corpus']}: {known:,} videos of {train} to learn from, {asked:,} of {test} tested",
            "clips of each video": str(protocol["clips_per_video"]),
            "crop": str(protocol["crop"]),
            "seeds": str(content["seed"]),
            "precision": str(protocol["precision"]),
            "machine": str(protocol["machine"]),
        }
        if schedule := protocol["schedule"]:
            drops = " and ".join(f"{step:,}" for step in schedule["drops"])
            stated[content["mode"]] = (
                f"{schedule['steps']:,} steps of {protocol['batch_size']} clips, learning rate {schedule['lr']:g}"
                + (f" (a tenth of it after {drops})" if drops else "")
                + f", weight decay {schedule['weight_decay']:g}"
                + (", on standardised features" if schedule.get("standardise") else "")
                + "; tested after the last step"
            )
        encoder = content["encoder"]
        if RANDOM not in encoder["name"]:
            stated["networks"] = f"{encoder['name']}: {encoder['model']}"
        for key, value in stated.items():
            lines[key][value] = None
    return {key: "; ".join(found) for key, found in lines.items()}
