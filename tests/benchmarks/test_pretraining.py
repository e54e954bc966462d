import json
import subprocess
import sys
from typing import Any

import pytest
import yaml

from benchmarks.pretraining import main
from benchmarks.works import visible_gpus
from pretrain.commands import run as pretrain
from tests.benchmarks.processes import stand_in
from tests.conftest import tiny_run
from vie import VieError


def carried_out_here(command: list[str], stdout: Any, **_: Any) -> "subprocess.CompletedProcess[bytes]":
    """As a process does, which takes longer to start than to train; test_cli has one of this very command fail."""
    assert command[:3] == [sys.executable, "-m", "pretrain"]
    try:
        pretrain(command[3:])
    except VieError as error:
        stdout.write(f"vie-pretrain: {error}\n".encode())
        return subprocess.CompletedProcess(command, 1)
    return subprocess.CompletedProcess(command, 0)


def test_jobs_become_one_table(tiny_corpus, tmp_path, monkeypatch, capsys):
    settings = [s for s in tiny_run(tiny_corpus, tmp_path) if not s.startswith(("run=", "data.path=", "seed="))]
    job = {"recipes": [], "corpus": tiny_corpus.name, "settings": settings, "joined": "both"}
    broken = {"recipes": [], "corpus": "absent"}
    (tmp_path / "jobs.yaml").write_text(yaml.safe_dump({"tiny-a": job, "tiny-b": job, "broken": broken}))
    stand_in(monkeypatch, carried_out_here)
    command = [str(tmp_path / "jobs.yaml"), "--data", str(tiny_corpus.parent), "--out", str(tmp_path / "runs")]
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--seeds", "1", "--first-seed", "3"])
    assert "absent" in str(stopped.value)
    rows = json.loads((tmp_path / "runs" / "results.json").read_text())["results"]
    one = json.loads((tmp_path / "runs" / "seed3" / "tiny-a" / "metrics.json").read_text())["results"][-1]
    mine = next(
        r for r in rows if r["stream"] == "tiny-a" and all(r[k] == one[k] for k in ("stage", "label", "readout"))
    )
    assert mine["mean"] == one["top1"]
    history = map(json.loads, (tmp_path / "runs" / "seed3" / "tiny-a" / "history.jsonl").read_text().splitlines())
    curve = [test["top1"] for row in history for test in row.get("monitor", []) if test["label"] == one["label"]]
    by_bank = {r["readout"]: r["mean"] for r in rows if r["stream"] == "tiny-a" and r["label"] == one["label"]}
    assert (by_bank["knn_bank"], by_bank["knn_bank best"]) == (curve[-1], max(curve))
    assert {row["stage"] for row in rows if row["stream"] == "tiny-a + tiny-b"} == {"joined", "random"}
    assert "tiny-a + tiny-b | joined" in capsys.readouterr().out
    assert (tmp_path / "runs" / "curves-tiny.svg").stat().st_size > 1000


@pytest.mark.parametrize(
    ("text", "more", "told"),
    [
        (None, (), "cannot be read as YAML"),
        ("", (), "holds no jobs"),
        ("a-b: {corpus: a, start: a-c}", (), "list what it needs before it"),
        ("a-b: {corpus: a}", ("--parallel", "0"), "give at least 1"),
    ],
)
def test_a_slip_is_told_in_one_line(tmp_path, text, more, told):
    path = tmp_path / "jobs.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SystemExit) as stopped:
        main([str(path), "--data", str(tmp_path), "--out", str(tmp_path / "runs"), *more])
    assert told in str(stopped.value)
    assert "\n" not in str(stopped.value)


def test_runs_stay_on_the_gpus_that_were_given(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert visible_gpus() == ["4", "6"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert visible_gpus() == ["0", "1"]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert visible_gpus() == [""]
