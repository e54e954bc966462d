"""The videos and labels of a task."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmarks.transfer.config import TaskData
from pretrain.data.corpus import label_columns
from vie import VieError
from vie.video import Shards


@dataclass(frozen=True)
class Task:
    """What is learned and tested.

    Attributes:
        shards: The prepared corpus.
        train, test: (N,) and (M,) its rows; each has a label in at least one column.
        classes: Class names of every label column.
        numbers: Class number of every row of the corpus, by label column; -1 where there is no label.
    """

    shards: Shards
    train: npt.NDArray[np.int64]
    test: npt.NDArray[np.int64]
    classes: dict[str, list[str]]
    numbers: dict[str, npt.NDArray[np.int64]]

    def labels(self, column: str, rows: npt.NDArray[np.int64], device: torch.device) -> Tensor:
        """Class numbers of rows; -1 where the label is missing."""
        return torch.from_numpy(self.numbers[column][rows]).to(device)

    def chance(self, column: str) -> float:
        """Per cent of the labelled test videos that are of the commonest class of the training videos."""
        train, test = (self.numbers[column][rows] for rows in (self.train, self.test))
        common = np.bincount(train[train >= 0]).argmax()
        return float(100 * np.mean(test[test >= 0] == common))


def open_task(data: TaskData) -> Task:
    """Opens a task; raises ``VieError`` if the corpus, a split or a label column is missing."""
    shards = Shards(data.path, data.cache_dir, data.cache_bytes)
    train, test = (
        shards.split(name, *([data.split] if data.split else [])) for name in (data.train_split, data.test_split)
    )
    for name, rows in ((data.train_split, train), (data.test_split, test)):
        if len(rows) == 0:
            known = ", ".join(shards.split_names)
            raise VieError(
                f"{shards.path} has no videos in split {name!r}: set data.train_split and data.test_split to two of "
                f"{known}"
            )
    columns = label_columns(data.labels, "data.labels", shards, train, test)
    if not columns:
        raise VieError(f"{shards.path} has no labels: prepare it from a listing with a label column")
    numbers = {column: shards.labels(column) for column in columns}
    labelled = np.any([known >= 0 for known in numbers.values()], axis=0)
    classes = {column: shards.classes(column) for column in columns}
    return Task(shards, train[labelled[train]], test[labelled[test]], classes, numbers)
