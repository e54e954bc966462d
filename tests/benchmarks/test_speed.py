import functools
import json
import time

import pytest
import torch

from benchmarks.cli import run
from benchmarks.speed import corpus
from benchmarks.speed.parts import CASES, open_trainer, replaced, synthetic_step, use_plain_layers
from benchmarks.speed.record import Job, Table, in_turns, medians
from vie import VieError, create_model

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def _frames_drawn_once():
    """They take longer than the measurements, and are the same for every corpus."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "draw_frames", functools.cache(corpus.draw_frames))
        yield


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """Folder of the synthetic corpora, each of which takes longer to write than to measure."""
    return tmp_path_factory.mktemp("corpora")


def results(folder, name):
    content = json.loads((folder / f"{name}.json").read_text())
    assert content["quick"] is True
    assert content["machine"]["versions"]["torch"]
    assert (folder / f"{name}.md").read_text().count("\n|") >= len(content["rows"]) + 1
    return content


class TestTable:
    def test_every_row_is_kept_at_once(self, tmp_path, capsys):
        table = Table(Job(CPU, tmp_path, quick=True), "things", {"thing": "", "ms": ".1f"})
        for number in range(3):
            table.add(thing=f"number {number}", ms=number / 3, beside=[number])
            assert len(results(tmp_path, "things")["rows"]) == number + 1
        table.skip("number 3", ImportError("no module of that name\nand a trace"))
        content = results(tmp_path, "things")
        assert content["rows"][2] == {"thing": "number 2", "ms": 2 / 3, "beside": [2]}
        assert content["skipped"] == {"number 3": "no module of that name"}
        written = (tmp_path / "things.md").read_text()
        assert "| number 2 | 0.7 |" in written
        assert "Left out: number 3 (no module of that name)." in written
        assert "| number 2 | 0.7 |" in capsys.readouterr().out

    def test_only_what_is_asked_for_and_in_time(self):
        table = Table(Job(CPU, only="slow"), "things", {"thing": ""})
        assert [table.wants(row) for row in ("slow 64", "single 64")] == [True, False]
        late = Table(Job(CPU, deadline=time.monotonic() - 1), "things", {"thing": ""})
        assert not late.wants("slow 64")
        assert late.skipped == {"slow 64": "no time was left for it"}


def test_the_median_over_turns():
    found = in_turns({"short": lambda: time.sleep(0.002), "long": lambda: time.sleep(0.02)}, CPU, 0.02, 3)
    assert [len(values) for values in found.values()] == [3, 3]
    assert medians(found)["long"] > medians(found)["short"] >= 0.002
    assert medians({"a": [3.0, 1.0, 2.0]}) == {"a": 2.0}


def test_a_part_is_replaced_for_a_while(corpora, tmp_path):
    trainer = open_trainer(CASES[0], Job(CPU, quick=True, workers=1, corpora=corpora), tmp_path, "run")
    before = trainer.apply, trainer.step
    step = synthetic_step(trainer)
    seen = []

    def spy(frames, numbers, size, mean, std, parts):
        seen.append(len(frames))
        return before[0](frames, numbers, size, mean, std, parts)

    with replaced(trainer, apply=spy, step=3):
        assert trainer.step == 3
        step()
    assert seen == [8]
    assert (trainer.apply, trainer.step) == before
    assert len(trainer.method.bank) == 2_000


def test_the_plain_layers_are_pytorchs_own():
    model = create_model("vie_resnet3d_r18", width=4)
    use_plain_layers(model)
    assert type(model.trunk.pool) is torch.nn.MaxPool3d
    assert not [module for module in model.modules() if type(module).__name__.startswith("Stem")]
    assert [type(module) for module in model.modules()].count(torch.nn.Conv3d) == 21


@pytest.mark.parametrize(
    ("measurement", "only", "rows"),
    [
        ("clustering", "", 8),
        ("full-step", "single", 1),
        ("end-to-end", "resnet3d 0.5", 1),
        ("decode", "128", 3),
        ("handover", "", 2),
        ("parl", "gaussian", 1),
    ],
)
def test_every_measurement_runs(measurement, only, rows, corpora, tmp_path):
    out = tmp_path / "results"
    command = ["speed", measurement, "--quick", "--device", "cpu", "--workers", "1", "--corpora", str(corpora)]
    run([*command, "--out", str(out), "--only", only])
    content = results(out, measurement)
    assert content["skipped"] == {}
    assert len(content["rows"]) == rows
    for row in content["rows"]:
        rates = [value for name, value in row.items() if name in ("clips/s", "end to end", "seconds")]
        assert all(value > 0 for value in rates)


def test_agents_are_beside_d3rlpys(tmp_path):
    pytest.importorskip("d3rlpy")
    run(["speed", "agents", "--quick", "--device", "cpu", "--out", str(tmp_path)])
    rows = results(tmp_path, "agents")["rows"]
    assert len(rows) == 6
    assert all(row["updates/s"] > 0 for row in rows)
    assert [row["of d3rlpy"] for row in rows if row["agent"] == "d3rlpy"] == [1, 1]


@pytest.mark.parametrize(
    ("host", "passes", "copies"), [("Stable-Baselines3 SAC", 5, 3), ("TorchRL SAC", 8, 5)], ids=["SB3", "TorchRL"]
)
def test_what_hosts_do_to_a_frozen_trunk_is_counted(tmp_path, host, passes, copies):
    """In TorchRL critics look again for the actor's loss."""
    pytest.importorskip({"Stable": "stable_baselines3", "TorchR": "torchrl"}[host[:6]])
    run(["speed", "hosts", "--quick", "--device", "cpu", "--out", str(tmp_path), "--only", f"{host} frozen"])
    ours, plain = results(tmp_path, "hosts")["rows"]
    assert (ours["by training"], ours["statistics changed"]) == ("0 of 55", "0 of 34")
    assert (ours["copies of the first layer"], ours["pictures in an update"]) == (1, 2)
    assert (plain["copies of the first layer"], plain["pictures in an update"]) == (copies, passes)


def test_an_unknown_measurement(tmp_path):
    with pytest.raises(VieError, match="no measurement fulstep: choose from step, full-step, clustering"):
        run(["speed", "fulstep", "--out", str(tmp_path)])
