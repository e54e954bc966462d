"""The demo of an agent, in parts of a few steps; whole where time is no matter."""

import re
import time

import pytest

pytest.importorskip("minari")
pytest.importorskip("gymnasium_robotics")
from benchmarks import demo_rl
from benchmarks.cli import main
from pretrain.settings import parse_config
from rl_encoders.training.commands import train
from vie import VieError
from vie.history import read_history

TINY_ENCODER = (
    *("model.width=16", "model.embed_dim=16", "data.size=32", "data.batch_size=8", "data.workers=0"),
    *("instance_recognition.steps=4", "runtime.device=cpu", "runtime.threads=1"),
)
TINY_AGENT = (
    *("environment.parallel=2", "evaluation_episodes=2", "evaluate_every=0", "log_every=1"),
    *("offline_updates=4", "online_steps=8", "data.batch=8", "device=cpu"),
    *("agent.calql.policy_hidden=[8]", "agent.calql.critic_hidden=[8]"),
)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(demo_rl, "EPISODES", 3)
    monkeypatch.setattr(demo_rl, "parse_config", lambda recipes, given: parse_config(recipes, [*given, *TINY_ENCODER]))
    monkeypatch.setattr(demo_rl, "train", lambda recipes, given: train(recipes, [*given, *TINY_AGENT]))


def test_the_whole_way_and_again(tiny, tmp_path, capsys):
    out = tmp_path / "demo"
    main(["demo-rl", str(out)])
    told = capsys.readouterr().out.splitlines()
    assert [line[:3] for line in told if re.match(r"\d/5 ", line)] == [f"{step}/5" for step in range(1, 6)]
    assert re.match(
        r"Success: \d+ % of the data's episodes, \d+ % after 4 updates on it, \d+ % after (8|9|[123]\d) steps of",
        told[-1],
    )
    assert len(list((out / "videos").iterdir())) == 3
    page = (out / "report.html").read_text()
    assert page.count("<video") == 2
    assert "through a frozen encoder" in page
    rows = read_history(out / "vie-frozen")
    before = {path: path.stat().st_mtime_ns for path in [*(out / "videos").iterdir(), *(out / "encoder").glob("*/*")]}
    main(["demo-rl", str(out)])
    assert capsys.readouterr().out.splitlines()[-1].partition(" (")[0] == told[-1].partition(" (")[0]
    assert read_history(out / "vie-frozen") == rows
    assert all(path.stat().st_mtime_ns == then for path, then in before.items() if "checkpoints" not in str(path))


def test_a_demo_of_other_settings_is_to_be_deleted(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(demo_rl, "_write_videos", lambda *_: 1 / 0)
    for seed in (0, 1):
        with pytest.raises(ZeroDivisionError if seed == 0 else VieError) as failed:
            demo_rl.run_demo_rl(tmp_path, seed)
    assert str(failed.value).endswith(f"with seed=0 and not 1: delete {tmp_path} and start the demo again")


@pytest.mark.long
def test_it_learns_in_time(tmp_path):
    """Ten minutes are promised for two free cores; other tests may be at work beside."""
    begun = time.monotonic()
    main(["demo-rl", str(tmp_path)])
    rows = [row for row in read_history(tmp_path / "vie-frozen") if "success" in row]
    offline = [row for row in rows if not row["environment_steps"]]
    assert offline[0]["success"] < offline[-1]["success"] > 0.5
    assert rows[-1]["success"] > 0.7
    assert time.monotonic() - begun < 1800
