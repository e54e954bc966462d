"""Preparation by real Dask clusters, whose processes are killed."""

import csv
import multiprocessing
import os
import re
import shutil
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from pretrain.cli import main
from pretrain.preparation.cluster import _make_on_worker
from pretrain.preparation.corpus_folder import package_versions
from pretrain.preparation.inputs import list_videos
from pretrain.preparation.prepare import PrepareConfig, prepare
from pretrain.preparation.shard_task import ShardTask, make_shard
from pretrain.preparation.shard_writer import source_key
from pretrain.preparation.store import store
from pretrain.preparation.worker_pool import Job
from tests.pretrain.dask_cluster import PATIENCE, Cluster, wait_until
from tests.videos import write_video
from vie.errors import VieError
from vie.video.shards import Shards

pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("cluster"), workers=2, nannies=False) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def fragile(tmp_path_factory):
    """A cluster that gives a task up when one worker has died of it."""
    with Cluster(tmp_path_factory.mktemp("fragile"), workers=1, allowed_failures=0) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def ten(tmp_path_factory):
    """Ten healthy videos in two classes."""
    folder = tmp_path_factory.mktemp("ten")
    for i in range(10):
        write_video(folder / f"{'ab'[i % 2]}/{i}.mp4", frames=6 + i, seed=i)
    return folder


def run(source, out, **config):
    settings = {"short_side": 64, "shard_videos": 2, "timeout": PATIENCE} | config
    return prepare(list_videos(source), out, PrepareConfig(**settings), progress=False)


def contents(folder, pattern="shard-*"):
    return {path.name: path.read_bytes() for path in folder.glob(pattern)}


def failed_csv(out):
    with (out / "failed.csv").open(newline="") as file:
        return {row["name"]: row["reason"] for row in csv.DictReader(file)}


def assert_whole(out, source, without=()):
    """Every video is there once, with frames that can be read, and nothing else is."""
    shards = Shards(out)
    assert shards.names == [video.name for video in list_videos(source) if video.name not in without]
    assert all(len(shards.read(row, range(count))) == count for row, count in enumerate(shards.num_frames))
    assert [path.name for path in out.iterdir() if "partial" in path.name or "unplaced" in path.name] == []
    tars = sorted(out.glob("*.tar"))
    assert [tar.with_suffix(".parquet") for tar in tars] == sorted(out.glob("shard-*.parquet"))
    return shards


class Waiting:
    """A run on videos of which one waits for its turn, after the others' shards are done or under way."""

    def __init__(self, ten, tmp_path, which="c/wait.mp4"):
        self.source, self.out = shutil.copytree(ten, tmp_path / "in"), tmp_path / "out"
        self.video = write_video(self.source / which, frames=7)
        self.reached, self.go = self.video.with_suffix(".reached"), self.video.with_suffix(".go")

    def start(self, cluster):
        pool = ThreadPoolExecutor(1)
        self.run = pool.submit(run, self.source, self.out, cluster=cluster.address)
        pool.shutdown(wait=False)

    def others_are_done(self):
        placed = len(list(self.out.glob("shard-*.parquet")))
        return self.reached.exists() and placed == 5 and len(self.makers()) == 1

    def error(self):
        return self.run.exception(PATIENCE)

    def makers(self):
        """Process numbers of the workers that are at a shard now; their folders are named after them."""
        return [int(folder.name.split("-")[-2]) for folder in self.out.glob(".unplaced-*/*")]


def test_a_cluster_makes_the_shards_that_one_machine_makes(cluster, ten, tmp_path, monkeypatch):
    run(ten, tmp_path / "here", shard_videos=4)
    monkeypatch.chdir(ten.parent)  # workers lie elsewhere: relative paths must not matter
    run(ten.name, tmp_path / "there", shard_videos=4, cluster=cluster.address, workers=2)
    assert contents(tmp_path / "here") == contents(tmp_path / "there")
    assert contents(tmp_path / "here", "index.parquet") == contents(tmp_path / "there", "index.parquet")
    assert_whole(tmp_path / "there", ten)
    again = run(ten, tmp_path / "there", cluster="nowhere:1")  # nothing is left to do, so nobody is asked
    assert (again.prepared, again.skipped) == (0, 10)


