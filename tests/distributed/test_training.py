"""Whole runs, also under torchrun: what one rank learns, several learn, whatever stops them on the way."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.checkpoint import FOLDER_NAME
from pretrain.failures import FAILURES_NAME, read_failures
from pretrain.settings import parse_config
from pretrain.train import STOPPED_NAME, Trainer
from tests.conftest import tiny_run
from tests.distributed.processes import command_on_ranks, free_port
from tests.pretrain.test_clips import damaged
from vie import MemoryBank, load
from vie.history import HISTORY_NAME, read_history

ROOT = Path(__file__).parents[2]
RUNNER = Path(__file__).with_name("runner.py")
STEPS = 12
ROUNDING = 1e-5
"""Of float32 weights after these steps; without it, test_ranks compares one step's loss, gradient, bank and labels."""


def start(
    size: int, corpus: Path, run: Path, *settings: str, options: Sequence[str] = (), **environment: str
) -> "subprocess.Popen[str]":
    """Begins one process, or a torchrun with its options and so many ranks of its own."""
    ranks = ["-m", "torch.distributed.run", *(options or ["--standalone"]), f"--nproc-per-node={size}"]
    command = [sys.executable, *(ranks if size > 1 or options else [])]
    command += [str(RUNNER), "train", *tiny_run(corpus, run, *settings)]
    given = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(command, env=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def start_nodes(corpus: Path, run: Path, *settings: str, **environment: str) -> "list[subprocess.Popen[str]]":
    """Begins a torchrun for each of two nodes of one rank, as ``docs/slurm.sh`` does."""
    options = ["--nnodes=2", "--rdzv-id=1", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_port()}"]
    return [start(1, corpus, run, *settings, options=options, **environment) for _ in range(2)]


def wait_until(true: Callable[[], bool], *processes: "subprocess.Popen[str]") -> None:
    """Waits for what running processes do."""
    deadline = time.time() + 120
    while not true():
        assert time.time() < deadline
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)


def steps_taken(run: Path, before: int | None = None) -> int:
    """-1 while the record is one that was there before: who goes on begins anew, without the steps taken in vain."""
    if inode(run / HISTORY_NAME) in (None, before):
        return -1
    return max((row["step"] for row in read_history(run)), default=0)


def inode(path: Path) -> int | None:
    return path.stat().st_ino if path.exists() else None


def kill(run: Path) -> None:
    """Ends all processes of a run, also those whose torchrun has ended."""
    subprocess.run(["pkill", "-KILL", "-f", f"run={run}( |$)"], check=False)


def torchrun(size: int, corpus: Path, run: Path, *settings: str, fails: bool = False, **given: Any) -> str:
    """Carries a run out and returns what it wrote to stderr."""
    process = start(size, corpus, run, *settings, **given)
    _, written = process.communicate(timeout=300)
    assert (process.returncode != 0) == fails, written
    return written


def train(size: int, corpus: Path, run: Path, *settings: str, fails: bool = False, **environment: str) -> str:
    """As ``torchrun``, without it and without its imports."""
    log = run.with_suffix(".log")
    log.unlink(missing_ok=True)
    status, written = command_on_ranks(size, ["train", *tiny_run(corpus, run, *settings)], log, environment)
    assert (status != 0) == fails, written
    return written


def kept(run: Path, steps: int = STEPS) -> dict[str, torch.Tensor]:
    """Every tensor of the newest checkpoint, as one rank reads it."""
    job = Trainer(parse_config([run / "config.yaml"]))
    assert job.step == steps
    return {name: tensor for name, tensor in job._state().items() if isinstance(tensor, torch.Tensor)}


def assert_same(run: Path, other: Path, atol: float = 0, steps: int = STEPS) -> str:
    """Returns the greatest difference of any number."""
    one, two = kept(run, steps), kept(other, steps)
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=atol, rtol=0, msg=lambda text, n=name: f"{n}: {text}")
    return f"{max((two[name].double() - tensor.double()).abs().max().item() for name, tensor in one.items()):.1e}"


