"""Markdown tables out of results files; no figure is typed by hand."""

import statistics
from collections.abc import Iterable, Iterator
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


def tables(contents: list[Content], layers: list[str] | None = None) -> str:
    """One table for each task, split, label and read-out: a line for each encoder, a column for each layer.

    Cells are mean and standard deviation over seeds. Where a task was measured on several official splits, a further
    table holds the mean of these; labels that share a name before a dot (``pair.door``, ``pair.drawer``) are also
    averaged, as ``pair.*``.

    Args:
        contents: From ``benchmarks.transfer.results.read_results``.
        layers: Columns to keep, such as "conv5 flat"; all where left out.
    """
    records = [record for content in contents for record in _records(content)]
    records += [record._replace(split="mean of splits") for record in records if _is_one_of_several(record, records)]
    records += [
        record._replace(label=f"{record.label.partition('.')[0]}.*") for record in records if "." in record.label
    ]
    if layers:
        records = [record for record in records if record.place in layers]
    titles = sorted({record[:4] for record in records})
    return "\n\n".join(_table(title, [record for record in records if record[:4] == title]) for title in titles)


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


def _is_one_of_several(record: Record, records: list[Record]) -> bool:
    return len({other.split for other in records if other.task == record.task}) > 1


def _table(title: tuple[str, ...], records: list[Record]) -> str:
    task, split, label, readout = title
    places, encoders = (
        list(dict.fromkeys(getattr(record, what) for record in records)) for what in ("place", "encoder")
    )
    chance = statistics.mean(record.chance for record in records)
    name = ", ".join(part for part in (task, split, label) if part)
    videos = max(record.videos for record in records)
    lines = [
        f"**{name}: {readout}**, top-1 in per cent of {videos} test videos (chance {chance:.1f})",
        "",
        "| encoder | seeds | " + " | ".join(places) + " |",
        "|---" * (2 + len(places)) + "|",
    ]
    for encoder in encoders:
        mine = [record for record in records if record.encoder == encoder]
        cells = [_cell(record for record in mine if record.place == place) for place in places]
        lines.append(f"| {encoder} | {len({record.seed for record in mine})} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(records: Iterable[Record]) -> str:
    """Mean and spread over seeds of what each seed reached on average."""
    by_seed: dict[int, list[float]] = {}
    for record in records:
        by_seed.setdefault(record.seed, []).append(record.top1)
    means = [statistics.mean(values) for values in by_seed.values()]
    if not means:
        return ""
    spread = f" ± {statistics.stdev(means):.1f}" if len(means) > 1 else ""
    return f"{statistics.mean(means):.1f}{spread}"
