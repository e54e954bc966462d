"""Preparation of a corpus: every video once decoded, shrunk and stored as JPEG frames in shards, resumably."""

import csv
import io
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from pretrain.preparation.cluster import store_on_cluster
from pretrain.preparation.corpus_folder import (
    DATASET_NAME,
    FORMAT,
    disk_errors,
    marked_settings,
    sole_run,
    write_corpus,
)
from pretrain.preparation.listed import Video
from pretrain.preparation.shard_writer import SHARD_VIDEOS, ShardWriter, SourceKey, Stored, read_finished, source_key
from pretrain.preparation.store import Outcomes, Work, store
from pretrain.preparation.worker_pool import Job
from vie.errors import VieError
from vie.files import write_text_atomically
from vie.video.source import Decoder, require_decoder

FAILED_NAME = "failed.csv"
FAILED_COLUMNS = ("name", "reason", "size", "mtime_ns", "decoder", "timeout")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PrepareConfig:
    """How a corpus is prepared.

    Attributes:
        short_side: Pixels of the shorter side of the stored frames; smaller videos are not enlarged.
        quality: JPEG quality, 1 to 100.
        shard_videos: Videos in each shard.
        workers: Processes; as many as there are processors where left out. On a cluster, processes of each thread of
            its workers; one where left out.
        timeout: Seconds that one video may take before it is given up.
        decoder: See ``vie.video.source.open_video``.
        cluster: Address of a Dask scheduler (``tcp://host:8786``), or its scheduler file (``.json``): its workers do
            the work. They must see videos and corpus under the same paths. This machine does it where left out.
    """

    short_side: int = 128
    quality: int = 90
    shard_videos: int = SHARD_VIDEOS
    workers: int | None = None
    timeout: float = 120.0
    decoder: Decoder = "decord"
    cluster: str | None = None

    def __post_init__(self) -> None:
        if self.short_side < 1 or self.shard_videos < 1 or self.timeout <= 0 or not 1 <= self.quality <= 100:
            raise VieError(f"{self} is out of range: sizes and timeout are positive, quality is 1 to 100")
        if self.workers is not None and self.workers < 1:
            raise VieError(f"workers={self.workers} is out of range: give at least 1, or none for one per processor")


@dataclass(frozen=True)
class PrepareReport:
    """What a run of ``prepare`` did.

    Attributes:
        prepared: Videos decoded and stored by this run.
        failed: Reason by name, for all listed videos that are not in the corpus.
        skipped: Videos that an earlier run had stored already.
        seconds: Duration of the run.
    """

    prepared: int
    failed: dict[str, str]
    skipped: int
    seconds: float


@dataclass(frozen=True)
class _Failure:
    key: SourceKey
    reason: str
    decoder: str
    timeout: float


def prepare(
    videos: Sequence[Video],
    out: str | os.PathLike[str],
    config: PrepareConfig | None = None,
    progress: bool = True,
) -> PrepareReport:
    """Prepares a corpus, or what is still missing of it.

    The folder then holds ``shard-*.tar`` (WebDataset), a ``.parquet`` table for each, ``index.parquet`` over all listed
    videos in their order, ``failed.csv`` and ``dataset.json``. A stored video is kept as long as its file's size and
    time of change stay the same; a failed one is tried again when these, the decoder or the time limit change, or when
    ``failed.csv`` is deleted. The first file written is ``dataset.json``, which tells the folder from any other: one
    that has other files but not this one is left alone.

    Args:
        videos: From ``list_videos``. Splits and labels are taken afresh by every run.
        out: Folder of the corpus; it is created where absent.
        config: Defaults where left out.
        progress: Shows a progress bar.

    Raises:
        VieError: There is no video to prepare, none can be decoded, the folder holds other files or a corpus with other
            settings, another run is at work in it, the disk is full, or the cluster cannot do the work.
    """
    began = time.monotonic()
    config = config or PrepareConfig()
    folder = Path(out)
    if not videos:
        raise VieError("there is no video to prepare: the list is empty")
    require_decoder(config.decoder)
    settings = {"format": FORMAT, "short_side": config.short_side, "quality": config.quality}
    with disk_errors(folder), sole_run(folder):
        stored = read_finished(folder, settings)
        if marked_settings(folder) != settings:
            write_text_atomically(folder / DATASET_NAME, json.dumps({"settings": settings}, indent=2) + "\n")
        known_failures = _read_failures(folder / FAILED_NAME)
        keys = [source_key(video) for video in videos]
        failures = {
            key: failure
            for key in keys
            if key not in stored and (failure := known_failures.get(key)) and _still_valid(failure, config)
        }
        work = [(video, key) for video, key in zip(videos, keys, strict=True) if key not in stored.keys() | failures]
        skipped = len(videos) - len(work) - len(failures)
        prepared = _store(work, folder, config, settings, stored, failures, progress)
        _write_failures(folder / FAILED_NAME, [failures[key] for key in keys if key in failures])
        if not any(key in stored for key in keys):
            first = next(iter(failures.values()))
            raise VieError(
                f"none of the {len(videos)} videos can be decoded ({first.key.name}: {first.reason}): "
                f"see {folder / FAILED_NAME}"
            )
        write_corpus(folder, videos, keys, stored, settings)
    failed = {key.name: failures[key].reason for key in keys if key in failures}
    return PrepareReport(prepared, failed, skipped, time.monotonic() - began)


