"""Whole runs in a real environment, from recipes and data on disk."""

import json

import pytest

from rl_encoders.cli import main
from rl_encoders.training.commands import evaluate, offline_retraining, train
from vie import VieError
from vie.history import read_history

pytest.importorskip("pygame")

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
