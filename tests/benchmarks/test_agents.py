"""Small jobs from start to end, on Pendulum by its numbers."""

import copy
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.cli import main
from benchmarks.cli import run as bench
from rl_encoders.cli import run as vie_rl
from tests.benchmarks.processes import stand_in
from vie import VieError
from vie.history import read_history

pytest.importorskip("pygame")
pytest.importorskip("minari")

ROOT = Path(__file__).parents[2]
JOB: dict[str, Any] = {
    "settings": [
        *("device=cpu", "data.batch=8", "offline_updates=4", "online_steps=12", "evaluation_episodes=1"),
        *("agent.sac.policy_hidden=[8]", "agent.sac.critic_hidden=[8]", "checkpoint_every=1"),
        *("agent.calql.policy_hidden=[8]", "agent.calql.critic_hidden=[8]"),
    ],
    "tasks": {
        "pole": {
            "environment": "gym:Pendulum-v1",
            "size": 16,
            "max_steps": 6,
            "state": ["state"],
            "collect": {"episodes": 2},
            "score": "return",
            "returns": [-100, 0],
        },
    },
    "encoders": {"numbers": {}},
    "methods": {
        "sac": {"recipes": ["sac"], "offline": False, "settings": ["offline_updates=0"]},
        "calql": {"recipes": ["calql"]},
    },
    "comparisons": {"methods": {"methods": ["calql", "sac"], "encoders": ["numbers"]}},
}


class Commands:
    """Carries ``python -m rl_encoders …`` out here, but for those that are to fail, and keeps what was asked for."""

    def __init__(self) -> None:
        self.given: list[str] = []
        self.failing = ""

    def __call__(self, command: list[str], stdout: Any, **_: object) -> subprocess.CompletedProcess[bytes]:
        name = "/".join(Path(stdout.name).parts[-5:-1])
        self.given.append(f"{command[3]} {name}")
        try:
            if self.failing and self.failing in name:
                raise VieError("out of luck")
            vie_rl(command[3:])
        except VieError as error:
            stdout.write(str(error).encode())
            return subprocess.CompletedProcess(command, 1)
        return subprocess.CompletedProcess(command, 0)


@pytest.fixture
def commands(monkeypatch) -> Commands:
    commands = Commands()
    stand_in(monkeypatch, commands)
    return commands