def _store(
    work: Work,
    folder: Path,
    config: PrepareConfig,
    settings: dict[str, object],
    stored: dict[SourceKey, Stored],
    failures: dict[SourceKey, _Failure],
    progress: bool,
) -> int:
    """Transcodes and stores videos; adds to ``stored`` and ``failures``, and returns how many were stored."""

    def keep_failures() -> None:
        _write_failures(folder / FAILED_NAME, failures.values())

    prepared = 0
    with (
        logging_redirect_tqdm(),
        tqdm(total=len(work), desc="prepare", unit="video", disable=not progress or not work) as bar,
        closing(_outcomes(work, folder, config, settings, stored, keep_failures)) as outcomes,
    ):
        for video, key, reason in outcomes:
            if reason:
                logger.warning("%s is left out: %s", video.name, reason)
                failures[key] = _Failure(key, reason, config.decoder, config.timeout)
            else:
                prepared += 1
            bar.update()
    return prepared


def _outcomes(
    work: Work,
    folder: Path,
    config: PrepareConfig,
    settings: dict[str, object],
    stored: dict[SourceKey, Stored],
    on_finish: Callable[[], None],
) -> Outcomes:
    """Stores videos here or on a cluster; see ``store``. Those in finished shards are added to ``stored``."""
    job = Job(config.short_side, config.quality, config.decoder, config.timeout, config.workers or _processors())
    if config.cluster is not None and work:
        job = replace(job, workers=config.workers or 1)
        yield from store_on_cluster(config.cluster, work, job, folder, settings, config.shard_videos, stored, on_finish)
        return
    with ShardWriter(folder, config.shard_videos, settings, on_finish) as writer:
        yield from store(work, job, writer)
    stored.update(writer.finished)


def _still_valid(failure: _Failure, config: PrepareConfig) -> bool:
    return failure.decoder == config.decoder and failure.timeout == config.timeout


def _read_failures(path: Path) -> dict[SourceKey, _Failure]:
    if not path.exists():
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        keys = [SourceKey(row["name"], int(row["size"]), int(row["mtime_ns"])) for row in rows]
        return {
            key: _Failure(key, row["reason"], row["decoder"], float(row["timeout"]))
            for key, row in zip(keys, rows, strict=True)
        }
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise VieError(f"{path}: damaged ({error!r}): delete it and run again") from error


def _write_failures(path: Path, failures: Iterable[_Failure]) -> None:
    text = io.StringIO()
    # Quoted, as a carriage return in a name would end its row.
    writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    writer.writerow(FAILED_COLUMNS)
    for failure in failures:
        key = failure.key
        writer.writerow([key.name, failure.reason, key.size, key.mtime_ns, failure.decoder, failure.timeout])
    write_text_atomically(path, text.getvalue())


def _processors() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
