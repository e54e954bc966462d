"""What the documentation shows runs as it is printed."""

import re
from pathlib import Path

import pytest
import torch
import yaml

from rl_encoders import from_config
from tests.rl_encoders.environments import Dot
from vie import create_model, save_pretrained

pytest.importorskip("stable_baselines3")
pytest.importorskip("d3rlpy")
pytest.importorskip("torchrl")

from rl_encoders.adapters.sb3 import verify

ROOT = Path(__file__).parents[2]


@pytest.fixture
def here(tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = create_model("vie_single_r18", width=4).eval()
    save_pretrained(model, tmp_path / "runs/mine/encoder-la", model.sampling)
    monkeypatch.chdir(tmp_path)


def blocks(document, language):
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / document).read_text(), re.M | re.S)


def test_plug_in_runs_from_top_to_bottom(here):
    names = {"make_env": Dot}
    for block in blocks("docs/plug_in.md", "python"):
        # LeRobot and d3rlpy want different releases of gymnasium: test_lerobot runs this one.
        if "adapters.lerobot" not in block:
            exec(block, names)


def test_the_readme_shows_an_agent_that_learns(here):
    (block,) = (block for block in blocks("README.md", "python") if "VieExtractor" in block)
    pytest.importorskip("ale_py")
    names: dict[str, object] = {}
    shorter = block.replace("policy_kwargs=policy", "policy_kwargs=policy, n_steps=16, batch_size=16").replace(
        "2048", "16"
    )
    Path("runs/demo/static").mkdir(parents=True)
    Path("runs/demo/static/encoder-la").symlink_to(Path("runs/mine/encoder-la").absolute())
    exec(shorter, names)
    verify(names["agent"])


def test_configs_of_plug_in_make_encoders(here):
    found = blocks("docs/plug_in.md", "yaml")
    assert len(found) == 2
    for block in found:
        from_config(yaml.safe_load(block)["encoder"])
