"""The clips that could not be read while training, by name and reason."""

import csv
import io
from collections.abc import Callable, Iterable
from pathlib import Path

from vie.distributed import ALONE, Ranks
from vie.errors import VieError
from vie.files import write_text_atomically

STEM = "failed_clips"
FAILURES_NAME = f"{STEM}.csv"
HEADER = ("step", "instance", "name", "reason")

MOST_EMPTY = 20
"""Steps one after another in which a rank may read nothing; a storage that is gone for longer ends the run."""


class Failures:
    """Appends to ``failed_clips.csv``, of further ranks to ``failed_clips.rank-N.csv``; without failures there is none.

    The files of ranks are joined when the run is continued.
    """

    def __init__(self, run: Path, from_step: int, name: Callable[[int], str], ranks: Ranks = ALONE) -> None:
        """Opens a run's record at a step; what an interrupted run wrote beyond it is dropped.

        Args:
            run: Folder of the run.
            from_step: The step that comes next.
            name: The name of an instance by its number.
            ranks: Of the job; all of them must open it.
        """
        self._path = run / (f"{STEM}.rank-{ranks.rank}.csv" if ranks.rank else FAILURES_NAME)
        self._name = name
        self._empty = 0
        if ranks.rank == 0:
            _join(run, from_step)
        ranks.wait()

    def add(self, step: int, failures: dict[int, str], nothing_read: bool = False) -> None:
        """Records the failures of a step: reasons by instance number.

        Raises:
            VieError: It is the last of many steps in which nothing could be read.
        """
        self._empty = self._empty + 1 if nothing_read else 0
        if not failures:
            return
        rows = [(step, instance, self._name(instance), reason) for instance, reason in failures.items()]
        header = [] if self._path.exists() else [HEADER]
        with self._path.open("a", newline="") as file:
            file.write(_lines([*header, *rows]))
        if self._empty == MOST_EMPTY:
            raise VieError(f"no clip of the last {MOST_EMPTY} steps can be read, the last because: {rows[-1][-1]}")


def read_failures(run: Path) -> list[list[str]]:
    """The rows that the ranks of a run have written, by step."""
    rows: list[list[str]] = []
    for path in run.glob(f"{STEM}*.csv"):
        with path.open(newline="") as file:
            # A row without all its fields was being written when the run was stopped.
            rows += [row for row in list(csv.reader(file))[1:] if len(row) == len(HEADER)]
    return sorted(rows, key=lambda row: int(row[0]))


def _join(run: Path, from_step: int) -> None:
    kept = [row for row in read_failures(run) if int(row[0]) < from_step]
    if kept:
        write_text_atomically(run / FAILURES_NAME, _lines([HEADER, *kept]))
    for path in run.glob(f"{STEM}*.csv"):
        if path.name != FAILURES_NAME or not kept:
            path.unlink()


def _lines(rows: Iterable[Iterable[object]]) -> str:
    text = io.StringIO()
    # A carriage return in a name ends a row that is not quoted.
    csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows(rows)
    return text.getvalue()
