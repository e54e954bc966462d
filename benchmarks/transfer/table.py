"""Markdown tables out of results files; no figure is typed by hand."""

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

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


def tables(contents: list[Content], layers: Sequence[str] = ()) -> str:
    """One table for each task, split, label and read-out: a line for each encoder, a column for each layer.

    Args:
        contents: From ``benchmarks.transfer.results.read_results``.
        layers: Columns to keep, such as "conv5 flat"; all where left out.
    """
    records = [record for record in collect(contents) if not layers or record.place in layers]
    parts = []
    for title in sorted({record[:4] for record in records}):
        mine = [record for record in records if record[:4] == title]
        task, split, label, readout = title
        head = f"**{_joined(task, split, label)}: {readout}**, top-1 in per cent of {_size(mine)}"
        parts.append(f"{head}\n\n{_table(mine, lambda record: record.place)}")
    return "\n\n".join(parts)


def comparison(contents: list[Content], readout: str) -> str:
    """One table for each task and split: a line for each encoder, a column for each label.

    Args:
        contents: From ``benchmarks.transfer.results.read_results``.
        readout: The one to compare by: its name and its layer, such as "linear conv5 flat" or "knn pooled avg".
    """
    records = [record for record in collect(contents) if f"{record.readout} {record.place}" == readout]
    parts = []
    for task, split in sorted({record[:2] for record in records}):
        mine = [record for record in records if record[:2] == (task, split)]
        head = f"**{_joined(task, split)}: {readout}**, top-1 in per cent"
        parts.append(f"{head}\n\n{_table(mine, lambda record: f'{record.label} ({_size([record])})')}")
    return "\n\n".join(parts)


def collect(contents: list[Content]) -> list[Record]:
    """The accuracies of results files, and means of them.

    Where a task was measured on several official splits, records of the split "mean of splits" stand for all of them;
    where labels share a name before a dot (``pair.door``, ``pair.drawer``), records of ``pair.*`` do.
    """
    records = [record for content in contents for record in _records(content)]
    splits = {(record.task, record.split) for record in records if record.split}
    several = {task for task, _ in splits if sum(task == other for other, _ in splits) > 1}
    records += [
        record._replace(split="mean of splits") for record in records if record.split and record.task in several
    ]
    records += [
        record._replace(label=f"{record.label.partition('.')[0]}.*") for record in records if "." in record.label
    ]
    return records


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
        cells = [_cell(record for record in mine if column(record) == name) for name in columns]
        lines.append(f"| {encoder} | {len({record.seed for record in mine})} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _size(records: list[Record]) -> str:
    videos = sorted({record.videos for record in records})
    chance = statistics.mean(record.chance for record in records)
    return f"{'-'.join(map(str, dict.fromkeys((videos[0], videos[-1]))))} test videos, chance {chance:.1f}"


def _cell(records: Iterable[Record]) -> str:
    """Mean and spread over seeds of what each seed reached on average."""
    means = by_seed(records)
    if not means:
        return ""
    spread = f" ± {statistics.stdev(means):.1f}" if len(means) > 1 else ""
    return f"{statistics.mean(means):.1f}{spread}"