def test_a_second_run_goes_on_from_either(cluster, ten, tmp_path):
    source = shutil.copytree(ten, tmp_path / "in")
    run(source, tmp_path / "out")
    first = contents(tmp_path / "out")
    write_video(source / "c/new.mp4", frames=9, seed=90)
    write_video(source / "a/4.mp4", frames=21, seed=91)  # changed
    report = run(source, tmp_path / "out", cluster=cluster.address)
    assert (report.prepared, report.skipped) == (2, 9)
    assert contents(tmp_path / "out").items() > first.items()
    shards = assert_whole(tmp_path / "out", source)
    assert shards.num_frames[shards.names.index("a/4.mp4")] == 21


def test_bad_videos_and_decoders_cost_no_other_video(cluster, ten, tmp_path):
    source = shutil.copytree(ten, tmp_path / "in")
    (source / "a/empty.mp4").touch()
    (source / "a/text.mp4").write_text("this is no video\n" * 100)
    for name in ("two", "two too"):  # of one shard, which is then not written
        write_video(source / f"c/{name}.mp4", frames=2)
    listing = tmp_path / "list.txt"
    listing.write_text("\n".join([*sorted(str(path) for path in source.glob("*/*")), str(source / "missing.mp4")]))
    here = run(listing, tmp_path / "here")
    there = run(listing, tmp_path / "there", cluster=cluster.address)
    assert len(there.failed) == 5
    assert there.failed == here.failed
    assert failed_csv(tmp_path / "there") == failed_csv(tmp_path / "here")
    assert_whole(tmp_path / "there", listing, without=there.failed)

    for name in ("a/0 hang.mp4", "b/3 crash.mp4"):
        shutil.copy(source / "a/0.mp4", source / name)
    report = run(source, tmp_path / "treacherous", cluster=cluster.address, timeout=5)
    assert report.failed["a/0 hang.mp4"].startswith("no result after 5 seconds")
    assert report.failed["b/3 crash.mp4"] == "the decoder crashed (SIGSEGV)"
    assert report.prepared == 10


def test_a_killed_driver_is_taken_up(cluster, ten, tmp_path):
    job = Waiting(ten, tmp_path)
    # From the server of forks: it shares no more with this process than one of its own, and has its imports.
    context = multiprocessing.get_context("forkserver")
    driver = context.Process(target=run, args=(job.source, job.out), kwargs={"cluster": cluster.address})
    driver.start()
    wait_until(job.others_are_done)
    driver.kill()
    driver.join()
    before = contents(job.out)
    job.go.touch()
    wait_until(lambda: list(job.out.glob(".unplaced-*/*/*.parquet")))  # the worker finishes what nobody waits for
    report = run(job.source, job.out, cluster=cluster.address)
    assert (report.prepared, report.skipped) == (1, 10)
    assert contents(job.out).items() > before.items()
    assert_whole(job.out, job.source)


def test_a_worker_killed_half_way_costs_nothing(cluster, ten, tmp_path):
    """After those that need both workers, as nobody takes its place."""
    job = Waiting(ten, tmp_path)
    job.start(cluster)
    wait_until(job.others_are_done)
    (victim,) = job.makers()
    before = contents(job.out)
    os.kill(victim, signal.SIGKILL)
    job.go.touch()
    report = job.run.result(PATIENCE)
    assert (report.prepared, report.failed) == (11, {})
    assert_whole(job.out, job.source)
    assert contents(job.out).items() > before.items()


@pytest.mark.long
def test_a_shard_whose_workers_die_is_given_up_after_the_others(fragile, ten, tmp_path):
    job = Waiting(ten, tmp_path, "a/0 wait.mp4")
    job.start(fragile)
    wait_until(job.reached.exists)
    (victim,) = job.makers()
    os.kill(victim, signal.SIGKILL)
    job.go.touch()
    # With the shard goes at most the one that was handed to the worker ahead.
    assert re.match("[12] shards were given up, as every worker that took them up died", str(job.error()))
    assert len(list(job.out.glob("shard-*.parquet"))) >= 4
    report = run(job.source, job.out, cluster=fragile.address)
    assert (report.prepared + report.skipped, report.failed) == (11, {})
    assert_whole(job.out, job.source)


