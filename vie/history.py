"""The run's record: one JSON line for each measurement, mirrored to TensorBoard."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from vie.distributed import ALONE, Ranks
from vie.errors import VieError
from vie.files import write_text_atomically

HISTORY_NAME = "history.jsonl"

Row = dict[str, Any]


class History:
    """Appends measurements to ``history.jsonl`` and to TensorBoard's event files; of several ranks the first does."""

    def __init__(
        self, run: Path, from_step: int, ranks: Ranks = ALONE, keep: Callable[[Row], bool] = lambda row: True
    ) -> None:
        """Opens a run's record at a step; what an interrupted run wrote beyond it is dropped.

        Args:
            run: Folder of the run.
            from_step: The step.
            ranks: Of the job.
            keep: Whether a row of a step until then is not beyond it in another way.
        """
        self._writes = ranks.rank == 0
        kept = [row for row in read_history(run) if row["step"] <= from_step and keep(row)] if from_step else []
        self._known = {(row["step"], name) for row in kept for name in row}
        if not self._writes:
            return
        self._path = run / HISTORY_NAME
        write_text_atomically(self._path, "".join(json.dumps(row) + "\n" for row in kept))
        self._board = SummaryWriter(str(run / "tensorboard"), purge_step=from_step + 1 if from_step else 0)

    def has(self, step: int, name: str) -> bool:
        """Whether a value of this name had been recorded after ``step`` steps when the record was opened."""
        return (step, name) in self._known

    def add(self, step: int, **values: Any) -> None:
        """Records values after ``step`` steps; lists of results go under "<readout>/<label>" on the board."""
        if not self._writes:
            return
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            if isinstance(value, int | float):
                self._board.add_scalar(name, value, step)
            elif isinstance(value, list):
                for row in value:
                    self._board.add_scalar(f"{row['readout']}/{row['label']}", row["top1"], step)

    def close(self) -> None:
        if self._writes:
            self._board.close()


def read_history(run: Path) -> list[dict[str, Any]]:
    """Every measurement of a run, in the order of its steps."""
    path = run / HISTORY_NAME
    if not path.exists():
        return []
    try:
        # A line without its end was being written when the run was stopped.
        return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    except ValueError as error:
        raise VieError(f"{path} is damaged ({error}): restore it from a copy, or start in a new folder") from error
