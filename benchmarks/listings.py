"""Listings of the small sets that the documentation quotes, with the labels and splits that its tables need.

    python -m benchmarks.listings metaworld LABELS.csv OUT.csv

The paths in OUT.csv are relative to the folder of LABELS.csv: prepare it with `--root` of that folder.
"""

import argparse
import csv
from collections.abc import Callable, Sequence
from pathlib import Path

Row = dict[str, str]

OPPOSITES = {
    "assembly": ("assembly-v3", "disassemble-v3"),
    "coffee": ("coffee-push-v3", "coffee-pull-v3"),
    "door": ("door-open-v3", "door-close-v3"),
    "lock": ("door-lock-v3", "door-unlock-v3"),
    "drawer": ("drawer-open-v3", "drawer-close-v3"),
    "faucet": ("faucet-open-v3", "faucet-close-v3"),
    "handle": ("handle-press-v3", "handle-pull-v3"),
    "handle-side": ("handle-press-side-v3", "handle-pull-side-v3"),
    "peg": ("peg-insert-side-v3", "peg-unplug-side-v3"),
    "plate": ("plate-slide-v3", "plate-slide-back-v3"),
    "plate-side": ("plate-slide-side-v3", "plate-slide-back-side-v3"),
    "push": ("push-v3", "push-back-v3"),
    "window": ("window-open-v3", "window-close-v3"),
}
"""Meta-World's tasks that undo one another: a still picture of one shows what the other also shows."""


def metaworld(rows: list[Row]) -> list[Row]:
    """Adds a column ``pair.NAME`` for every pair of opposite tasks, empty for the videos of others."""
    return [
        {**row, **{f"pair.{name}": row["task"] if row["task"] in pair else "" for name, pair in OPPOSITES.items()}}
        for row in rows
    ]


def avletters(rows: list[Row]) -> list[Row]:
    """Adds a column ``split.talkersN`` for each two of the eight talkers, who are tested by it, all others training."""
    talkers = sorted({row["talker"] for row in rows})
    pairs = [talkers[first : first + 2] for first in range(0, len(talkers), 2)]
    return [
        {
            **row,
            **{
                f"split.talkers{number}": "val" if row["talker"] in pair else "train"
                for number, pair in enumerate(pairs, 1)
            },
        }
        for row in rows
    ]


LISTINGS: dict[str, Callable[[list[Row]], list[Row]]] = {"metaworld": metaworld, "avletters": avletters}


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads one listing and writes the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", choices=LISTINGS)
    parser.add_argument("labels", type=Path)
    parser.add_argument("out", type=Path)
    parsed = parser.parse_args(arguments)
    with parsed.labels.open(newline="") as file:
        rows = LISTINGS[parsed.corpus](list(csv.DictReader(file)))
    with parsed.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
