"""From records of runs, as the training loop writes them, to results, tables and figures."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from benchmarks.agents.figure import draw, together
from benchmarks.agents.job import Job, Run, read_job
from benchmarks.agents.results import check_asked, read_results, records, write_result
from benchmarks.agents.runs import Plan
from benchmarks.agents.summary import lines, summary
from benchmarks.agents.table import tables
from vie import VieError

JOB = {
    "settings": ["offline_updates=200", "online_steps=300", "evaluate_every=100"],
    "tasks": {
        "hill": {"environment": "gym:Hill-v0", "collect": {"episodes": 3}},
        "cave": {"environment": "gym:Cave-v0", "collect": {}, "score": "return", "returns": [-10, 10]},
    },
    "encoders": {"vie": {"source": "vie_single_r18"}, "scratch": {"source": "vie_single_r18"}},
    "methods": {
        "calql": {"recipes": ["calql"]},
        "parl": {"recipes": ["parl_diffusion"], "settings": ["imitation_updates=50"]},
        "sac": {"recipes": ["sac"], "settings": ["offline_updates=0"], "offline": False},
        "ooo": {"command": "ooo", "recipes": ["ooo"], "settings": ["retrain.at=[100,300]"]},
    },
    "comparisons": {
        "methods": {"methods": ["calql", "parl", "sac", "ooo"], "encoders": ["vie"]},
        "encoders": {"methods": ["calql"], "encoders": ["vie", "scratch"], "tasks": ["hill"]},
    },
}


@pytest.fixture
def plan(tmp_path) -> Plan:
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(JOB, sort_keys=False))
    return Plan(read_job(tmp_path / "job.yaml"), tmp_path / "out", {})


def row(updates: int, steps: int, success: float) -> dict:
    return {"step": updates, "environment_steps": steps, "return": 20 * success - 10, "success": success, "length": 9.0}


def offline(*scores: float) -> list[dict]:
    return [row(100 * (number + 1), 0, score) for number, score in enumerate(scores)]


def online(*scores: float, after: int = 200) -> list[dict]:
    """Every other line of a record is of something else."""
    found: list[dict] = []
    for number, score in enumerate(scores):
        steps = 103 * (number + 1)
        found += [
            {"step": after + steps, "phase": "online", "q": 0.5},
            {"step": after + steps, "environment_steps": steps, "episode_return": 3.0},
            row(after + steps, steps, score),
        ]
    return found


def finished(plan: Plan, run: Run, seed: int, rows: list[dict], within: str = "", **retrained: float) -> Path:
    """A run as its command leaves it, and its results."""
    folder = plan.folder(run, seed) / within
    folder.mkdir(parents=True)
    (folder / "history.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    if retrained:
        told = {steps[1:]: {"return": 20 * score - 10, "success": score} for steps, score in retrained.items()}
        (plan.folder(run, seed) / "retraining.json").write_text(json.dumps(told))
    asked = plan.works([seed])[plan.key(run, seed)].to_make
    return write_result(plan, run, seed, asked, "the command", "the machine")


def test_a_run_comes_to_its_measures(plan):
    rows = [*offline(0.3, 0.6), *online(0.5, 0.2, 0.8)]
    path = finished(plan, Run("hill", "calql", "vie"), 0, [*rows, rows[-1]])  # told twice, as after an interruption
    assert path == plan.out / "results" / "seed0" / "hill" / "calql" / "vie.json"
    (content,) = read_results(plan.out / "results")
    (record,) = records(content)
    assert record.values == pytest.approx(
        {"after offline": 0.6, "final": 0.8, "best": 0.8, "regret": 1 - 0.5, "dip": 0.6 - 0.5}
    )
    assert record.curve == [(-100, 0.3), (0, 0.6), (103, 0.5), (206, 0.2), (309, 0.8)]
    assert content["protocol"]["machine"] == "the machine"
    assert content["protocol"]["evaluation_episodes"] == 20
    assert content["protocol"]["offline_updates"] == 200
    assert content["protocol"]["environment"]["name"] == "gym:Hill-v0"


def test_phases_that_a_run_has_not_are_no_measures(plan):
    (plan.out / "data" / "hill" / "episodes" / "data").mkdir(parents=True)
    facts = {"total_episodes": 3, "total_steps": 27, "vie_rl": {"policy": "random", "successes": 1}}
    (plan.out / "data" / "hill" / "episodes" / "data" / "metadata.json").write_text(json.dumps(facts))
    finished(plan, Run("hill", "sac", "vie"), 0, online(0.0, 0.1, 0.4, after=0))
    finished(plan, Run("hill", "parl", "vie"), 0, [row(0, 0, 0.25), *offline(0.3, 0.4), *online(0.5, 0.6, 0.7)])
    parl, sac = read_results(plan.out / "results")
    assert records(sac)[0].values == pytest.approx({"final": 0.4, "best": 0.4, "regret": 1 - 0.5 / 3})
    assert records(parl)[0].values["after imitation"] == 0.25
    assert records(parl)[0].values["dip"] == pytest.approx(-0.2)
    assert records(parl)[0].curve[0] == (-200, 0.25)
    assert sac["protocol"]["data"] is None
    assert parl["protocol"]["data"] == {"episodes": 3, "steps": 27, "policy": "random", "successes": 1}


def test_returns_are_put_between_those_of_the_task(plan):
    finished(plan, Run("cave", "calql", "vie"), 0, [*offline(0.0, 0.1), *online(0.2, 0.3, 0.9)])
    (content,) = read_results(plan.out / "results")
    assert records(content)[0].values["final"] == pytest.approx(0.9)


def test_an_environment_that_tells_no_success_is_told_of(plan):
    rows = [{name: value for name, value in one.items() if name != "success"} for one in online(0.2, 0.3, 0.9)]
    finished(plan, Run("hill", "calql", "vie"), 0, rows)
    with pytest.raises(VieError, match="hill/calql/vie was evaluated without success: its environment tells none, so"):
        records(read_results(plan.out / "results")[0])


@pytest.mark.parametrize("rows", [[], offline(0.1, 0.2), online(0.1, 0.2), [row(0, 309, 0.5)]])
def test_runs_without_an_evaluation_at_their_end_have_no_results(plan, rows):
    with pytest.raises(VieError, match="has no evaluation at its end: delete it to train it again"):
        finished(plan, Run("hill", "calql", "vie"), 0, rows)


def test_retrained_agents_stand_beside_the_one_that_acted(plan):
    rows = [*offline(0.3, 0.6), *online(0.5, 0.2, 0.8)]
    finished(plan, Run("hill", "ooo", "vie"), 0, rows, "explore", x100=0.7, x300=0.9)
    acted, first, last = records(read_results(plan.out / "results")[0])
    assert acted.arm == "acting"
    assert acted.values["final"] == 0.8
    assert (first.arm, first.values, first.curve) == ("retrained at 100", {"final": 0.7}, [])
    assert (last.arm, last.values) == ("retrained at 300", {"final": 0.9})


def test_results_are_left_as_they_are_until_something_else_was_found(plan):
    run, rows = Run("hill", "calql", "vie"), [*offline(0.3, 0.6), *online(0.5, 0.2, 0.8)]
    path = finished(plan, run, 0, rows)
    asked = plan.works([0])[plan.key(run, 0)].to_make
    write_result(plan, run, 0, asked, "told again", "elsewhere")
    assert "the machine" in path.read_text()
    (plan.folder(run, 0) / "history.jsonl").write_text(
        "".join(json.dumps(one) + "\n" for one in [*rows, row(520, 320, 1)])
    )
    write_result(plan, run, 0, asked, "trained longer", "elsewhere")
    assert "trained longer" in path.read_text()


def test_results_of_other_settings_are_refused(plan, tmp_path):
    finished(plan, Run("hill", "calql", "vie"), 0, [*offline(0.3, 0.6), *online(0.5, 0.2, 0.8)])
    (content,) = read_results(plan.out / "results")
    check_asked(plan, content)
    (tmp_path / "job.yaml").write_text(yaml.safe_dump({**JOB, "settings": [*JOB["settings"], "data.batch=9"]}))
    with pytest.raises(VieError, match=r"seed0/hill/calql/vie are of data\.batch=the default, and the job asks for 9"):
        check_asked(Plan(read_job(tmp_path / "job.yaml"), plan.out, {}), content)


@pytest.mark.parametrize("text", ["{", "[]", '{"format": "vie-transfer-1"}'])
def test_other_files_are_no_results(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(VieError, match=r"a\.json"):
        read_results(tmp_path)


def compared(plan: Plan) -> tuple[Job, list]:
    """All but one run of the methods, over two seeds."""
    for seed in (0, 1):
        for task in ("hill", "cave"):
            better = 0.1 * seed + (0.2 if task == "hill" else 0.0)
            rows = [*offline(0.3, 0.4 + better), *online(0.1, 0.5, 0.6 + better)]
            finished(plan, Run(task, "calql", "vie"), seed, rows)
            if (task, seed) != ("cave", 1):
                finished(plan, Run(task, "ooo", "vie"), seed, rows, "explore", x100=0.5, x300=0.7 + better)
    return plan.job, [record for content in read_results(plan.out / "results") for record in records(content)]


def test_tables_tell_every_seed_and_which_runs_are_missing(plan):
    job, found = compared(plan)
    told = tables(job, found)
    methods, by_task, encoders, _ = (part.split("\n") for part in told.split("**: ")[1:])
    assert methods[0] == "interquartile mean over 2 tasks and 2 seeds [95 % interval]"
    assert methods[2] == "| agent | after offline | final | best | regret | dip |"
    # Finals of 0.8, 0.9, 0.6 and 0.7: the middle two.
    assert methods[4].startswith("| calql | 0.55 [0.50, 0.60] | 0.75 [0.70, 0.80] |")
    assert methods[5].startswith("| ooo, acting (3 of 4 runs) |")
    assert methods[7].startswith(
        "| ooo, retrained at 300 (3 of 4 runs) |  | 0.87 |"
    )  # one seed of the cave: no interval
    assert by_task[4] == "| calql | 0.85 (0.80, 0.90) | 0.65 (0.60, 0.70) |"
    assert by_task[7] == "| ooo, retrained at 300 | 0.95 (0.90, 1.00) | 0.70 (0.70) |"
    assert encoders[4].startswith("| vie |")
    assert tables(job, []) == "There are no results yet."


def test_the_summary_holds_every_value(plan):
    job, found = compared(plan)
    content = json.loads(json.dumps(summary(job, found)))
    first = content["methods"][0]
    assert (first["agent"], first["runs"]) == ("calql", 4)
    final = first["measures"]["final"]
    assert final["values"] == {"hill": {"0": 0.8, "1": pytest.approx(0.9)}, "cave": {"0": 0.6, "1": 0.7}}
    assert final["iqm"] == pytest.approx(0.75)
    assert final["interval"][0] < final["iqm"] < final["interval"][1]
    assert [one["agent"] for one in content["encoders"]] == ["vie"]
    assert lines(job, job.comparisons["methods"], []) == []


def test_figures_show_all_agents(plan, tmp_path):
    job, found = compared(plan)
    files = draw(job, found, tmp_path / "figures")
    kinds = [f"{kind}-{name}.svg" for name in ("methods", "encoders") for kind in ("curves", "measures")]
    assert [file.name for file in files] == kinds
    # Letters are drawn as shapes, and what they say stands beside them.
    drawn = files[0].read_text()
    for told in ("hill", "cave", "calql", "ooo, acting", "ooo, retrained at 300", "methods"):
        assert f"<!-- {told} -->" in drawn
    assert "<!-- dip (lower is better) -->" in files[1].read_text()


def test_seeds_are_put_together_between_their_evaluations():
    one, other = [(-100, 0.0), (0, 1.0), (100, 0.0)], [(-50, 0.5), (0, 0.0), (130, 1.3)]
    places, scores = together([one, other])
    assert (places[0], places[-1]) == (-50, 100)
    assert scores[:, 0] == pytest.approx([0.5, 0.5])
    assert scores[:, -1] == pytest.approx([0.0, 1.0])
    at = np.argmin(abs(places - 40))
    assert scores[:, at] == pytest.approx([1 - places[at] / 100, places[at] / 100])