@pytest.fixture(scope="module")
def still(tiny_corpus, tmp_path_factory) -> Path:
    """One rank, without the statistics of batch norm."""
    run = tmp_path_factory.mktemp("still") / "run"
    train(1, tiny_corpus, run, STILL="1")
    return run


@pytest.fixture(scope="module")
def two(tiny_corpus, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("two") / "run"
    train(2, tiny_corpus, run)
    return run


@pytest.mark.parametrize(("size", "layout"), [(2, "replicated"), pytest.param(4, "sharded", marks=pytest.mark.long)])
def test_several_ranks_are_one(still, tiny_corpus, tmp_path, size, layout, table):
    run = tmp_path / "run"
    torchrun(size, tiny_corpus, run, f"bank.layout={layout}", STILL="1")
    difference = assert_same(still, run, atol=ROUNDING)
    table("ranks", ranks=size, case=f"torchrun, {layout}", checkpoint=difference)
    for one, other in zip(read_history(still), read_history(run), strict=True):
        assert one["step"] == other["step"]
        assert other.get("loss", 0) == pytest.approx(one.get("loss", 0), abs=ROUNDING)
        for test in ("evaluation", "monitor"):
            mine, theirs = one.get(test) or [], other.get(test) or []
            assert len(mine) == len(theirs)
            for ours, its in zip(mine, theirs, strict=True):
                # Rounding may tip one of the videos between two neighbours that are nearly as close.
                assert its == ours | {"top1": pytest.approx(ours["top1"], abs=100 / ours["videos"])}
    assert load(run / "encoder-la").card["training"]["steps"] == STEPS


@pytest.mark.parametrize("size", [1, pytest.param(4, marks=pytest.mark.long)])
def test_a_killed_rank_ends_the_job_and_other_numbers_of_ranks_go_on(still, tiny_corpus, tmp_path, size, table):
    run = tmp_path / "run"
    written = torchrun(2, tiny_corpus, run, STILL="1", KILL="7:1:SIGKILL", fails=True)
    assert "SIGKILL" in written
    train(size, tiny_corpus, run, STILL="1")
    difference = assert_same(still, run, atol=ROUNDING)
    table("ranks", ranks=size, case="continued from 2 ranks, one of them killed", checkpoint=difference)
    table(
        "jobs",
        fault="one rank of two killed",
        outcome=f"ended, SIGKILL named; {size} went on, differing by {difference}",
    )


@pytest.mark.long
def test_two_nodes_are_one(still, tiny_corpus, tmp_path, table):
    run = tmp_path / "run"
    for node in start_nodes(tiny_corpus, run, STILL="1"):
        _, written = node.communicate(timeout=300)
        assert node.returncode == 0, written
    table("ranks", ranks=2, case="torchrun, two nodes", checkpoint=assert_same(still, run, atol=ROUNDING))


@pytest.mark.long
def test_a_killed_rank_ends_the_other_node(still, tiny_corpus, tmp_path, table):
    run = tmp_path / "run"
    nodes = start_nodes(tiny_corpus, run, STILL="1", KILL="7:1:SIGKILL")
    try:
        wait_until(lambda: any(node.poll() is not None for node in nodes))
        written = [node.communicate(timeout=60)[1] for node in nodes]
    finally:
        kill(run)
    assert all(node.returncode for node in nodes)
    other, killed = sorted(written, key=lambda text: "SIGKILL" in text)
    assert "SIGKILL" in killed
    assert "SIGKILL" not in other
    assert re.search("Connection (closed|reset) by peer", other), other
    train(2, tiny_corpus, run, STILL="1")
    difference = assert_same(still, run, atol=ROUNDING)
    table(
        "jobs",
        fault="one node of two killed",
        outcome="both ended within a minute, SIGKILL named by one and its closed connection by the other; 2 went on, "
        f"differing by {difference}",
    )


def test_two_ranks_go_on_exactly(two, tiny_corpus, tmp_path):
    run = tmp_path / "run"
    train(2, tiny_corpus, run, KILL="8:0:SIGKILL", fails=True)
    train(2, tiny_corpus, run)
    assert_same(two, run)


@pytest.mark.parametrize(
    ("launch", "size", "name"),
    [
        (train, 1, "SIGUSR1"),
        (train, 2, "SIGTERM"),
        pytest.param(torchrun, 1, "SIGTERM", marks=pytest.mark.long),
        pytest.param(torchrun, 2, "SIGUSR1", marks=pytest.mark.long),
    ],
)
def test_asked_to_stop_it_keeps_the_step(two, tiny_corpus, tmp_path, launch, size, name):
    run = tmp_path / "run"
    # One rank that is asked in step 2 stops the others too, when they next agree.
    written = launch(size, tiny_corpus, run, "monitor.checkpoint_every=0", KILL=f"2:0:{name}", SLOW="0.5", fails=True)
    (step,) = re.findall(rf"stopped at step (\d+) by {name}", written)[:1]
    assert 3 <= int(step) <= (3 if size == 1 else 6)
    assert sorted(path.name for path in (run / FOLDER_NAME).iterdir())[-1] == f"step-{int(step):09d}"
    assert (run / STOPPED_NAME).exists()
    train(size, tiny_corpus, run)
    assert not (run / STOPPED_NAME).exists()
    if size == 2:
        assert_same(two, run)


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "options"), [("SIGTERM", []), ("SIGUSR1", ["--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"])]
)
def test_torchrun_hands_on_what_asks_to_stop(two, tiny_corpus, tmp_path, name, options, table):
    """To its ranks and to the workers that read for them: one that this ends is started again for the step."""
    run, settings = tmp_path / "run", ["monitor.checkpoint_every=0", "data.workers=1"]
    launched = start(2, tiny_corpus, run, *settings, options=["--standalone", *options], SLOW="0.5")
    try:
        wait_until(lambda: steps_taken(run) >= 2, launched)
        launched.send_signal(signal.Signals[name])
        _, written = launched.communicate(timeout=60)
    finally:
        kill(run)
    assert launched.returncode
    (step,) = {int(step) for step in re.findall(rf"stopped at step (\d+) by {name}", written)}
    assert 2 < step < STEPS
    assert sorted(path.name for path in (run / FOLDER_NAME).iterdir())[-1] == f"step-{step:09d}"
    assert (run / STOPPED_NAME).exists()
    torchrun(2, tiny_corpus, run, *settings, options=["--standalone", *options])
    assert not (run / STOPPED_NAME).exists()
    difference = assert_same(two, run)
    table("jobs", fault=f"{name} to the torchrun of two", outcome=f"step kept; 2 went on, differing by {difference}")


