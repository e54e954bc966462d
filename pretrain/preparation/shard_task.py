"""One shard, made on a machine of a cluster, which may be killed at any time."""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from pretrain.preparation.corpus_folder import disk_errors, package_versions
from pretrain.preparation.shard_writer import ShardWriter, source_key
from pretrain.preparation.store import Work, store
from pretrain.preparation.worker_pool import Job
from vie.errors import VieError


@dataclass(frozen=True)
class ShardTask:
    """All that a machine needs in order to make one shard.

    Attributes:
        number: Of the shard. Numbers are given out by the driver, so that no two shards take one.
        work: Its videos, by absolute paths, and the states of their files as the driver sees them.
        job: How they are transcoded.
        settings: What is written into the shard's table.
        unplaced: An existing folder within the corpus. Every attempt makes the shard in a folder of its own in it: a
            machine that was given up as dead may still be at work beside the one that took its place.
        versions: The driver's packages.
    """

    number: int
    work: Work
    job: Job
    settings: Mapping[str, object]
    unplaced: Path
    versions: Mapping[str, str | None]


@dataclass(frozen=True)
class Made:
    """What became of a task.

    Attributes:
        folder: Where the shard lies; see ``pretrain.preparation.shard_writer.place_shard``.
        reasons: For each video of the task, why it is left out; empty where it is stored.
    """

    folder: Path
    reasons: list[str]


def make_shard(task: ShardTask) -> Made:
    """Transcodes the videos of a task and writes their shard, whole or not at all.

    Raises:
        VieError: This machine has other packages than the driver, does not see its files, cannot start processes, or
            the disk is full.
    """
    host = socket.gethostname()
    _require_versions(task, host)
    _require_files(task, host)
    with disk_errors(task.unplaced.parent):
        folder = task.unplaced / f"{host}-{os.getpid()}-{uuid4().hex}"
        folder.mkdir()
        reasons = []
        with ShardWriter(folder, len(task.work), task.settings, lambda: None, task.number) as writer:
            for _, _, reason in store(task.work, task.job, writer):
                reasons.append(reason)
                if not folder.is_dir():
                    raise VieError(f"{folder}: removed by the driver, who no longer waits for this shard")
    return Made(folder, reasons)


def _require_versions(task: ShardTask, host: str) -> None:
    mine = package_versions()
    for package, wanted in task.versions.items():
        if mine.get(package) != wanted:
            raise VieError(
                f"{host}: a worker of the cluster has {package} {mine.get(package) or '(none)'}, the driver has "
                f"{wanted or '(none)'}: install the same versions on all machines and start the workers again"
            )


def _require_files(task: ShardTask, host: str) -> None:
    """A machine without the shared file system would call every video missing, and be the fastest to ask for more."""
    if not task.unplaced.is_dir():
        raise VieError(
            f"{host}: a worker of the cluster does not see {task.unplaced.parent}: the corpus must lie on a file "
            "system that all machines share, under the same path"
        )
    seen = [video for video, key in task.work if key.size >= 0]
    if seen and all(source_key(video).size < 0 for video in seen):
        raise VieError(
            f"{host}: a worker of the cluster does not see {seen[0].path}: the videos must lie on a file system that "
            "all machines share, under the same path"
        )
