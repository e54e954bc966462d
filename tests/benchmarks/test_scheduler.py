"""Jobs that need one another, carried out by the real commands within this process: starting one takes seconds."""

import json
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import vie
from benchmarks.cli import run as bench
from benchmarks.jobs import read_jobs
from benchmarks.scheduler import Scheduler
from benchmarks.works import DONE
from pretrain.commands import run as pretrain
from tests.benchmarks.processes import stand_in
from tests.conftest import tiny_run
from vie import VieError

QUICK = [
    "runtime.device=cpu",
    "runtime.precision=fp32",
    "runtime.channels_last=false",
    "data.workers=0",
    "data.clips=1",
    "data.batch_size=8",
    "linear.steps=2",
    "linear.drops=[1]",
]
ROOMS = {"pretrain": pretrain, "benchmarks": bench}


class Commands:
    """Carries ``python -m ROOM …`` out here, and keeps what was asked for."""

    def __init__(self) -> None:
        self.given: list[str] = []

    def __call__(self, command: list[str], stdout: Any, **_: object) -> subprocess.CompletedProcess[bytes]:
        _, _, room, verb, *rest = command
        self.given.append(f"{verb} {Path(stdout.name).parent.name}")
        try:
            ROOMS[room]([verb, *rest])
        except VieError as error:
            stdout.write(str(error).encode())
            return subprocess.CompletedProcess(command, 1)
        return subprocess.CompletedProcess(command, 0)


@pytest.fixture
def commands(monkeypatch) -> Commands:
    commands = Commands()
    stand_in(monkeypatch, commands)
    return commands


@pytest.fixture
def entries(tiny_corpus, tmp_path) -> dict[str, Any]:
    """A static stream, two dynamic ones, of which one begins from it, a hybrid, and one that needs a broken one."""
    settings = [s for s in tiny_run(tiny_corpus, tmp_path) if not s.startswith(("run=", "data.path=", "seed="))]
    settings += ["instance_recognition.steps=1", "local_aggregation.steps=1", "monitor.clips=1"]
    slow, trn = (f"model.name=vie_{name}_r18" for name in ("slow", "trn"))
    corpus = {"corpus": tiny_corpus.name}
    return {
        "tiny-single": {**corpus, "settings": settings},
        "tiny-slow": {**corpus, "settings": [*settings, slow, "data.frames=4", "data.stride=2"]},
        "tiny-trn": {**corpus, "settings": [*settings, trn, "data.stride=2"], "start": "tiny-single"},
        "tiny-hybrid": {
            **corpus,
            "hybrid": ["tiny-single", "tiny-slow"],
            "transfer": [{"task": "small", "modes": ["knn", "linear"], "settings": QUICK}],
        },
        "tiny-broken": {"corpus": "absent", "settings": settings},
        "tiny-after": {**corpus, "settings": settings, "start": "tiny-broken"},
    }


def carry_out(entries: dict[str, Any], corpus: Path, folder: Path, parallel: int = 1) -> list[str]:
    (folder / "jobs.yaml").write_text(yaml.safe_dump(entries, sort_keys=False))
    return Scheduler(read_jobs(folder / "jobs.yaml"), corpus.parent, folder / "runs", parallel).run([0])


