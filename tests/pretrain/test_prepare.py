"""Preparation on real files in real processes; the decoders' faults are provoked where files cannot be relied on."""

import csv
import fcntl
import gc
import json
import multiprocessing
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from pebble.common import CONSTS

from pretrain.preparation import worker_pool
from pretrain.preparation.frames import shrink
from pretrain.preparation.inputs import Video, list_videos
from pretrain.preparation.prepare import PrepareConfig, prepare
from pretrain.preparation.transcode import transcode
from tests.videos import cut, cut_after_packet, write_sound, write_video
from vie.errors import VieError
from vie.video.shards import Shards
from vie.video.source import open_video

REPOSITORY = Path(__file__).parents[2]
METAWORLD = REPOSITORY.parent / "shared/data/metaworld_mt50"


def run(source, out, **config):
    return prepare(list_videos(source), out, PrepareConfig(**{"short_side": 64, "workers": 2} | config), progress=False)


def failed_csv(out):
    with (out / "failed.csv").open(newline="") as file:
        return {row["name"]: row["reason"] for row in csv.DictReader(file)}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob("shard-*")}


def psnr(a, b):
    return float(10 * torch.log10(255**2 / (a.float() - b.float()).square().mean()))


@pytest.fixture(scope="module")
def ten(tmp_path_factory):
    """Ten healthy videos in two classes."""
    folder = tmp_path_factory.mktemp("ten")
    for i in range(10):
        write_video(folder / f"{'ab'[i % 2]}/{i}.mp4", frames=6 + i, seed=i)
    return folder


@pytest.fixture
def copy_of_ten(ten, tmp_path):
    return shutil.copytree(ten, tmp_path / "ten")


def test_a_corpus_holds_the_frames_of_its_videos_in_order(ten, tmp_path):
    report = run(ten, tmp_path, shard_videos=4)
    assert (report.prepared, report.failed, report.skipped) == (10, {}, 0)
    videos, shards = list_videos(ten), Shards(tmp_path)
    assert shards.names == [video.name for video in videos]
    assert [shards.classes("label")[i] for i in shards.labels("label")] == [v.labels["label"] for v in videos]
    for row, video in enumerate(videos):
        source = open_video(video.path)
        frames = shrink(source.get_batch(range(len(source))), 64).permute(0, 2, 3, 1)
        stored = shards.read(row, range(shards.num_frames[row]))
        assert stored.shape == frames.shape == (len(source), 64, 85, 3)
        assert psnr(stored, frames) > 35
        assert shards.fps[row] == 25
    about = json.loads((tmp_path / "dataset.json").read_text())
    assert (about["videos"], about["failed"], about["shards"], about["label_columns"]) == (10, 0, 3, ["label"])
    assert about["settings"] == {"format": "mjpeg-1", "short_side": 64, "quality": 90}
    assert not list(tmp_path.glob("*.partial"))


def test_the_shards_do_not_depend_on_the_number_of_workers(ten, tmp_path):
    for workers in (1, 3):
        run(ten, tmp_path / str(workers), workers=workers, shard_videos=6)
    assert contents(tmp_path / "1") == contents(tmp_path / "3")