def arguments(folder: Path, content: dict[str, Any], *more: str) -> list[str]:
    (folder / "job.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return ["agents", str(folder / "job.yaml"), "--run", str(folder / "out"), *more]


def test_what_fails_is_named_and_done_again_and_the_rest_is_kept(tmp_path, commands, capsys):
    content = copy.deepcopy(JOB)
    content["tasks"]["gone"] = {**JOB["tasks"]["pole"], "environment": "gym:NoSuch-v0"}
    call = arguments(tmp_path, content, "--seeds", "1", "--first-seed", "3")
    commands.failing = "seed3/pole/calql"
    with pytest.raises(SystemExit, match="1"):
        main(call)
    told = capsys.readouterr()
    assert "vie-bench: data/gone: gym:NoSuch-v0 cannot be made" in told.err
    assert "seed3/gone/calql/numbers: data of gone, which it needs, has failed" in told.err
    assert "seed3/pole/calql/numbers: out of luck" in told.err
    assert "| sac |" in told.out
    assert "| calql |" not in told.out

    # In its second try the dataset is there already, and so is the other run.
    commands.failing = ""
    commands.given.clear()
    del content["tasks"]["gone"]
    bench(arguments(tmp_path, content, "--seeds", "1", "--first-seed", "3"))
    assert commands.given == ["train seed3/pole/calql/numbers"]
    assert "| calql |" in capsys.readouterr().out
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    calql, sac = summary["comparisons"]["methods"]
    assert set(calql["measures"]) == {"after offline", "final", "best", "regret", "dip"}
    assert set(sac["measures"]) == {"final", "best", "regret"}
    rows = [row for row in read_history(tmp_path / "out" / "seed3" / "pole" / "calql" / "numbers") if "return" in row]
    assert calql["measures"]["final"]["values"] == {"pole": {"3": pytest.approx(1 + rows[-1]["return"] / 100)}}
    result = json.loads((tmp_path / "out" / "results" / "seed3" / "pole" / "calql" / "numbers.json").read_text())
    assert result["protocol"]["data"]["episodes"] == 2
    assert result["protocol"]["data"]["policy"] == "random"

    # Longer runs go on, of those that are asked for; what is of other lengths is left out.
    commands.given.clear()
    content["settings"].append("online_steps=24")
    with pytest.raises(VieError, match=r"results of seed3/pole/calql/numbers are of online_steps=12, and the job asks"):
        bench(arguments(tmp_path, content, "--seeds", "1", "--first-seed", "3", "--only", "sac"))
    assert commands.given == ["train seed3/pole/sac/numbers"]
    assert len(list((tmp_path / "out" / "seed3" / "pole" / "sac" / "numbers" / "episodes").iterdir())) == 4
    assert "| sac |" in (tmp_path / "out" / "tables.md").read_text()
    assert "| calql |" not in (tmp_path / "out" / "tables.md").read_text()

    # Results of other machines count, and nothing is trained to tell of them.
    commands.given.clear()
    (tmp_path / "out" / "results" / "seed3").rename(tmp_path / "out" / "results" / "of-another-machine")
    with pytest.raises(VieError, match="left out"):
        bench(arguments(tmp_path, content, "--no-train"))
    assert commands.given == []
    assert "| sac |" in (tmp_path / "out" / "tables.md").read_text()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--given", "vie"], "--given vie has no path: write --given NAME=PATH"),
        (["--given", "vie=./gone"], r"--given vie=\./gone is not there: give the path of an encoder"),
        (["--given", "vie=X"], "job asks for no vie: it asks for nothing"),
        (["--seeds", "0"], "0 seeds are none: give at least 1"),
        (["--parallel", "0"], "0 runs at a time are none: give at least 1"),
        (["--only", "dqn"], "no run's name contains 'dqn': they are data/pole, seed0/pole/calql/numbers"),
        (["--frist"], "unknown arguments --frist"),
    ],
)
def test_slips_on_the_command_line_are_told_before_anything_begins(tmp_path, commands, more, told):
    with pytest.raises(VieError, match=told):
        bench(arguments(tmp_path, JOB, *more))
    assert commands.given == []


@pytest.mark.long
def test_real_processes_stop_when_asked_and_go_on(tmp_path):
    content = copy.deepcopy(JOB)
    content["settings"] += ["online_steps=300", "evaluate_every=150"]
    command = [sys.executable, "-m", "benchmarks", *arguments(tmp_path, content, "--seeds", "1", "--parallel", "2")]
    first = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    episodes = tmp_path / "out" / "seed0" / "pole" / "calql" / "numbers" / "episodes"
    while not any(episodes.glob("*")):
        assert first.poll() is None
        time.sleep(0.1)
    first.send_signal(signal.SIGTERM)
    _, told = first.communicate(timeout=120)
    assert first.returncode == 1
    assert "seed0/pole/calql/numbers: vie-rl: stopped at step" in told
    kept = len(list(episodes.iterdir()))
    assert 0 < kept < 50

    second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stderr
    assert len(list(episodes.iterdir())) == 50
    assert "| calql |" in second.stdout
    for method in ("calql", "sac"):
        result = json.loads((tmp_path / "out" / "results" / "seed0" / "pole" / method / "numbers.json").read_text())
        online = [row["environment_steps"] for row in result["evaluations"] if row["environment_steps"]]
        assert online == [150, 300]
    assert (tmp_path / "out" / "figures" / "curves-methods.svg").exists()
    assert second.stdout == (tmp_path / "out" / "tables.md").read_text()