@pytest.mark.long
def test_asked_to_stop_no_node_ends_before_all_is_kept(two, tiny_corpus, tmp_path, table):
    """As ``srun --kill-on-bad-exit`` kills the others then."""
    run = tmp_path / "run"
    nodes = start_nodes(tiny_corpus, run, "monitor.checkpoint_every=0", SLOW="0.5", LATE="5")
    try:
        wait_until(lambda: steps_taken(run) >= 2, *nodes)
        for node in nodes:
            node.send_signal(signal.SIGTERM)
        wait_until(lambda: any(node.poll() is not None for node in nodes))
    finally:
        kill(run)
    written = "".join(node.communicate()[1] for node in nodes)
    (step,) = {int(step) for step in re.findall(r"stopped at step (\d+) by SIGTERM", written)}
    assert sorted(path.name for path in (run / FOLDER_NAME).iterdir())[-1] == f"step-{step:09d}"
    assert (run / STOPPED_NAME).exists()
    train(2, tiny_corpus, run)
    difference = assert_same(two, run)
    table(
        "jobs",
        fault="SIGTERM to two nodes, SIGKILL to both when one has ended",
        outcome=f"step kept; 2 went on, differing by {difference}",
    )


def test_what_a_rank_cannot_read_is_named_and_has_no_part(tiny_corpus, tmp_path):
    """Two ranks with their clips missing are one rank that misses them all."""
    corpus = damaged(tiny_corpus, tmp_path / "corpus", 5, 30)
    runs = [tmp_path / str(size) for size in (1, 2)]
    for size, run in zip((1, 2), runs, strict=True):
        train(size, corpus, run, STILL="1")
    assert_same(*runs, atol=ROUNDING)
    one, two = (read_failures(run) for run in runs)
    assert one
    assert sorted(one) == sorted(two)
    assert (runs[1] / FAILURES_NAME).exists()
    assert (runs[1] / "failed_clips.rank-1.csv").exists()
    first, last = MemoryBank(48, 16, seed=0).embeddings, kept(runs[1])["method.bank"]
    assert {int(row[1]) for row in one} == set(torch.nonzero((first == last).all(dim=1))[:, 0].tolist()) == {5, 30}
    # Continued, the files of the ranks are one.
    Trainer(parse_config([runs[1] / "config.yaml"])).train()
    assert [path.name for path in runs[1].glob("failed_clips*")] == [FAILURES_NAME]
    assert read_failures(runs[1]) == two


