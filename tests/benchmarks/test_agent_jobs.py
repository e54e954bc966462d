import copy
import functools
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import benchmarks
from benchmarks.agents.job import Job, Run, read_job
from benchmarks.agents.runs import Plan, digest
from rl_encoders.cli import run as vie_rl
from rl_encoders.training.build import gamma_of
from rl_encoders.training.settings import OOOConfig
from vie import VieError

FOLDER = Path(benchmarks.__file__).parent
FILES = sorted(FOLDER.glob("*_agents.yaml"))

JOB: dict[str, Any] = {
    "given": {"mine": "a saved encoder", "demos": "demonstrations"},
    "settings": ["data.batch=8", "online_steps=20"],
    "tasks": {
        "pole": {
            "environment": "gym:Pendulum-v1",
            "size": 32,
            "max_steps": 9,
            "state": ["state"],
            "arguments": {"g": 1e-05},
            "collect": {"policy": "random", "episodes": 4},
            "score": "return",
            "returns": [-100, 0],
            "settings": ["offline_updates=7"],
        },
        "door": {"environment": "robotics:AdroitHandDoor-v1", "reward": "success", "data": "demos"},
    },
    "encoders": {
        "numbers": {},
        "vie": {"source": "mine"},
        "scratch": {"source": "vie_single_r18", "settings": ["encoder.mode=finetune"]},
    },
    "methods": {
        "calql": {"recipes": ["calql"], "settings": ["online_steps=30"]},
        "sac": {"recipes": ["sac"], "offline": False, "settings": ["offline_updates=0"]},
        "ooo": {"command": "ooo", "recipes": ["ooo"], "settings": ["retrain.at=[20]"]},
    },
    "comparisons": {
        "methods": {"tasks": ["pole"], "methods": ["calql", "sac", "ooo"], "encoders": ["vie"]},
        "encoders": {"methods": ["calql"], "encoders": ["vie", "scratch"]},
    },
}
GIVEN = {"mine": "MINE", "demos": "DEMOS"}


def changed(path: str, value: object = None) -> dict[str, Any]:
    """The job with another value at a dotted path; None takes it away."""
    content: dict[str, Any] = copy.deepcopy(JOB)
    *above, last = path.split(".")
    inner = content
    for name in above:
        inner = inner[name]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return content


def read(folder: Path, content: object) -> Job:
    path = folder / "job.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    return read_job(path)