def test_what_is_done_stays_done_until_it_is_asked_for_otherwise(entries, tiny_corpus, tmp_path, commands):
    runs = tmp_path / "runs"
    errors = carry_out(entries, tiny_corpus, tmp_path)
    assert len(errors) == 2, errors
    broken, after = errors
    assert broken.startswith(f"{runs / 'seed0' / 'tiny-broken'}: ")
    assert "absent" in broken
    assert after == f"{runs / 'seed0' / 'tiny-after'}: tiny-broken, which it needs, has failed"
    assert sorted(commands.given) == [
        "join tiny-hybrid",
        *(f"train tiny-{name}" for name in ("broken", "single", "slow", "trn")),
        "transfer tiny-hybrid",
    ]
    assert_joined(runs / "seed0")
    begun = vie.load(runs / "seed0" / "tiny-trn" / "encoder-start").model
    assert_same_trunk(begun, runs / "seed0" / "tiny-single")
    assert {path.name for path in (runs / "transfer").iterdir()} == {
        f"small-hybrid-{mode}-seed0.json" for mode in ("knn", "linear")
    }

    del entries["tiny-broken"], entries["tiny-after"]
    commands.given.clear()
    assert carry_out(entries, tiny_corpus, tmp_path) == []
    assert commands.given == []
    # Runs may move; and nothing of the monitor changes an encoder.
    runs = runs.rename(tmp_path / "moved")
    entries["tiny-single"]["settings"].append("monitor.log_every=2")
    (tmp_path / "jobs.yaml").write_text(yaml.safe_dump(entries, sort_keys=False))
    assert Scheduler(read_jobs(tmp_path / "jobs.yaml"), tiny_corpus.parent, runs, 1).run([0]) == []
    assert commands.given == []
    runs = runs.rename(tmp_path / "runs")

    # One more task is measured, and nothing else is.
    entries["tiny-slow"]["transfer"] = [{"task": "small", "modes": ["knn"], "settings": QUICK}]
    assert carry_out(entries, tiny_corpus, tmp_path) == []
    assert commands.given == ["transfer tiny-slow"]

    # A longer training is the trainer's to continue, and what was made of it is made and measured anew; results of what
    # it was before are not overwritten, which is told.
    commands.given.clear()
    entries["tiny-slow"]["settings"].append("local_aggregation.steps=2")
    error, after = carry_out(entries, tiny_corpus, tmp_path)
    assert "small-slow-knn-seed0.json holds results of which encoder.training, encoder.weights differ: delete" in error
    assert "tiny-slow, which it needs, has failed" in after
    shutil.rmtree(runs / "transfer")
    assert carry_out(entries, tiny_corpus, tmp_path) == []
    assert commands.given == [
        *("train tiny-slow", "transfer tiny-slow", "transfer tiny-slow", "join tiny-hybrid", "transfer tiny-hybrid")
    ]
    metrics = json.loads((runs / "seed0" / "tiny-slow" / "metrics.json").read_text())
    assert metrics["stages"][-1]["steps"] == 3
    assert_joined(runs / "seed0")

    # Another training is the trainer's to refuse.
    commands.given.clear()
    entries["tiny-slow"]["settings"].append("optim.lr=0.5")
    errors = carry_out(entries, tiny_corpus, tmp_path)
    assert commands.given == ["train tiny-slow"]
    assert "holds a run with other settings (optim.lr=0.03)" in errors[0]
    assert "tiny-slow, which it needs, has failed" in errors[1]

    # A training that began from what is another encoder by now would pass for one of the new.
    del entries["tiny-slow"], entries["tiny-hybrid"]
    commands.given.clear()
    entries["tiny-single"]["settings"].append("local_aggregation.steps=2")
    (error,) = carry_out(entries, tiny_corpus, tmp_path)
    assert commands.given == ["train tiny-single"]
    assert error.endswith("tiny-single is not what it began from any more: delete the folder to train it again")


