"""What the pages of the agents show runs as it is printed, with fewer steps in another world."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from rl_encoders.training.commands import train
from rl_encoders.trajectories import MinariWriter
from tests.rl_encoders.training.worlds import LENGTH, Line, random_walks
from vie import create_model, save_pretrained
from vie.history import read_history

pytest.importorskip("minari")

ROOT = Path(__file__).parents[3]


def collected(folder, count=3):
    """What ``vie-rl collect`` would have written."""
    writer = MinariWriter(folder, Line(pixels=True).space, {"policy": "random"})
    for number, walk in enumerate(random_walks(count, pixels=True)):
        writer.write(walk, number, seed=number, success=None)


@pytest.fixture
def here(tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = create_model("vie_single_r18", width=4).eval()
    save_pretrained(model, tmp_path / "runs/mine/encoder-la", model.sampling)
    monkeypatch.chdir(tmp_path)


def page(name, language="python"):
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / "docs" / name).read_text(), re.M | re.S)


def shorter(code, changes):
    for old, new in changes.items():
        assert old in code, old
        code = code.replace(old, new)
    return code


def test_external_policies(here):
    """LoRA alone learns; a second run of the same program finds itself at the end, with what the first has learned."""
    pytest.importorskip("peft")
    from tests.rl_encoders.agents.vla import save_small_vla

    collected("DRAWER")
    save_small_vla(Path("my/vla"))
    changes = {
        'make_environment("metaworld:drawer-open-v3", seed=0, size=224)': "Line(pixels=True)",
        "world.close()\n": "",
        "imitation_updates=1000": "imitation_updates=2",
        "offline_updates=20_000": "offline_updates=2, evaluation_episodes=1",
        "online_steps=20_000": f"online_steps={LENGTH}",
        "batch=256": "batch=8",
        "(512, 512, 512)": "(16,)",
        "refresh_every=500": "refresh_every=4",
    }
    code = shorter("\n".join(page("external_policies.md")), changes)
    first, second = ({"Line": Line} for _ in range(2))
    exec(code, first)
    policy, weights = first["policy"], first["vla"].weights()
    assert policy.steps == 2 + LENGTH
    assert policy.asked > 3 * (LENGTH + 1)
    for name, parameter in first["model"].named_parameters():
        assert parameter.requires_grad == ("lora_" in name) == (name in weights)
    assert any(parameter.any() for name, parameter in weights.items() if "lora_B" in name)
    exec(code, second)
    assert second["policy"].steps == policy.steps
    assert second["training"].updates == first["training"].updates == 2 + LENGTH
    for name, parameter in second["vla"].weights().items():
        assert torch.equal(parameter, weights[name]), name


def test_agents(here):
    """From a dataset to agents and policies of one's own, each of which learns and acts."""
    collected("PONG")
    changes = {
        'make_environment("ale:Pong", seed=0, size=64, max_steps=500)': "Line(pixels=True)",
        "mix=0.5)": "mix=0.5, batch=8)",
        "RunConfig(run=": "RunConfig(evaluation_episodes=1, run=",
        "=2000": "=2",
        "draw(256": "draw(8",
        "PARLConfig()": "PARLConfig(critic_hidden=(16,))",
        'policy({"pixels": picture})': 'policy({"pixels": picture, "place": np.zeros(1)})',
    }
    seen = ["encoder.source=runs/mine/encoder-la", "encoder.size=32", "environment.state=[place]"]
    train(["bc"], ["dataset=PONG", "run=runs/pong", "offline_updates=1", "data.batch=8", *seen])
    names = {"Line": Line, "np": np, "picture": np.zeros((32, 32, 3), np.uint8)}
    exec(shorter("\n".join(page("agents.md")), changes), names)
    assert names["action"].shape == (1, 1)
    for name, learned in (("pong-by-hand", 2 + LENGTH), ("cloning", 2), ("noisy", 2 + LENGTH)):
        history = read_history(Path("runs") / name)
        assert history[-1]["step"] == learned
        assert "return" in history[-1]
