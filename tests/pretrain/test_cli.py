"""Real processes: what a user sees of a mistake is one line, and nothing half-written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pretrain.cli import main
from tests.conftest import tiny_run
from vie import Sampling, create_model, load, save_pretrained

ROOT = Path(__file__).parents[2]
MISTAKES = {
    "misspelt key": (["optim.lrr=0.1"], "did you mean 'optim.lr'?"),
    "missing folder": (["data.path=nowhere"], "nowhere holds no prepared corpus"),
    "wrong label column": (["monitor.labels=[colour]"], "its label columns are shape, motion"),
    "too many clusters": (["local_aggregation.clusters=49"], "48 instances cannot make 49 clusters"),
}


@pytest.mark.parametrize(
    "mistake",
    [
        pytest.param("misspelt key", marks=pytest.mark.long),
        pytest.param("missing folder", marks=pytest.mark.long),
        pytest.param("wrong label column", marks=pytest.mark.long),
        "too many clusters",  # found when all else is there
    ],
)
def test_a_mistake_is_one_line(tiny_corpus, tmp_path, mistake):
    arguments, told = MISTAKES[mistake]
    command = [sys.executable, "-m", "pretrain", "train", *tiny_run(tiny_corpus, Path("run")), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert_one_line(done.stdout, done.stderr, told)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("mistake", [name for name in MISTAKES if name != "too many clusters"])
def test_a_mistake_is_one_line_here_too(tiny_corpus, tmp_path, monkeypatch, capfd, mistake):
    """Without the imports of a process, which take longer than all else."""
    arguments, told = MISTAKES[mistake]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"^1$"):
        main(["train", *tiny_run(tiny_corpus, Path("run")), *arguments])
    assert_one_line(*capfd.readouterr(), told)
    assert os.listdir(tmp_path) == []


def assert_one_line(stdout, stderr, told):
    assert stdout == ""
    assert stderr.startswith("vie-pretrain: ")
    assert stderr.count("\n") == 1, stderr
    assert stderr.endswith("\n")
    assert told in stderr


def test_join_makes_a_hybrid(tmp_path, capsys):
    for name, sampling in (("single", Sampling(1, 1, 25.0, 32)), ("resnet3d", Sampling(4, 1, 25.0, 32))):
        model = create_model(f"vie_{name}_r18", width=4)
        save_pretrained(model, tmp_path / name, sampling, {"training": {"seed": 3, "stage": name}})
    main(["join", str(tmp_path / "single"), str(tmp_path / "resnet3d"), str(tmp_path / "hybrid")])
    assert capsys.readouterr().out.strip() == str(tmp_path / "hybrid")
    hybrid = load(tmp_path / "hybrid")
    assert hybrid.model.model_name == "vie_two_pathway_3d_r18"
    assert hybrid.sampling == Sampling(4, 1, 25.0, 32)
    assert hybrid.card["training"]["seed"] == 3
    assert hybrid.card["training"]["static"] == {"seed": 3, "stage": "single"}
    assert hybrid.card["training"]["dynamic"] == {"seed": 3, "stage": "resnet3d"}
    assert hybrid.card["training"]["embedding"] == "untrained"
    weight = load(tmp_path / "single").model.get_parameter("trunk.stem.weight")
    assert torch.equal(hybrid.model.get_parameter("static.trunk.stem.weight"), weight)


def test_join_may_keep_the_fast_pathway(tmp_path, capsys):
    for name in ("single", "slow", "slowfast"):
        save_pretrained(create_model(f"vie_{name}_r18", width=8), tmp_path / name, Sampling(16, 1, 25.0, 32))
    folders = [str(tmp_path / name) for name in ("single", "slowfast")]
    main(["join", *folders, str(tmp_path / "plain")])
    main(["join", *folders, str(tmp_path / "fast"), "--fast"])
    plain, fast = (load(tmp_path / name).model.num_features for name in ("plain", "fast"))
    assert fast == plain + 8
    with pytest.raises(SystemExit):
        main(["join", folders[0], str(tmp_path / "slow"), str(tmp_path / "none"), "--fast"])
    assert "fast pathway" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_join_refuses_streams_of_two_sizes(tmp_path, capsys):
    for name, size in (("single", 32), ("slow", 64)):
        save_pretrained(create_model(f"vie_{name}_r18", width=4), tmp_path / name, Sampling(4, 1, 25.0, size))
    with pytest.raises(SystemExit):
        main(["join", str(tmp_path / "single"), str(tmp_path / "slow"), str(tmp_path / "hybrid")])
    assert "was trained on 32 pixels" in capsys.readouterr().err
    assert not (tmp_path / "hybrid").exists()


def test_join_leaves_its_parts_alone(tmp_path, capsys):
    for name in ("single", "slow"):
        save_pretrained(create_model(f"vie_{name}_r18", width=4), tmp_path / name, Sampling(4, 1, 25.0, 32))
    before = (tmp_path / "slow" / "card.json").read_text()
    with pytest.raises(SystemExit):
        main(["join", str(tmp_path / "single"), str(tmp_path / "slow"), str(tmp_path / "slow")])
    assert "holds an encoder to be joined" in capsys.readouterr().err
    assert (tmp_path / "slow" / "card.json").read_text() == before


def test_export_copies_in_half_precision(tmp_path, capsys):
    card = {"training": {"seed": 3}}
    save_pretrained(create_model("vie_single_r18", width=4), tmp_path / "run", Sampling(1, 1, 25.0, 32), card)
    main(["export", str(tmp_path / "run"), str(tmp_path / "out")])
    one, other = (load(tmp_path / name) for name in ("run", "out"))
    assert other.card["training"] == card["training"]
    assert torch.equal(other.model.trunk.stem.weight, one.model.trunk.stem.weight.half().float())
    with pytest.raises(SystemExit):
        main(["export", str(tmp_path / "run"), str(tmp_path / "out")])
    assert "is there already" in capsys.readouterr().err