@pytest.mark.long
@pytest.mark.parametrize("size", [1, 2])
def test_killed_at_any_step_it_goes_on_exactly(tiny_corpus, tmp_path, size, table):
    """After 20 steps drawn at random, in the middle of the next or before it, and killed again when it goes on."""
    settings = ["local_aggregation.steps=20", "monitor.checkpoint_every=3", "monitor.knn_every=0", "monitor.labels=[]"]
    whole, run, chance = tmp_path / "whole", tmp_path / "run", random.Random(size)
    train(size, tiny_corpus, whole, *settings)
    for drawn in apart(chance):
        shutil.rmtree(run, ignore_errors=True)
        killed_after: list[int] = []
        for wanted in drawn:
            kept = max((int(path.name[5:]) for path in (run / FOLDER_NAME).glob("step-?????????")), default=0)
            before = inode(run / HISTORY_NAME)
            least = max(wanted, kept + 1) if wanted else -1
            process = start(size, tiny_corpus, run, *settings, SLOW="0.1")
            wait_until(lambda before=before, least=least: steps_taken(run, before) >= least, process)
            time.sleep(chance.random() / 8)
            assert process.poll() is None
            kill(run)
            process.communicate()
            killed_after.append(max(0, steps_taken(run)))
            assert steps_taken(run, before) >= least
        train(size, tiny_corpus, run, *settings)
        difference = assert_same(whole, run, steps=24)
        steps = ", ".join(map(str, killed_after))
        table("kills", ranks=size, **{"killed after steps": steps, "of": 24, "greatest difference": difference})


def apart(chance: random.Random) -> list[list[int]]:
    """Twenty different steps for five runs, those of one so far apart that each is killed after another one."""
    while True:
        drawn = chance.sample(range(23), 20)
        runs = [sorted(drawn[first : first + 4]) for first in range(0, 20, 4)]
        if all(later - step >= 3 for steps in runs for step, later in pairwise(steps)):
            return runs


@pytest.mark.parametrize(
    "method",
    ["vie", *(pytest.param(name, marks=pytest.mark.long) for name in ("simclr", "opn", "rotnet", "supervised"))],
)
def test_a_rank_that_can_read_nothing_takes_part(tiny_corpus, tmp_path, method):
    """Two ranks of two clips, of a corpus of which two thirds cannot be read."""
    corpus = damaged(tiny_corpus, tmp_path / "corpus", *range(0, 48, 3), *range(1, 48, 3))
    settings = [f"method={method}", "baseline.label=shape", "monitor.labels=[]"]
    settings += ["data.size=40", "data.batch_size=4", "baseline.steps=12"]
    train(2, corpus, tmp_path / "run", *settings)
    failures = read_failures(tmp_path / "run")
    assert len({row[1] for row in failures}) == 32
    by_step = Counter(row[0] for row in failures)
    assert max(by_step.values()) >= 3


def test_a_batch_that_cannot_be_divided_is_refused(tiny_corpus, tmp_path):
    written = train(2, tiny_corpus, tmp_path / "run", "data.batch_size=7", fails=True)
    assert "data.batch_size=7 cannot be divided between 2 ranks: change either" in written