@functools.cache
def planned(path: Path) -> Plan:
    """As it takes long to read the settings of all runs."""
    job = read_job(path)
    return Plan(job, Path("nowhere"), dict.fromkeys(job.given, "SOMEWHERE"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_jobs_that_come_along_can_be_carried_out(path):
    """Every setting of every run is one, and every command line is understood."""
    plan = planned(path)
    works = plan.works([0])
    assert len(works) > len(plan.job.runs())
    for verb in {one.make()[3] for one in works.values()}:
        with pytest.raises(SystemExit, match="0"):
            vie_rl([verb, "--help"])


def test_the_agents_of_the_claim_are_on_a_par():
    """All learn as long, of batches as large, for the same rewards and horizon, but for what a method leaves out."""
    plan = planned(FOLDER / "claim_agents.yaml")
    job = plan.job
    assert len(job.tasks) >= 4
    configs = {run: plan.config(run) for run in job.runs()}
    assert len({(one.data.batch, one.data.reward_bias, one.data.failure_reward) for one in configs.values()}) == 1
    assert len({(one.evaluate_every, one.evaluation_episodes) for one in configs.values()}) == 1
    assert len({gamma_of(one.agent) for one in configs.values()}) == 1
    for one in configs.values():
        assert not isinstance(one, OOOConfig) or gamma_of(one.retrain.agent) == gamma_of(one.agent)
    lengths = {run.method: (one.offline_updates, one.online_steps) for run, one in configs.items()}
    offline, online = lengths["calql"]
    for method, length in lengths.items():
        assert length == (0 if method == "sac" else offline, online)
    assert {one.imitation_updates for run, one in configs.items() if run.method.startswith("parl")} == {offline}
    compared = job.comparisons["encoders"]
    assert {configs[Run(task, "calql", name)].encoder.mode for task in job.tasks for name in compared.encoders} == {
        *("frozen", "finetune")
    }


def test_a_run_takes_settings_from_all_around_it(tmp_path):
    plan = Plan(read(tmp_path, JOB), tmp_path, GIVEN)
    config = plan.config(Run("pole", "calql", "vie"))
    assert (config.data.batch, config.offline_updates, config.online_steps) == (8, 7, 30)
    assert (config.environment.name, config.environment.size) == ("gym:Pendulum-v1", 32)
    assert (config.environment.max_steps, config.environment.state) == (9, ["state"])
    assert config.environment.arguments == {"g": 1e-05}
    assert (config.encoder.source, config.encoder.mode) == ("MINE", "frozen")
    assert config.agent.algorithm == "calql"
    command = plan.works([2])["seed2/pole/calql/vie"].make()
    assert command[3:5] == ["train", "--config=calql"]
    assert {"seed=2", f"run={tmp_path}/seed2/pole/calql/vie"} <= set(command)
    assert config.dataset == f"{tmp_path}/data/pole/episodes"
    assert plan.config(Run("pole", "sac", "vie")).dataset == ""
    assert plan.config(Run("door", "calql", "scratch")).dataset == "DEMOS"
    assert plan.config(Run("door", "calql", "scratch")).encoder.mode == "finetune"
    assert plan.config(Run("door", "calql", "scratch")).environment.max_steps is None


def test_a_run_of_several_comparisons_is_carried_out_once_and_after_its_data(tmp_path):
    works = Plan(read(tmp_path, JOB), tmp_path, GIVEN).works([4, 5])
    names = ["pole/calql/vie", "pole/sac/vie", "pole/ooo/vie", "pole/calql/scratch"]
    names += ["door/calql/vie", "door/calql/scratch"]
    assert list(works) == ["data/pole", *(f"seed{seed}/{name}" for seed in (4, 5) for name in names)]
    assert [list(works[f"seed4/{name}"].needs) for name in names] == [["data/pole"], [], *[["data/pole"]] * 2, [], []]
    collect = works["data/pole"].make()
    assert collect[3:5] == ["collect", "gym:Pendulum-v1"]
    assert {"--episodes=4", "--size=32", "--max-steps=9", "--policy=random", "--reward=task", "g=1e-05"} <= set(collect)
    ooo = works["seed4/pole/ooo/vie"]
    assert ooo.make()[3:5] == ["ooo", "--config=ooo"]
    assert ooo.to_make["settings"]["retrain.at"] == [20]


def test_what_a_run_is_asked_for_holds_contents_and_no_folders(tmp_path):
    encoder = tmp_path / "mine"
    encoder.mkdir()
    (encoder / "model.safetensors").write_bytes(b"one")
    job, run = read(tmp_path, JOB), "seed0/door/calql/vie"

    def asked(out: str, path: Path) -> dict:
        return Plan(job, tmp_path / out, {"mine": str(path), "demos": "minari:door"}).works([0])[run].to_make

    before = asked("a", encoder)
    assert before["data"] == "minari:door"
    assert str(tmp_path) not in str(before)
    moved = encoder.rename(tmp_path / "moved")
    assert asked("b", moved) == before
    (moved / "model.safetensors").write_bytes(b"two")
    assert asked("b", moved) != before


def test_recordings_are_replayed_from_where_they_lie(tmp_path):
    (tmp_path / "demos.npz").write_bytes(b"one")
    job = read(tmp_path, changed("tasks.pole.collect", {"policy": "replay:demos", "noise": 0.1, "parallel": 2}))
    work = Plan(job, tmp_path, {**GIVEN, "demos": str(tmp_path / "demos.npz")}).works([0])["data/pole"]
    assert {f"--policy=replay:{tmp_path}/demos.npz", "--noise=0.1", "--parallel=2"} <= set(work.make())
    assert work.to_make["recordings"] == digest(str(tmp_path / "demos.npz"))
    assert str(tmp_path) not in str(work.to_make)
    assert "parallel" not in work.to_make


def test_a_digest_is_of_names_and_contents(tmp_path):
    assert digest("timm:resnet18") == "timm:resnet18"
    (tmp_path / "a").write_text("x")
    first = digest(str(tmp_path))
    assert digest(str(tmp_path / "a")) not in (first, "x")
    (tmp_path / "a").rename(tmp_path / "b")
    assert digest(str(tmp_path)) != first


def test_a_run_may_become_longer_and_nothing_else(tmp_path):
    def work(content: dict[str, Any], name: str = "calql"):
        content["comparisons"] = {"one": {"tasks": ["pole"], "methods": [name], "encoders": ["vie"]}}
        return Plan(read(tmp_path, content), tmp_path, GIVEN).works([0])[f"seed0/pole/{name}/vie"]

    begun, retrained = work(copy.deepcopy(JOB)).to_make, work(copy.deepcopy(JOB), "ooo").to_make
    other = work(changed("settings", ["data.batch=9", "online_steps=20"]))
    other.follows(begun)  # nothing has come of it yet
    other.folder.mkdir(parents=True)
    (other.folder / "config.yaml").touch()
    with pytest.raises(VieError, match=r"begun with settings\.data\.batch=8, not 9: delete its folder to train it"):
        other.follows(begun)
    work(changed("methods.calql.settings", ["online_steps=50"])).follows(begun)
    with pytest.raises(VieError, match=r"settings\.online_steps=30, not 25"):
        work(changed("methods.calql.settings", ["online_steps=25"])).follows(begun)
    with pytest.raises(VieError, match=r"settings\.encoder\.size=the default, not 64"):
        work(changed("encoders.vie", {"source": "mine", "settings": ["encoder.size=64"]})).follows(begun)
    with pytest.raises(VieError, match=r"data\.episodes=4, not 5"):
        work(changed("tasks.pole.collect", {"policy": "random", "episodes": 5})).follows(begun)
    # What is retrained is retrained at steps of a run of that length.
    explored = work(changed("settings", ["data.batch=8", "online_steps=40"]), "ooo")
    (explored.folder / "explore").mkdir(parents=True)
    (explored.folder / "explore" / "config.yaml").touch()
    with pytest.raises(VieError, match=r"settings\.online_steps=20, not 40"):
        explored.follows(retrained)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("- a", "is no job of agents: give tasks, encoders, methods, comparisons, as benchmarks/small_agents.yaml"),
        ("tasks: [", "cannot be read as YAML"),
        (changed("methods"), "is no job of agents"),
        (changed("givn", {}), "has no part 'givn': did you mean 'given'?"),
        (changed("tasks", {}), "the job has no tasks: give some, by name"),
        (changed("tasks.a/b", {}), "tasks: 'a/b' cannot name a folder: use letters, digits and . + - _"),
        (changed("tasks.pole", "text"), "tasks.pole is 'text': give keys and values"),
        (changed("tasks.pole.environment"), "tasks.pole lacks environment: give it"),
        (changed("tasks.pole.sise", 3), "tasks.pole takes no 'sise': did you mean 'size'?"),
        (changed("tasks.pole.size", "big"), "tasks.pole: "),
        (changed("tasks.pole.collect", {"episods": 3}), "tasks.pole: "),
        (changed("tasks.pole.data", "demos"), "tasks.pole has two datasets: give collect to make one, or data"),
        (
            changed("tasks.door.data", "demo"),
            "tasks.door takes data that is not among given, 'demo': did you mean 'demos'",
        ),
        (changed("tasks.door.data"), "calql learns offline, and door has no data: give the task collect or data, or"),
        (
            changed("tasks.pole.collect", {"policy": "replay:demo"}),
            "tasks.pole replays what is not among given, 'demo': did you mean 'demos'",
        ),
        (changed("tasks.pole.returns"), "tasks.pole is scored by return: give returns="),
        (changed("tasks.pole.score", "success"), "tasks.pole is scored by success: give returns="),
        (changed("tasks.pole.returns", [0, -5]), "tasks.pole has returns from 0 to -5: give [least, most]"),
        (changed("methods.calql.command", "trian"), "methods.calql: "),
        (
            changed("comparisons.methods.methods", []),
            "comparisons.methods compares nothing: give it methods and encoders",
        ),
        (changed("comparisons.methods.encoders", ["vi"]), "names encoders, not 'vi': did you mean 'vie'?"),
        (changed("comparisons.methods.tasks", ["hole"]), "names tasks, not 'hole': did you mean 'pole'?"),
    ],
)
def test_malformed_jobs_are_refused_by_name(tmp_path, content, told):
    with pytest.raises(VieError, match=re.escape(told)) as error:
        read(tmp_path, content)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "given", "told"),
    [
        (JOB, {"mine": "M"}, "job asks for demos (demonstrations): give it as --given demos=PATH"),
        (JOB, {**GIVEN, "yours": "Y"}, "job asks for no yours: it asks for mine, demos"),
        (changed("settings", ["data.bach=1"]), GIVEN, "job, pole/calql/vie: the command line sets 'data.bach'"),
        (changed("settings", ["environment.size=8"]), GIVEN, "pole/calql/vie: environment.size is no setting of a job"),
        (
            changed("methods.sac.recipes", ["sack"]),
            GIVEN,
            "pole/sac/vie: there is no recipe 'sack': did you mean 'sac'",
        ),
        (changed("methods.calql.settings", ["retrain.at=[1]"]), GIVEN, "pole/calql/vie: the command line sets"),
    ],
)
def test_a_slip_in_any_run_is_told_before_the_first_begins(tmp_path, content, given, told):
    with pytest.raises(VieError, match=re.escape(told)):
        Plan(read(tmp_path, content), tmp_path, given).works([0])