def test_small_videos_are_not_enlarged(tmp_path):
    write_video(tmp_path / "in/a.mp4", height=48, width=62)
    run(tmp_path / "in", tmp_path / "out")
    shards = Shards(tmp_path / "out")
    assert (shards.height[0], shards.width[0]) == (48, 62)


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    """One healthy video among bad ones; the reason that each must be given."""
    folder = tmp_path_factory.mktemp("bad")
    whole = write_video(folder / "whole.mp4", frames=60)
    matroska = write_video(folder / "whole.mkv", frames=60)
    # B-frames hide how many frames a packet is worth, so that the cut files whose count is checked have none.
    plain = write_video(tmp_path_factory.mktemp("plain") / "plain.mp4", frames=60, bf="0")
    for packets in (10, 59):
        cut_after_packet(plain, folder / f"cut{packets}.mp4", packets)
    for percent in (2, 50, 90):
        cut(whole, folder / f"share{percent}.mp4", percent / 100)
    cut(matroska, folder / "share50.mkv", 0.5)
    shutil.copy(folder / "share50.mp4", folder / "again.mp4")
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("this is no video\n" * 100)
    write_sound(folder / "sound.mp4")
    write_video(folder / "two.mp4", frames=2)
    (folder / "folder.txt").write_text("\n".join([*sorted(p.name for p in folder.glob("*.m*")), "missing.mp4"]))
    reasons = {
        "cut10.mp4": "truncated or damaged: 10 of 60 frames",
        "share2.mp4": "cut before its header",
        "share50.mp4": r"truncated or damaged: \d+ of 60 frames",
        "again.mp4": r"truncated or damaged: \d+ of 60 frames",
        "share90.mp4": r"truncated or damaged: \d+ of 60 frames",
        "share50.mkv": r"truncated or damaged: \d+ of (59|60|61) frames",
        "empty.mp4": "empty",
        "text.mp4": "not a video file",
        "sound.mp4": "no video stream",
        "two.mp4": "too short: 2 frames, at least 3",
        "missing.mp4": "no such file",
    }
    return folder / "folder.txt", reasons


def test_bad_files_are_named_with_their_reasons(bad, tmp_path, caplog):
    listing, reasons = bad
    report = run(listing, tmp_path)
    assert report.failed.keys() == reasons.keys()
    for name, reason in reasons.items():
        assert re.search(reason, report.failed[name]), (name, report.failed[name])
        assert "\n" not in report.failed[name]
        assert len([record for record in caplog.records if record.getMessage().startswith(name)]) == 1
    assert report.failed["again.mp4"] == report.failed["share50.mp4"]
    assert failed_csv(tmp_path) == report.failed
    shards = Shards(tmp_path)
    assert dict(zip(shards.names, shards.num_frames.tolist(), strict=True)) == {
        "cut59.mp4": 59,
        "whole.mkv": 60,
        "whole.mp4": 60,
    }


def test_frames_before_the_damage_are_those_of_the_whole_file(bad, tmp_path):
    folder = bad[0].parent
    result = transcode(folder / "cut59.mp4", 64, 90)
    whole = write_video(tmp_path / "plain.mp4", frames=60, bf="0")
    assert result.stream == transcode(whole, 64, 90).stream[: len(result.stream)]


TREACHEROUS = '''
"""Stands in for decord in the worker processes: fails on some files, and hands the others over to the real one."""
import os, signal, sys, time
sys.path = [folder for folder in sys.path if folder != os.path.dirname(os.path.dirname(__file__))]
del sys.modules["decord"]
import decord

class Treacherous(decord.VideoReader):
    def __init__(self, path, **options):
        name = os.path.basename(path)
        with open(os.path.join(os.path.dirname(__file__), "opened"), "a") as log:
            print(name, file=log)
        if "hang" in name:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # as deaf as a loop in C
            while True:
                time.sleep(1)
        if "crash" in name:
            os.kill(os.getpid(), signal.SIGSEGV)
        if "exit" in name:
            os._exit(7)
        super().__init__(path, **options)

decord.VideoReader = Treacherous
'''


def test_hanging_and_crashing_decoders_do_not_stop_the_run(copy_of_ten, tmp_path, monkeypatch):
    monkeypatch.setattr(CONSTS, "term_timeout", 0.5)
    (tmp_path / "fake/decord").mkdir(parents=True)
    (tmp_path / "fake/decord/__init__.py").write_text(TREACHEROUS)
    monkeypatch.syspath_prepend(tmp_path / "fake")
    for name in ("a/0 hang.mp4", "a/4 crash.mp4", "b/exit.mp4"):
        shutil.copy(copy_of_ten / "a/0.mp4", copy_of_ten / name)
    report = run(copy_of_ten, tmp_path / "out", timeout=4)  # more than a busy machine takes to start a decoder
    assert report.prepared == 10
    assert report.failed.keys() == {"a/0 hang.mp4", "a/4 crash.mp4", "b/exit.mp4"}
    assert "no result after 4 seconds" in report.failed["a/0 hang.mp4"]
    assert "crashed (SIGSEGV)" in report.failed["a/4 crash.mp4"]
    assert "crashed (exit status 7)" in report.failed["b/exit.mp4"]
    assert Shards(tmp_path / "out").names == [v.name for v in list_videos(copy_of_ten) if v.name not in report.failed]


