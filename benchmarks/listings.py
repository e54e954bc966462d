"""Listings of the small sets that the documentation quotes, with the labels and splits that its tables need.

    python -m benchmarks.listings metaworld LABELS.csv OUT.csv

The paths in OUT.csv are relative to the folder of LABELS.csv: prepare it with `--root` of that folder.
"""

import argparse
import csv
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from vie import VieError
from vie.files import write_text_atomically

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
    "stick": ("stick-push-v3", "stick-pull-v3"),
    "window": ("window-open-v3", "window-close-v3"),
}
"""Meta-World's tasks that undo one another: a still picture of one shows what the other also shows.

With five test videos of each task, a pair has 10 of them, and an accuracy on one pair comes in steps of 10 %: quote the
mean over the pairs (140 videos).
"""


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
    """Reads one listing and writes the other; a fault that the user can mend is one line on stderr, exit status 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", choices=LISTINGS)
    parser.add_argument("labels", type=Path)
    parser.add_argument("out", type=Path)
    parsed = parser.parse_args(arguments)
    try:
        write_listing(parsed.corpus, parsed.labels, parsed.out)
    except (VieError, OSError) as error:
        sys.exit(f"benchmarks.listings: {error}")


def write_listing(corpus: str, labels: Path, out: Path) -> None:
    """Writes the listing of a corpus from its labels, whole or not at all.

    Args:
        corpus: Name in ``LISTINGS``.
        labels: CSV with a header and a line for each video.
        out: The listing.

    Raises:
        VieError: The labels are no such CSV.
        OSError: A file cannot be read or written.
    """
    try:
        with labels.open(newline="", encoding="utf-8") as file:
            given = list(csv.DictReader(file))
        if any(None in (*row, *row.values()) for row in given):
            raise VieError(f"{labels} has a line of more or fewer fields than its header: mend it")
        rows = LISTINGS[corpus](given)
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    except KeyError as error:
        raise VieError(f"{labels} has no column {error}: give the labels of {corpus}") from error
    except IndexError as error:
        raise VieError(f"{labels} lists no videos: give a line for each below the header") from error
    except (ValueError, csv.Error) as error:
        raise VieError(f"{labels} cannot be read as CSV ({error}): give the labels of {corpus}") from error
    write_text_atomically(out, text.getvalue())


if __name__ == "__main__":
    main()