def test_a_changed_task_is_measured_again(tiny_corpus, tmp_path, monkeypatch):
    """The task's own file is changed, and the jobs are not."""
    task = tmp_path / "task.yaml"
    task.write_text("task: mine\nlinear: {steps: 3}")
    ready(tmp_path / "runs" / "seed0" / "tiny-single")
    given: list[list[str]] = []

    def fake(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        given.append(command)
        return subprocess.CompletedProcess(command, 0)

    stand_in(monkeypatch, fake)
    entry = {"corpus": "tiny", "transfer": [{"task": str(task), "modes": ["knn"], "splits": [None, "1", "2"]}]}
    for change, verbs in (("", ["train", *["transfer"] * 3]), ("", []), ("\nknn: {neighbours: 3}", ["transfer"] * 3)):
        task.write_text(task.read_text() + change)
        given.clear()
        assert carry_out({"tiny-single": entry}, tiny_corpus, tmp_path) == []
        assert [command[3] for command in given] == verbs
    assert [[one for one in command if "data.split" in one] for command in given] == [
        *([], ["data.split=1"], ["data.split=2"])
    ]
    assert all('modes=["knn"]' in command for command in given)


def test_a_job_waits_for_what_it_needs_and_no_other(tmp_path, monkeypatch):
    """With a place for each, the dynamic stream holds back until another job has come and gone."""
    other_is_done = threading.Event()
    ended: list[str] = []

    def fake(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        name = next(name for name in ("hybrid", "other", "slow", "single") if any(name in one for one in command))
        if name == "slow":
            assert other_is_done.wait(timeout=20)
        if name != "hybrid":
            ready(tmp_path / "runs" / "seed0" / f"a-{name}")
        ended.append(name)
        if name == "other":
            other_is_done.set()
        return subprocess.CompletedProcess(command, 0)

    stand_in(monkeypatch, fake)
    jobs = {f"a-{name}": {"corpus": "a"} for name in ("single", "slow")}
    jobs |= {"a-hybrid": {"corpus": "a", "hybrid": ["a-single", "a-slow"]}, "a-other": {"corpus": "a"}}
    assert carry_out(jobs, tmp_path / "a", tmp_path, parallel=4) == []
    assert ended.index("other") < ended.index("slow") < ended.index("hybrid")
    assert ended[-1] == "hybrid"


def test_whatever_befalls_one_job_is_told_and_the_others_go_on(tmp_path, monkeypatch):
    def fake(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        if any("a-bad" in one for one in command):
            raise PermissionError("no such right")
        ready(tmp_path / "runs" / "seed0" / "a-good")
        return subprocess.CompletedProcess(command, 0)

    stand_in(monkeypatch, fake)
    jobs = {"a-bad": {"corpus": "a"}, "a-damaged": {"corpus": "a"}, "a-good": {"corpus": "a"}}
    damaged = tmp_path / "runs" / "seed0" / "a-damaged"
    damaged.mkdir(parents=True)
    (damaged / DONE).write_text("{")
    bad, told = carry_out(jobs, tmp_path / "a", tmp_path)
    assert bad.endswith("a-bad: PermissionError('no such right')")
    assert "a-damaged: JSONDecodeError" in told
    assert (tmp_path / "runs" / "seed0" / "a-good" / DONE).exists()


def test_a_slip_in_the_last_job_is_told_before_the_first_begins(tmp_path, commands):
    good = {"corpus": "a"}
    for bad, told in (
        ({"corpus": "a", "recipes": ["digits_statc"]}, "did you mean 'digits_static'"),
        ({"corpus": "a", "settings": ["optim.learning=1"]}, "'optim.learning', which is no setting"),
        ({"corpus": "a", "transfer": [{"task": "small", "modes": ["guess"]}]}, "modes"),
    ):
        with pytest.raises(VieError, match="a-last: ") as error:
            carry_out({"a-first": good, "a-last": bad}, tmp_path / "a", tmp_path)
        assert told in str(error.value)
    with pytest.raises(VieError, match="give at least 1"):
        carry_out({"a-first": good}, tmp_path / "a", tmp_path, parallel=0)
    assert commands.given == []


def assert_joined(runs: Path) -> None:
    """The hybrid has the static and the dynamic stream's weights as they are now."""
    hybrid = vie.load(runs / "tiny-hybrid" / "encoder-joined").model
    assert_same_trunk(hybrid.static, runs / "tiny-single")
    assert_same_trunk(hybrid.dynamic, runs / "tiny-slow")


def assert_same_trunk(model: torch.nn.Module, run: Path) -> None:
    mine, theirs = model.state_dict(), vie.load(run / "encoder-la").model.state_dict()
    trunk = [name for name in theirs if not name.startswith("head.")]
    assert len(trunk) > 50
    assert all(torch.equal(mine[name], theirs[name]) for name in trunk)


def ready(run: Path) -> None:
    """What a training leaves for those that come after it."""
    run.mkdir(parents=True, exist_ok=True)
    (run / "metrics.json").write_text('{"stages": [{"stage": "la"}], "results": []}')
