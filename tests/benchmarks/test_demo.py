import json
import shutil

import pytest
import torch

from benchmarks.cli import main
from benchmarks.demo import run_demo
from benchmarks.transfer.config import parse_task
from pretrain.settings import parse_config
from tests.conftest import tiny_run
from vie import VieError, load

ENCODERS = {f"{stream}{suffix}" for stream in ("static", "dynamic", "hybrid") for suffix in ("", " (random)")}


def test_a_demo_of_other_settings_is_to_be_deleted(tmp_path, monkeypatch):
    def refuse(config):
        raise VieError(f"{config.run} holds a run with other settings (seed): give another folder as run=FOLDER")

    for name in ("write_moving_digits", "list_videos", "prepare"):
        monkeypatch.setattr(f"benchmarks.demo.{name}", lambda *_, **__: None)
    monkeypatch.setattr("benchmarks.demo.Trainer", refuse)
    with pytest.raises(VieError) as error:
        run_demo(tmp_path)
    assert str(error.value) == (
        f"{tmp_path / 'static'} holds a run with other settings (seed): delete {tmp_path} and start the demo again"
    )


def test_streams_and_hybrid_are_measured_on_every_label(tiny_corpus, tmp_path, monkeypatch, capsys):
    """The whole way, on a tiny corpus and with runs of a few steps."""
    out = tmp_path / "demo"

    def tiny_config(recipes, overrides):
        model, frames = ("vie_single_r18", 1) if recipes == ["demo_static"] else ("vie_resnet3d_r18", 4)
        (run,) = (override.removeprefix("run=") for override in overrides if override.startswith("run="))
        return parse_config([], tiny_run(tiny_corpus, run, f"model.name={model}", f"data.frames={frames}"))

    def tiny_task(name, overrides):
        quick = ["linear.steps=2", "linear.drops=[1]", "data.batch_size=16", "data.cache=none"]
        return parse_task(name, [*overrides, *quick, "runtime.device=cpu"])

    monkeypatch.setattr("benchmarks.demo.write_moving_digits", lambda *_, **__: None)
    monkeypatch.setattr("benchmarks.demo.list_videos", lambda *_: [])
    monkeypatch.setattr("benchmarks.demo.prepare", lambda _, corpus, __: shutil.copytree(tiny_corpus, corpus))
    monkeypatch.setattr("benchmarks.demo.parse_config", tiny_config)
    monkeypatch.setattr("benchmarks.demo.parse_task", tiny_task)
    (out / "transfer").mkdir(parents=True)
    (out / "transfer" / "demo-static-knn-seed3.json").write_text("of another version")
    main(["demo", str(out)])
    contents = [json.loads(path.read_text()) for path in (out / "transfer").iterdir()]
    measured = [(content["encoder"]["name"], content["mode"]) for content in contents]
    assert sorted(measured) == sorted((name, mode) for name in ENCODERS for mode in ("knn", "linear"))
    assert all({row["label"] for row in content["results"]} == {"shape", "motion"} for content in contents)
    for stage in ("la", "random"):
        hybrid, static, dynamic = (
            load(out / run / f"encoder-{stage}").model for run in ("hybrid", "static", "dynamic")
        )
        assert hybrid.model_name == "vie_two_pathway_3d_r18"
        for part, finished in (("static", static), ("dynamic", dynamic)):
            weight = finished.get_parameter("trunk.stem.weight")
            assert torch.equal(hybrid.get_parameter(f"{part}.trunk.stem.weight"), weight)
    page = (out / "report.html").read_text()
    assert '<section id="transfer">' in page
    (motion,) = (
        row["top1"]
        for content in contents
        for row in content["results"]
        if (content["encoder"]["name"], row["label"], row["readout"]) == ("hybrid", "motion", "logistic")
    )
    printed = capsys.readouterr().out
    assert next(line for line in printed.splitlines() if line.startswith("| hybrid |")).count(f"{motion:.1f}")
    assert json.loads((out / "metrics.json").read_text())["results"]
