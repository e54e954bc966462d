"""What was done to runs, and what became of them: ``docs/reliability.md`` out of what the tests have measured.

    VIE_TABLES=TABLES make test test-long
    python -m benchmarks.reliability TABLES > docs/reliability.md

The tests keep a row of a table each; this puts them under the words of their tables.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

TITLES = {
    "ranks": (
        "Several ranks are one",
        "The greatest difference between a job of several ranks and one of one, over gloo on the CPU: losses, "
        "gradients, labels and bank of nine steps in float64 (`tests/distributed/test_ranks.py`), and every tensor of "
        "a checkpoint after twelve steps under torchrun in float32, whose rounding it is, batch norm held still "
        "(`test_training.py`).",
    ),
    "kills": (
        "Killed and continued",
        "Runs that SIGKILL ended at steps drawn at random, in their midst or between them, each run several times, and "
        "that the same command took up again, against runs that nothing ended: the greatest difference of any number "
        "in the last checkpoint.",
    ),
    "jobs": (
        "Faults of jobs",
        "What else was done to a job, and what became of it. Temporary folders of the tests are left out of its words.",
    ),
    "faults": (
        "Bad videos",
        "A corpus with one file of each kind, prepared and trained on. Every file that cannot be used is named with "
        "its reason; the others are trained on.",
    ),
}


def render(folder: Path) -> str:
    """Markdown of all tables that there are rows of, in the order of ``TITLES``."""
    parts = ["# Reliability", __doc__.partition("\n\n")[2].partition("\n\nThe tests")[0].replace("    ", "")]
    parts[1] = f"Measured by the tests:\n\n```\n{parts[1].strip()}\n```"
    for name, (title, words) in TITLES.items():
        path = folder / f"{name}.jsonl"
        if path.exists():
            # Of tests that were run more than once, what they found alike stands there once.
            rows = [json.loads(line) for line in dict.fromkeys(path.read_text().splitlines())]
            parts += [f"## {title}", words, _table(sorted(rows, key=lambda row: [str(cell) for cell in row.values()]))]
    return "\n\n".join(parts) + "\n"


def _table(rows: list[dict[str, object]]) -> str:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for row in rows:
        cells = (str(row.get(column, "")).replace("|", "\\|").replace("\n", " ") for column in columns)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path, help="folder that the tests have filled")
    print(render(parser.parse_args(arguments).tables), end="")


if __name__ == "__main__":
    main()
