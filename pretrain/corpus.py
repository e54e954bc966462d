"""The corpus of a run: its instances, its held-out videos, and the reader of their pixels."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from pretrain.config import Config
from pretrain.readers import ClipReader, DeviceReader, ShardReader
from vie import VieError
from vie.video import Shards


@dataclass(frozen=True)
class Corpus:
    """What a run trains and tests on.

    Attributes:
        shards: The prepared corpus.
        train_videos: (N,) its rows that are the instances 0 to N - 1.
        val_videos: Its rows that are held out; may be empty.
        columns: Label columns to test on; may be empty.
        reader: Reads clips of both.
    """

    shards: Shards
    train_videos: npt.NDArray[np.int64]
    val_videos: npt.NDArray[np.int64]
    columns: list[str]
    reader: ClipReader


def open_corpus(config: Config, device: torch.device) -> Corpus:
    """Opens the corpus of a run; raises ``VieError`` if a split or a label column is missing."""
    data = config.data
    shards = Shards(data.path)
    train, val = shards.split(data.train_split), shards.split(data.val_split)
    if len(train) == 0:
        known = ", ".join(sorted(set(shards.splits.tolist())))
        raise VieError(
            f"{shards.path} has no videos in split {data.train_split!r}: set data.train_split to one of {known}"
        )
    columns = _label_columns(config.monitor.labels, shards, train, val)
    reader: ClipReader = ShardReader(shards)
    if data.cache == "device":
        reader = DeviceReader(shards, np.concatenate([train, val]), device, data.workers)
    return Corpus(shards, train, val, columns, reader)


def _label_columns(
    wanted: list[str] | None, shards: Shards, train: npt.NDArray[np.int64], val: npt.NDArray[np.int64]
) -> list[str]:
    """The columns wanted, or by default every one that has labels in both splits."""

    def is_empty(column: str) -> bool:
        labels = shards.labels(column)
        return bool(np.all(labels[train] < 0) or np.all(labels[val] < 0))

    if wanted is None:
        return [column for column in shards.label_columns if not is_empty(column)]
    for column in wanted:
        if is_empty(column) and len(val):
            raise VieError(f"label column {column!r} is empty in a split: choose others with monitor.labels")
    return wanted