def test_a_lost_scheduler_ends_the_run(cluster, ten, tmp_path):
    """The last of all that share the cluster."""
    job = Waiting(ten, tmp_path)
    job.start(cluster)
    wait_until(job.others_are_done)
    cluster.processes[0].kill()
    assert "the connection to the Dask scheduler broke: run again" in str(job.error())
    job.go.touch()
    assert run(job.source, job.out).prepared == 1
    assert_whole(job.out, job.source)


def test_a_worker_without_vie_is_an_error(ten, tmp_path):
    with Cluster(tmp_path / "cluster") as cluster:
        cluster.add_worker(cluster.without_vie)
        refused(ten, tmp_path / "out", "lacks vie", cluster=cluster.address)


def test_no_scheduler_is_an_error_in_one_line(ten, tmp_path, monkeypatch, capsys):
    import dask

    for address in ("nonsense", str(tmp_path / "absent.json")):
        refused(ten, tmp_path / "out", f"{address}: no Dask scheduler answers", cluster=address)
    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}), pytest.raises(SystemExit):
        main(["prepare", str(ten), str(tmp_path / "out"), "--cluster", "tcp://127.0.0.1:9"])
    assert "vie-pretrain: tcp://127.0.0.1:9: no Dask scheduler answers" in capsys.readouterr().err.splitlines()[-1]
    monkeypatch.setitem(sys.modules, "distributed", None)
    refused(ten, tmp_path / "out", r"pip install 'vie\[cluster\]'", cluster="tcp://127.0.0.1:9")


def refused(source, out, match, **config):
    with pytest.raises(VieError, match=match) as caught:
        run(source, out, **config)
    assert "\n" not in str(caught.value)
    assert not list(out.glob("shard-*"))
    assert not list(out.glob(".unplaced-*"))


def a_task(source, unplaced):
    work = [(video, source_key(video)) for video in list_videos(source)]
    return ShardTask(0, work, Job(64, 90, "decord", PATIENCE, 1), {}, unplaced, package_versions())


def test_a_machine_with_other_packages_says_so(ten, tmp_path):
    task = a_task(ten, tmp_path)
    for package in ("vie", "decord2"):
        other = replace(task, versions={**task.versions, package: "9.9"})
        with pytest.raises(VieError, match=f"a worker of the cluster has {package} .*, the driver has 9.9: install"):
            make_shard(other)
    assert not list(tmp_path.iterdir())


def test_a_worker_that_is_a_daemon_may_have_processes(ten, tmp_path):
    """As a nanny's is, which the workers of the shared cluster lack."""
    context = multiprocessing.get_context("forkserver")
    worker = context.Process(target=_make_on_worker, args=(a_task(ten, tmp_path),), daemon=True)
    worker.start()
    worker.join(PATIENCE)
    assert worker.exitcode == 0
    (made,) = tmp_path.iterdir()
    assert len(list(made.glob("shard-*.parquet"))) == 1


def test_a_machine_that_sees_other_files_says_so(ten, tmp_path):
    """Else it would call all videos missing, and be the first to ask for more."""
    task = a_task(ten, tmp_path)
    with pytest.raises(VieError, match=r"does not see .*: the corpus must lie on a file system that all"):
        make_shard(replace(task, unplaced=tmp_path / "absent/unplaced"))
    elsewhere = [(replace(video, path=tmp_path / video.name), key) for video, key in task.work]
    with pytest.raises(VieError, match=r"does not see .*: the videos must lie on a file system that all"):
        make_shard(replace(task, work=elsewhere))
    assert not list(tmp_path.iterdir())


def test_a_machine_stops_when_its_folder_is_removed(ten, tmp_path, monkeypatch):
    done = []

    def removing(work, job, writer):
        for outcome in store(work, job, writer):
            shutil.rmtree(tmp_path / "unplaced", ignore_errors=True)
            done.append(outcome)
            yield outcome

    monkeypatch.setattr("pretrain.preparation.shard_task.store", removing)
    (tmp_path / "unplaced").mkdir()
    with pytest.raises(VieError, match="removed by the driver"):
        make_shard(a_task(ten, tmp_path / "unplaced"))
    assert len(done) == 1
    assert not list(tmp_path.iterdir())
