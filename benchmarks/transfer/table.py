"""Markdown tables out of results files; no figure is typed by hand."""

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from pretrain.transfer_results import differences
from vie import VieError

Content = dict[str, Any]


class Record(NamedTuple):
    """One accuracy, and where it belongs."""

    task: str
    split: str
    label: str
    readout: str
    encoder: str
    place: str
    seed: int
    top1: float
    chance: float
    videos: int


def tables(contents: list[Content], layers: Sequence[str] = (), labels: Sequence[str] = ()) -> str:
    """One table for each task, split, label and read-out: a line for each encoder, a column for each layer.

    Args:
        contents: From ``pretrain.transfer_results.read_results``.
        layers: Columns to keep, such as "conv5 flat"; all where left out.
        labels: As for ``collect``.
    """
    every = collect(contents, labels)
    records = [record for record in every if not layers or record.place in layers]
    if not records:
        known = ", ".join(sorted({record.place for record in every}))
        raise VieError(f"no result has a layer {', '.join(layers)}: there are {known}")
    parts = []
    for title in sorted({record[:4] for record in records}):
        mine = [record for record in records if record[:4] == title]
        task, split, label, readout = title
        head = f"**{_joined(task, split, label)}: {readout}**, top-1 in per cent of {_size(mine)}"
        parts.append(f"{head}\n\n{_table(mine, lambda record: record.place)}")
    return "\n\n".join(parts)


def comparison(contents: list[Content], readout: str, labels: Sequence[str] = ()) -> str:
    """One table for each task and split: a line for each encoder, a column for each label.

    Args:
        contents: From ``pretrain.transfer_results.read_results``.
        readout: The one to compare by: its name and its layer, such as "linear conv5 flat" or "knn pooled avg".
        labels: As for ``collect``.
    """
    parts = []
    records = pick(contents, readout, labels)
    for task, split in sorted({record[:2] for record in records}):
        mine = [record for record in records if record[:2] == (task, split)]
        columns = {
            label: f"{label} ({_size([record for record in mine if record.label == label])})"
            for label in dict.fromkeys(record.label for record in mine)
        }
        table = _table([record._replace(label=columns[record.label]) for record in mine], lambda record: record.label)
        parts.append(f"**{_joined(task, split)}: {readout}**, top-1 in per cent\n\n{table}")
    return "\n\n".join(parts)


def pick(contents: list[Content], readout: str, labels: Sequence[str] = ()) -> list[Record]:
    """The records of one read-out; raises ``VieError`` if there is none."""
    records = collect(contents, labels)
    picked = [record for record in records if f"{record.readout} {record.place}" == readout]
    if not picked:
        known = ", ".join(sorted({f"{record.readout} {record.place}" for record in records}))
        raise VieError(f"no result has the read-out {readout!r}: there are {known}")
    return picked


def collect(contents: list[Content], labels: Sequence[str] = ()) -> list[Record]:
    """The accuracies of results files, and means of them.

    Where a task was measured on several official splits, records of the split "mean of splits" stand for all of them;
    where labels share a name before a dot (``pair.door``, ``pair.drawer``), records of ``pair.*`` do.

    Args:
        contents: From ``pretrain.transfer_results.read_results``.
        labels: Those to keep, ``pair.*`` among them; all where left out.

    Raises:
        VieError: A label is nobody's, or a name was measured twice, of two encoders or by two protocols.
    """
    _check_repeated(contents)
    records = [record for content in contents for record in _records(content)]
    records += _means(records, "split", lambda record: record._replace(split=record.split and "mean of splits"))
    records += _means(records, "label", lambda record: record._replace(label=_family(record.label)))
    if unknown := set(labels) - (known := {record.label for record in records}):
        raise VieError(f"no result has a label {', '.join(sorted(unknown))}: there are {', '.join(sorted(known))}")
    return [record for record in records if not labels or record.label in labels]


