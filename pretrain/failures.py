"""The clips that could not be read while training, by name and reason."""

import csv
import io
from collections.abc import Callable, Iterable
from pathlib import Path

from vie.files import write_text_atomically

FAILURES_NAME = "failed_clips.csv"
HEADER = ("step", "instance", "name", "reason")


class Failures:
    """Appends to ``failed_clips.csv``; a run without failures has no such file."""

    def __init__(self, run: Path, from_step: int, name: Callable[[int], str]) -> None:
        """Opens a run's record at a step; what an interrupted run wrote beyond it is dropped.

        Args:
            run: Folder of the run.
            from_step: The step that comes next.
            name: The name of an instance by its number.
        """
        self._path = run / FAILURES_NAME
        self._name = name
        if self._path.exists():
            with self._path.open(newline="") as file:
                rows = list(csv.reader(file))[1:]
            # A row without all its fields was being written when the run was stopped.
            kept = [row for row in rows if len(row) == len(HEADER) and int(row[0]) < from_step]
            if kept:
                write_text_atomically(self._path, _lines([HEADER, *kept]))
            else:
                self._path.unlink()

    def add(self, step: int, failures: dict[int, str]) -> None:
        """Records the failures of a step: reasons by instance number."""
        if not failures:
            return
        rows = [(step, instance, self._name(instance), reason) for instance, reason in failures.items()]
        header = [] if self._path.exists() else [HEADER]
        with self._path.open("a", newline="") as file:
            file.write(_lines([*header, *rows]))


def _lines(rows: Iterable[Iterable[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
