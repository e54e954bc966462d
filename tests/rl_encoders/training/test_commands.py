"""Whole runs in a real environment, from recipes and data on disk."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rl_encoders.cli import main
from rl_encoders.training.commands import evaluate, offline_retraining, train
from vie import VieError, create_model, save_pretrained
from vie.distributed import ALONE
from vie.files import locked
from vie.history import read_history

pytest.importorskip("pygame")

ROOT = Path(__file__).parents[3]
PENDULUM = [
    *("environment.name=gym:Pendulum-v1", "environment.max_steps=12", "environment.size=32", "device=cpu"),
    *("environment.state=[state]", "data.batch=16", "log_every=10", "evaluation_episodes=2", "evaluate_every=0"),
    *("agent.sac.policy_hidden=[16]", "agent.sac.critic_hidden=[16]"),
    *("agent.calql.policy_hidden=[16]", "agent.calql.critic_hidden=[16]"),
]
SEES = ["encoder.source=vie_single_r18", "encoder.size=32", "encoder.project=8"]


def test_from_scratch_and_on(tmp_path, capsys):
    run = tmp_path / "run"
    settings = [f"run={run}", *PENDULUM, "online_steps=24"]
    main(["train", "--config", "sac", *settings])
    first = json.loads(capsys.readouterr().out)
    assert first["length"] == 12
    assert len(list((run / "episodes").iterdir())) == 2
    main(["train", "--config", "sac", *settings, "online_steps=36"])
    assert len(list((run / "episodes").iterdir())) == 3
    assert read_history(run)[-1]["environment_steps"] == 36
    main(["eval", str(run), "--episodes", "2"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["length"] == 12
    with pytest.raises(VieError, match=r"is a run with data.batch=16, not 8: give another run=FOLDER"):
        train(["sac"], [*settings, "data.batch=8"])


def test_offline_data_then_online_through_a_frozen_encoder(tmp_path):
    data = tmp_path / "data"
    collect = ["collect", "gym:Pendulum-v1", "--episodes", "3", "--out", str(data), "--size", "32", "--max-steps", "12"]
    pytest.importorskip("minari")
    main(collect)
    run = tmp_path / "run"
    settings = [f"run={run}", f"dataset={data}", *PENDULUM, *SEES, "offline_updates=6", "online_steps=12"]
    found = train(["calql"], settings)
    assert found["length"] == 12
    rows = read_history(run)
    assert rows[-1]["environment_steps"] == 12
    assert evaluate(run, 2) == {name: value for name, value in found.items()}


def test_a_run_goes_on_where_its_data_and_encoder_lie_now(tmp_path):
    pytest.importorskip("minari")
    collect = ["collect", "gym:Pendulum-v1", "--episodes", "2", "--size", "32", "--max-steps", "12"]
    for name, seed in (("data", 0), ("other", 1)):
        main([*collect, "--out", str(tmp_path / name), "--seed", str(seed)])
    for name in ("encoder", "another"):
        model = create_model("vie_single_r18", width=4)
        save_pretrained(model, tmp_path / name, model.sampling)
    run, seen = tmp_path / "run", ["encoder.size=32", "encoder.project=8", "online_steps=0"]
    settings = [f"run={run}", *PENDULUM, *seen, "offline_updates=6"]
    with pytest.raises(VieError, match="there is no offline data to learn from: give a dataset"):
        train(["calql"], [*settings, f"encoder.source={tmp_path / 'another'}"])  # which leaves nothing to be held to
    train(["calql"], [*settings, f"dataset={tmp_path / 'data'}", f"encoder.source={tmp_path / 'encoder'}"])
    kept = (run / "inputs.json").read_text()
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("data", "encoder"):
        (tmp_path / name).rename(moved / name)
    run = run.rename(moved / "run")
    there = [f"run={run}", *PENDULUM, *seen, "offline_updates=8"]
    for dataset, encoder, said in (
        (tmp_path / "other", moved / "encoder", "begun with another dataset .*: give the one that it had as dataset"),
        (moved / "data", tmp_path / "another", "begun with another encoder .*the one that it had as encoder.source"),
    ):
        with pytest.raises(VieError, match=said):
            train(["calql"], [*there, f"dataset={dataset}", f"encoder.source={encoder}"])
    train(["calql"], [*there, f"dataset={moved / 'data'}", f"encoder.source={moved / 'encoder'}"])
    assert (run / "inputs.json").read_text() == kept
    assert read_history(run)[-1]["step"] == 8
    (run / "inputs.json").write_text("{}")
    with pytest.raises(VieError, match=r"inputs.json cannot be read .*: delete it"):
        train(["calql"], [*there, f"dataset={moved / 'data'}", f"encoder.source={moved / 'encoder'}"])
    # Of before there was such a file: paths are all that is known.
    (run / "inputs.json").unlink()
    with pytest.raises(VieError, match="is a run with dataset="):
        train(["calql"], [*there, f"dataset={tmp_path / 'other'}", f"encoder.source={moved / 'encoder'}"])


def test_what_decides_a_run_cannot_change_and_the_rest_can(tmp_path, capsys):
    run = tmp_path / "run"
    settings = [f"run={run}", *PENDULUM, "encoder.source=vie_single_r18", "encoder.size=32", "online_steps=12"]
    given = [*settings, "encoder.mode=partial", "encoder.arguments={width: 4}"]
    train(["sac"], [*given, "encoder.train_from={0: none, 100: all}"])
    for schedule in ("{0: none, 500: all}", "{0: none}", "last", "{0: none, 100: conv5}"):
        with pytest.raises(VieError, match=r"is a run with encoder.train_from=.*100.*: give another run=FOLDER"):
            train(["sac"], [*given, f"encoder.train_from={schedule}"])
    with pytest.raises(VieError, match=r"is a run with encoder.arguments=\{'width': 4\}, not \{'width': 8\}"):
        train(
            ["sac"],
            [
                *settings,
                "encoder.mode=partial",
                "encoder.arguments={width: 8}",
                "encoder.train_from={0: none, 100: all}",
            ],
        )
    with pytest.raises(VieError, match="is a run with seed=0, not 9"):
        evaluate(run, 1, ["seed=9"])
    with pytest.raises(VieError, match="which is no setting"):
        evaluate(run, 1, ["bogus=1"])
    assert evaluate(run, 3, ["environment.parallel=2"])["length"] == 12


@pytest.mark.parametrize("command", ["train", "ooo"])
def test_help_lists_every_setting(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    told = capsys.readouterr().out
    assert f"vie-rl {command} --config RECIPE" in told
    for name in ("encoder.train_from", "agent.parl.improvement.steps", "data.mix"):
        assert f"--{name}" in told
    assert ("--retrain.at" in told) == (command == "ooo")


def test_two_commands_cannot_train_one_run(tmp_path):
    settings = [f"run={tmp_path / 'run'}", *PENDULUM, "online_steps=12"]
    train(["sac"], settings)
    before = (tmp_path / "run/config.yaml").read_text()
    with locked(tmp_path / "run", ALONE), pytest.raises(VieError, match="another process trains in"):
        train(["sac"], [*settings, "online_steps=24"])
    assert (tmp_path / "run/config.yaml").read_text() == before


@pytest.mark.long
def test_a_signal_to_all_processes_of_a_run_leaves_what_can_be_gone_on_with(tmp_path):
    settings = [*PENDULUM, "environment.max_steps=200", "online_steps=800", "data.batch=8"]
    command = [sys.executable, "-m", "rl_encoders", "train", "--config=sac", f"run={tmp_path / 'stopped'}", *settings]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    while not (tmp_path / "stopped/episodes/000001.safetensors").exists():
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGTERM)
    assert "the same command goes on" in process.communicate()[1]
    assert process.returncode == 128 + signal.SIGTERM
    train(["sac"], [f"run={tmp_path / 'stopped'}", *settings])
    train(["sac"], [f"run={tmp_path / 'whole'}", *settings])
    for number in range(4):
        one, other = (tmp_path / name / f"episodes/{number:06d}.safetensors" for name in ("stopped", "whole"))
        assert one.read_bytes() == other.read_bytes()


def test_mistakes_are_named(tmp_path):
    with pytest.raises(VieError, match="give it as run=FOLDER"):
        train([], [])
    with pytest.raises(VieError, match=r"nothing to learn from: give dataset, environment.name, or both"):
        train([], [f"run={tmp_path}/run", "environment.state=[state]"])
    with pytest.raises(VieError, match="holds no run: give the folder"):
        evaluate(tmp_path, 1)
    assert not (tmp_path / "run").exists()


def test_offline_retraining_from_start_to_end_and_again(tmp_path, capsys):
    run = tmp_path / "run"
    small = [f"agent.calql.{part}_hidden=[16]" for part in ("policy", "critic")]
    small += [f"retrain.{setting}" for setting in small]
    settings = [f"run={run}", *PENDULUM, *small, "agent.algorithm=calql", "agent.exploration=0.5", "evaluate_every=12"]
    settings += ["online_steps=24", "retrain.at=[12,24]", "retrain.offline_updates=5", "retrain.agent.algorithm=cql"]
    main(["ooo", *settings])
    told = json.loads(capsys.readouterr().out)
    assert told.keys() == {"12", "24"}
    for steps, result in told.items():
        assert {"return", "explored_return"} <= result.keys()
        again = evaluate(run / f"retrained-{steps}", 2)
        assert again["return"] == result["return"]
    low, high = (json.loads(line.split(":")[1]) for line in q_bounds(run / "retrained-12/config.yaml"))
    assert low < high <= 0
    updates = {row["step"] for row in read_history(run / "retrained-24")}
    main(["ooo", *settings])
    assert json.loads(capsys.readouterr().out) == told
    assert {row["step"] for row in read_history(run / "retrained-24")} == updates
    with pytest.raises(VieError, match=r"retrain.at=\[36\] with online_steps=24: give steps"):
        offline_retraining([], [*settings, "retrain.at=[36]"])
    with pytest.raises(VieError, match=r"need one discount, not 0.99 and 0.9"):
        offline_retraining([], [*settings, "retrain.agent.calql.gamma=0.9"])


def q_bounds(path):
    calql = path.read_text().split("calql:")[1].split("iql:")[0]
    return sorted(line for line in calql.splitlines() if "q_low" in line or "q_high" in line)[::-1]
