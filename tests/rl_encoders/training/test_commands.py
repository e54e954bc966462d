"""Whole runs in a real environment, from recipes and data on disk."""

import json

import pytest

from rl_encoders.cli import main
from rl_encoders.training.commands import evaluate, train
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
