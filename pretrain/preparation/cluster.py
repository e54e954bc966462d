"""The driver of a preparation over many machines: cuts it into shards, which the workers of a Dask cluster make."""

import json
import logging
import multiprocessing
import pickle
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from pretrain.preparation.corpus_folder import package_versions
from pretrain.preparation.shard_task import Made, ShardTask, make_shard
from pretrain.preparation.shard_writer import UNPLACED, SourceKey, Stored, next_number, place_shard
from pretrain.preparation.store import Outcomes, Work
from pretrain.preparation.worker_pool import Job
from vie.errors import VieError

if TYPE_CHECKING:
    from distributed import Client, Future

LEAST_QUEUED = 1000  # shards that the scheduler knows of at least, so that an adaptive cluster sees how much there is
logger = logging.getLogger(__name__)


def store_on_cluster(
    address: str,
    work: Work,
    job: Job,
    folder: Path,
    settings: Mapping[str, object],
    shard_videos: int,
    stored: dict[SourceKey, Stored],
    on_finish: Callable[[], None],
) -> Outcomes:
    """Has videos transcoded and written by the workers of a cluster, whole shards at a time.

    Args:
        address: Of the Dask scheduler, or its scheduler file (``.json``).
        work: The videos and the states of their files.
        job: How they are transcoded, by how many processes for each shard.
        folder: The corpus, on a file system that all machines share.
        settings: What is written into the tables of the shards.
        shard_videos: Videos in each shard, less those that are left out.
        stored: Takes up the videos of every shard that is in its place.
        on_finish: Called after the outcomes of each shard.

    Yields:
        As ``pretrain.preparation.store.store`` does, in the order in which shards are finished.

    Raises:
        VieError: There is no scheduler, or it goes; the workers of a shard died again and again, which is said once all
            other shards are done; or as ``pretrain.preparation.shard_task.make_shard``.
    """
    unplaced = folder.absolute() / f"{UNPLACED}{uuid4().hex}"
    unplaced.mkdir()
    try:
        with _connected(address) as client:
            tasks = _cut(work, job, settings, shard_videos, next_number(folder), unplaced)
            for task, made in _run(client, tasks, address):
                try:
                    stored.update(place_shard(made.folder, folder))
                except FileNotFoundError as error:
                    raise VieError(
                        f"{made.folder}: made by a worker of the cluster and not to be seen here: the corpus must lie "
                        "on a file system that all machines share"
                    ) from error
                for (video, key), reason in zip(task.work, made.reasons, strict=True):
                    yield video, key, reason
                on_finish()
    finally:
        shutil.rmtree(unplaced, ignore_errors=True)  # which also stops those who are still at work in it


def _cut(
    work: Work, job: Job, settings: Mapping[str, object], shard_videos: int, number: int, unplaced: Path
) -> Iterator[ShardTask]:
    versions = package_versions()
    for start in range(0, len(work), shard_videos):
        part = [(replace(video, path=video.path.absolute()), key) for video, key in work[start : start + shard_videos]]
        yield ShardTask(number, part, job, settings, unplaced, versions)
        number += 1


@contextmanager
def _connected(address: str) -> "Iterator[Client]":
    try:
        from distributed import Client
    except ImportError as error:
        raise VieError(f"a cluster needs the package distributed ({error}): pip install 'vie[cluster]'") from error
    try:
        # Dask itself would wait for ever for a scheduler file that is not there.
        at = json.loads(Path(address).read_bytes())["address"] if address.endswith(".json") else address
        client = Client(at, set_as_default=False, name="vie-pretrain")
    except (OSError, TypeError, KeyError, ValueError) as error:
        cause = " ".join(str(error).split())
        raise VieError(
            f"{address}: no Dask scheduler answers ({cause}): start one with `dask scheduler`, or check the address"
        ) from error
    with client:
        if not client.nthreads():
            logger.warning("%s has no workers yet: waiting for the first", address)
        yield client


def _run(client: "Client", tasks: Iterator[ShardTask], address: str) -> Generator[tuple[ShardTask, Made], None, None]:
    """Keeps the scheduler supplied with tasks, not with all at once; yields them as they are finished."""
    from distributed import as_completed

    queued: dict[str, ShardTask] = {}
    lost: list[str] = []
    completed = as_completed(loop=client.loop)
    run = uuid4().hex

    def supply() -> None:
        wanted = max(LEAST_QUEUED, 2 * sum(client.nthreads().values()))
        while len(queued) < wanted and (task := next(tasks, None)):
            key = f"vie-prepare-{run}-{task.number}"
            queued[key] = task
            completed.add(client.submit(pickle.loads, pickle.dumps(_Call(task)), key=key, pure=False))

    try:
        supply()
        for future in completed:
            task = queued.pop(future.key)
            made = _result(future, address, lost)
            future.release()  # else Dask has it made again when its worker dies, as nobody else keeps the result
            if made:
                yield task, made
            supply()
    except OSError as error:
        raise _scheduler_gone(address) from error
    if lost:
        raise VieError(
            f"{len(lost)} shards were given up, as every worker that took them up died ({lost[0]}): they may need more "
            "memory, see the logs of the workers. The other shards are kept: run again to try these again"
        )


def _result(future: "Future[Any]", address: str, lost: list[str]) -> Made | None:
    """What became of a task; one whose workers died is noted in ``lost``."""
    from distributed import KilledWorker

    if future.status == "cancelled":  # nothing here cancels: the connection broke
        raise _scheduler_gone(address)
    try:
        made: Made = future.result()
        return made
    except KilledWorker as error:
        lost.append(str(error))
        return None
    except (ImportError, AttributeError) as error:
        raise VieError(
            f"{address}: a worker of the cluster lacks vie or has another version ({error}): install the same versions "
            "on all machines and start the workers again"
        ) from error


def _scheduler_gone(address: str) -> VieError:
    return VieError(
        f"{address}: the connection to the Dask scheduler broke: run again when it is back; finished shards are kept"
    )


class _Call:
    """A task that is done by unpickling it.

    So scheduler and workers are asked for the standard library's ``pickle.loads`` and see bytes: a machine without vie
    fails the task and says why. Dask's workers die of a function that they cannot import, one after another.
    """

    def __init__(self, task: ShardTask) -> None:
        self._task = task

    def __reduce__(self) -> tuple[Callable[[ShardTask], Made], tuple[ShardTask]]:
        return _make_on_worker, (self._task,)


def _make_on_worker(task: ShardTask) -> Made:
    # Dask's nanny marks its worker as a daemon, which may have no child processes; this one stops its own.
    multiprocessing.current_process().daemon = False
    return make_shard(task)