# Only where all others are to be done meanwhile does it take time.
@pytest.mark.parametrize(("held_bytes", "timeout", "patience"), [(2**30, 4, 3), (1, 4, 0.5)])
def test_the_others_go_on_while_one_decoder_hangs(tmp_path, monkeypatch, held_bytes, timeout, patience):
    monkeypatch.setattr(CONSTS, "term_timeout", patience)
    (tmp_path / "fake/decord").mkdir(parents=True)
    (tmp_path / "fake/decord/__init__.py").write_text(TREACHEROUS)
    monkeypatch.syspath_prepend(tmp_path / "fake")
    monkeypatch.setattr(worker_pool, "HELD_BYTES", held_bytes)
    first = write_video(tmp_path / "in/00 hang.mp4", frames=5)
    for i in range(1, 30):
        shutil.copy(first, tmp_path / f"in/{i:02d}.mp4")
    results = worker_pool.transcode_all(list_videos(tmp_path / "in"), worker_pool.Job(64, 90, "decord", timeout, 2))
    assert "no result" in next(results)
    opened = len((tmp_path / "fake/decord/opened").read_text().splitlines())
    assert opened == 30 if held_bytes > 1 else opened <= 2 * worker_pool.IN_FLIGHT + 1
    assert [len(result.frame_bytes) for result in results] == [5] * 29


def test_a_second_run_does_only_what_is_missing(copy_of_ten, tmp_path):
    out = tmp_path / "out"
    run(copy_of_ten, out, shard_videos=4)
    first = contents(out)
    again = run(copy_of_ten, out, shard_videos=4)
    assert (again.prepared, again.skipped, contents(out)) == (0, 10, first)

    write_video(copy_of_ten / "c/new.mp4", frames=9, seed=90)
    write_video(copy_of_ten / "a/4.mp4", frames=21, seed=91)  # changed
    (copy_of_ten / "b/7.mp4").unlink()  # no longer listed
    third = run(copy_of_ten, out, shard_videos=4)
    assert (third.prepared, third.skipped, third.failed) == (2, 8, {})
    assert contents(out).items() >= first.items()
    shards = Shards(out)
    assert shards.names == [video.name for video in list_videos(copy_of_ten)]
    assert shards.num_frames[shards.names.index("a/4.mp4")] == 21
    assert shards.classes("label") == ["a", "b", "c"]
    assert all(len(shards.read(row, range(count))) == count for row, count in enumerate(shards.num_frames))


def test_labels_and_splits_are_taken_afresh(ten, tmp_path):
    run(ten, tmp_path)
    videos = [Video(v.name, v.path, "val", {"colour": "red"}) for v in list_videos(ten)]
    report = prepare(videos, tmp_path, PrepareConfig(short_side=64), progress=False)
    assert (report.prepared, report.skipped) == (0, 10)
    shards = Shards(tmp_path)
    assert (shards.label_columns, set(shards.splits)) == (["colour"], {"val"})


def test_a_failed_file_is_tried_again_only_if_it_changed(copy_of_ten, tmp_path, caplog):
    (copy_of_ten / "a/x.mp4").write_text("this is no video")
    for _ in range(2):
        assert run(copy_of_ten, tmp_path / "out").failed.keys() == {"a/x.mp4"}
    assert len(caplog.records) == 1
    write_video(copy_of_ten / "a/x.mp4", frames=5)
    report = run(copy_of_ten, tmp_path / "out")
    assert (report.prepared, report.failed, failed_csv(tmp_path / "out")) == (1, {}, {})