def _check_repeated(contents: list[Content]) -> None:
    """Raises ``VieError`` where a name was measured twice, of two encoders or by two protocols: that has no mean."""
    known: dict[tuple[Any, ...], Content] = {}
    for content in contents:
        task, mode, encoder, seed = content["task"], content["mode"], content["encoder"]["name"], content["seed"]
        what = task, content["protocol"]["split"], mode, encoder, seed
        before = known.setdefault(what, content)
        if "weights" in content["encoder"]:
            known[what] = content  # earlier versions' results tell none, and are like any
        if apart := differences(before, content):
            raise VieError(
                f"{task}: {mode} of {encoder}, seed {seed}, was measured twice, and {', '.join(apart)} differ: give "
                "results of one encoder and protocol, or measure them under other names by --name"
            )


def _family(label: str) -> str:
    return f"{label.partition('.')[0]}.*" if "." in label else ""


def _means(records: list[Record], what: str, mean: Callable[[Record], Record]) -> list[Record]:
    """Copies of records as parts of a mean, of those encoders and seeds that were measured on every part of it.

    Args:
        records: All there are.
        what: Field whose values are the parts.
        mean: What a record becomes; the field is empty where there is no mean for it.
    """
    parts: dict[tuple[str, ...], set[str]] = {}
    members = [(mean(record), getattr(record, what)) for record in records if getattr(mean(record), what)]
    for record, part in members:
        parts.setdefault((record.task, record.split, record.label), set()).add(part)
    measured: dict[Record, set[str]] = {}
    for record, part in members:
        measured.setdefault(record._replace(top1=0, chance=0, videos=0), set()).add(part)
    return [
        record
        for record, _ in members
        if len(whole := parts[record.task, record.split, record.label]) > 1
        and measured[record._replace(top1=0, chance=0, videos=0)] == whole
    ]


def _records(content: Content) -> Iterator[Record]:
    encoder = content["encoder"]["name"]
    name = f"{encoder} (random)" if content["mode"] == "random" else encoder
    for row in content["results"]:
        yield Record(
            content["task"],
            f"split {content['protocol']['split']}" if content["protocol"]["split"] else "",
            row["label"],
            row["readout"] + (", frames shuffled" if row.get("shuffled") else ""),
            name,
            f"{row['layer']} {row['pooling']}",
            content["seed"],
            row["top1"],
            row["chance"],
            row["videos"],
        )


def by_seed(records: Iterable[Record]) -> list[float]:
    """What each seed reached, on average over its records."""
    values: dict[int, list[float]] = {}
    for record in records:
        values.setdefault(record.seed, []).append(record.top1)
    return [statistics.mean(reached) for reached in values.values()]


def _table(records: list[Record], column: Callable[[Record], str]) -> str:
    columns = list(dict.fromkeys(column(record) for record in records))
    lines = ["| encoder | seeds | " + " | ".join(columns) + " |", "|---" * (2 + len(columns)) + "|"]
    for encoder in dict.fromkeys(record.encoder for record in records):
        mine = [record for record in records if record.encoder == encoder]
        seeds = len({record.seed for record in mine})
        cells = [_cell((record for record in mine if column(record) == name), seeds) for name in columns]
        lines.append(f"| {encoder} | {seeds} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _size(records: list[Record]) -> str:
    videos = sorted({record.videos for record in records})
    chance = statistics.mean(record.chance for record in records)
    return f"{'-'.join(map(str, dict.fromkeys((videos[0], videos[-1]))))} test videos, chance {chance:.1f}"


def _cell(records: Iterable[Record], seeds: int) -> str:
    """Mean and spread over seeds of what each seed reached on average; how many, where they are fewer than others."""
    means = by_seed(records)
    if not means:
        return ""
    spread = f" ± {statistics.stdev(means):.1f}" if len(means) > 1 else ""
    return f"{statistics.mean(means):.1f}{spread}" + (f" (seeds: {len(means)})" if len(means) < seeds else "")
