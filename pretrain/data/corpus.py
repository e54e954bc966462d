"""The corpus of a run: its instances, its held-out videos, and the readers of their pixels."""

import hashlib
import logging
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from pretrain.config import Config, DataConfig
from pretrain.data.instances import Instances, temporal_bins, whole_videos
from pretrain.data.readers import ClipReader, DeviceReader, ShardReader
from vie import VieError
from vie.video import Sampling, Shards

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Corpus:
    """What a run trains and tests on.

    Attributes:
        shards: The prepared corpus.
        train_videos: Its rows that are trained on.
        instances: What the bank has a row for: these videos, or bins of them.
        val_videos: Its rows that are held out; may be empty.
        columns: Label columns to test on; may be empty.
    """

    shards: Shards
    train_videos: npt.NDArray[np.int64]
    instances: Instances
    val_videos: npt.NDArray[np.int64]
    columns: list[str]

    def instance_name(self, instance: int) -> str:
        """Name of the video that an instance is of."""
        return self.shards.names[self.instances.videos[instance]]

    def fingerprint(self) -> str:
        """What tells the training videos of this corpus from those of another: their names, in order."""
        return self._names_digest().hexdigest()

    def instance_fingerprint(self) -> str:
        """What tells the instances of this corpus from those of another: their videos, and where they lie in them.

        For instances that are whole videos it is the videos' fingerprint.
        """
        digest = self._names_digest()
        later = np.flatnonzero(self.instances.first)
        digest.update(later.tobytes() + self.instances.first[later].tobytes())
        return digest.hexdigest()

    def _names_digest(self) -> "hashlib.blake2b":
        digest = hashlib.blake2b(digest_size=16)
        for piece in self.shards.names.joined(self.train_videos, "\n"):
            digest.update(piece)
        return digest


def open_corpus(config: Config, sampling: Sampling) -> Corpus:
    """Opens the corpus of a run.

    Args:
        config: Of the run.
        sampling: Its clip, which bins of videos are cut for.

    Raises:
        VieError: A split or a label column is missing.
    """
    data = config.data
    shards = Shards(data.path, data.cache_dir, data.cache_bytes)
    train, val = (shards.split(name, data.split) for name in (data.train_split, data.val_split))
    if len(train) == 0:
        known = ", ".join(shards.split_names)
        raise VieError(
            f"{shards.path} has no videos in split {data.train_split!r}: set data.train_split to one of {known}"
        )
    train = draw_fraction(train, data.fraction, config.seed)
    if len(val) == 0:
        logger.warning("%s has no videos in split %r: nothing is tested on the way", shards.path, data.val_split)
    if data.instance_frames is None:
        instances = whole_videos(shards, train)
    else:
        instances = temporal_bins(shards, train, sampling, data.instance_frames)
    return Corpus(
        shards, train, instances, val, label_columns(config.monitor.labels, "monitor.labels", shards, train, val)
    )


def draw_fraction(videos: npt.NDArray[np.int64], fraction: float, seed: int) -> npt.NDArray[np.int64]:
    """A share of the videos, drawn without replacement, in the corpus's order; at least one."""
    count = max(1, round(fraction * len(videos)))
    if count >= len(videos):
        return videos
    return np.sort(np.random.default_rng(seed).permutation(videos)[:count])


def open_reader(corpus: Corpus, data: DataConfig, device: torch.device) -> ClipReader:
    """The reader of a run's clips; unless data.cache is none it decodes the corpus first."""
    if data.cache == "none":
        return ShardReader(corpus.shards)
    videos = np.concatenate([corpus.train_videos, corpus.val_videos])
    return DeviceReader(corpus.shards, videos, device, data.workers, kept=data.cache == "device+disk")


def label_columns(
    wanted: list[str] | None,
    setting: str,
    shards: Shards,
    train: npt.NDArray[np.int64],
    val: npt.NDArray[np.int64],
) -> list[str]:
    """The columns wanted by a setting, or by default every one that has labels in both splits."""

    def is_empty(column: str) -> bool:
        labels = shards.labels(column)
        return bool(np.all(labels[train] < 0) or np.all(labels[val] < 0))

    if wanted is None:
        return [column for column in shards.label_columns if not is_empty(column)]
    for column in wanted:
        if is_empty(column) and len(val):
            raise VieError(f"label column {column!r} is empty in a split: choose others with {setting}")
    return wanted