def children(process):
    found = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [int(child) for child in found] + [grandchild for child in found for grandchild in children(child)]


def alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_a_killed_run_leaves_nothing_half_written_and_is_taken_up(tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    write_video(source / "00.mp4", frames=40, height=240, width=320)
    for i in range(1, 40):
        shutil.copy(source / "00.mp4", source / f"{i:02d}.mp4")
    # From the server of forks: it shares no more with this process than one of its own, and has its imports.
    process = multiprocessing.get_context("forkserver").Process(
        target=run, args=(source, out), kwargs={"shard_videos": 4}
    )
    process.start()
    wait_until(lambda: (out / "shard-000001.parquet").exists() or not process.is_alive(), 60)
    helpers = children(process.pid)
    assert helpers, "none that could outlive the run"
    process.kill()
    process.join()
    assert not (out / "index.parquet").exists(), "the run was over before it could be killed"
    wait_until(lambda: not any(alive(helper) for helper in helpers), 20)

    finished = [path for path in out.glob("shard-*.parquet")]
    before = {path.name: path.read_bytes() for path in finished}
    report = run(source, out, shard_videos=4)
    assert report.skipped == 4 * len(finished) >= 8
    assert report.prepared == 40 - report.skipped
    assert contents(out).items() >= before.items()
    assert not list(out.glob("*.partial"))
    shards = Shards(out)
    assert shards.names == [f"{i:02d}.mp4" for i in range(40)]
    first = shards.read(0, range(40))
    assert all(torch.equal(shards.read(row, range(40)), first) for row in range(40))


def test_a_tar_without_its_table_is_done_again(ten, tmp_path):
    """The state of a run that was killed between the two files."""
    run(ten, tmp_path, shard_videos=4)
    (tmp_path / "shard-000002.parquet").unlink()
    (tmp_path / "shard-000003.tar.partial").write_bytes(b"half")
    report = run(ten, tmp_path, shard_videos=4)
    assert (report.prepared, report.skipped) == (2, 8)
    assert sorted(path.name for path in tmp_path.glob("shard-*.tar*")) == [f"shard-{i:06d}.tar" for i in range(3)]


def test_other_settings_are_refused(ten, tmp_path):
    run(ten, tmp_path)
    before = contents(tmp_path)
    with pytest.raises(VieError, match=r"short_side=64.*short_side=48.*choose another folder"):
        run(ten, tmp_path, short_side=48)
    assert contents(tmp_path) == before


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_stops_the_run_cleanly(ten, tmp_path, table):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, limits[1]))
    try:
        with pytest.raises(VieError, match="the disk is full") as caught:
            run(ten, tmp_path, shard_videos=1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    gc.collect()  # what is left of the tar would complain here
    assert str(tmp_path) in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "dataset.json"]
    assert run(ten, tmp_path).prepared == 10
    words = str(caught.value).replace(str(tmp_path), "…")
    table("jobs", fault="disk full while videos are prepared", outcome=f"ended: {words}; begun again, all are there")


@pytest.mark.parametrize("marker", [None, "{}", '{"settings": {"format": "png"}}', "[1]", "no JSON"])
def test_a_folder_with_other_files_is_left_alone(ten, tmp_path, marker):
    for name in ("shard-000000.tar", "x.partial", "thesis.txt"):
        (tmp_path / name).write_text("mine")
    if marker is not None:
        (tmp_path / "dataset.json").write_text(marker)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(VieError, match="choose another folder") as caught:
        run(ten, tmp_path)
    assert "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_other_files_within_a_corpus_are_kept(ten, tmp_path):
    run(ten, tmp_path, shard_videos=4)
    ours = ["shard-000007.tar", "shard-000003.tar.partial", "shard-000002.parquet.partial", "index.parquet.partial"]
    others = ["x.partial", "shard-extra.tar", "shard-1.tar", "notes.txt"]
    for name in ours + others:
        (tmp_path / name).write_text("half")
    with pytest.raises(VieError, match="choose another folder"):
        run(ten, tmp_path, short_side=48)
    assert all((tmp_path / name).exists() for name in ours)
    assert run(ten, tmp_path, shard_videos=4).skipped == 10
    assert not any((tmp_path / name).exists() for name in ours)
    assert all((tmp_path / name).exists() for name in others)


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan"), float("inf")])
def test_an_impossible_frame_rate_is_guessed_anew(tmp_path, monkeypatch, fps):
    path = write_video(tmp_path / "a.mp4", fps=30)

    def misled(*arguments):
        source = open_video(*arguments)
        source.fps = fps
        return source

    monkeypatch.setattr("pretrain.preparation.transcode.open_video", misled)
    assert transcode(path, 64, 90).fps == 30
    monkeypatch.setattr("pretrain.preparation.transcode._is_rate", lambda rate: False)
    with pytest.raises(VieError, match="tells no frame rate"):
        transcode(path, 64, 90)


def test_two_runs_do_not_share_a_folder(ten, tmp_path):
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(VieError, match="another run"):
            run(ten, tmp_path)


def test_nothing_to_prepare_is_an_error(tmp_path):
    (tmp_path / "in").mkdir()
    for i in range(3):
        (tmp_path / f"in/{i}.mp4").touch()
    with pytest.raises(VieError, match=r"none of the 3 videos.*empty.*failed\.csv"):
        run(tmp_path / "in", tmp_path / "out")
    assert len(failed_csv(tmp_path / "out")) == 3
    with pytest.raises(VieError, match="list is empty"):
        prepare([], tmp_path / "out")


def test_a_script_without_a_main_guard_is_told_so(ten, tmp_path):
    code = f"""
from pretrain.preparation import worker_pool
from pretrain.preparation.inputs import list_videos
from pretrain.preparation.prepare import PrepareConfig, prepare
worker_pool.STARTS = 2
prepare(list_videos({str(ten)!r}), {str(tmp_path / "out")!r}, PrepareConfig(workers=1), progress=False)
"""
    (tmp_path / "script.py").write_text(code)
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run(
        [sys.executable, tmp_path / "script.py"], env=environment, capture_output=True, text=True, timeout=180
    )
    assert result.returncode == 1
    assert "VieError: worker processes cannot start" in result.stderr


def test_a_pool_that_breaks_while_it_is_handed_work_is_noticed(ten, monkeypatch):
    """Pebble forgets a task that it is given between its look at the pool and the pool's end."""
    look = worker_pool.ProcessPool._check_pool_status

    def look_and_wait(pool):
        look(pool)
        while pool.active:
            time.sleep(0.01)

    monkeypatch.setattr(worker_pool.ProcessPool, "_check_pool_status", look_and_wait)
    monkeypatch.setattr(worker_pool, "start_worker", sys.exit)
    monkeypatch.setattr(worker_pool, "STARTS", 1)
    with pytest.raises(VieError, match="worker processes cannot start"):
        list(worker_pool.transcode_all(list_videos(ten), worker_pool.Job(64, 90, "decord", 60, 2)))


@pytest.mark.skipif(
    not METAWORLD.is_dir(), reason=f"{METAWORLD} is absent: the real videos are not part of the project"
)
def test_real_videos(tmp_path):
    videos = list_videos(METAWORLD / "labels.csv")
    assert len(videos) == 750
    report = prepare(videos[::50], tmp_path, PrepareConfig(workers=2), progress=False)
    assert (report.prepared, report.failed) == (15, {})
    shards = Shards(tmp_path)
    assert shards.label_columns == ["task", "policy", "success"]
    source = open_video(videos[0].path)
    frames = source.get_batch(range(len(source)))
    assert psnr(shards.read(0, range(len(source))), frames) > 38
