"""Datasets that grow by whole episodes, and go on where they were stopped."""

import json
import multiprocessing
import signal
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gymnasium")
minari = pytest.importorskip("minari")
from rl_encoders.cli import main  # noqa: E402
from rl_encoders.collect import collect  # noqa: E402
from rl_encoders.datasets import open_dataset  # noqa: E402
from rl_encoders.demonstrators import Plan, make_policy, random_actions  # noqa: E402
from rl_encoders.environments import make_environment  # noqa: E402
from rl_encoders.rollout import run_episode  # noqa: E402
from rl_encoders.trajectories import MinariWriter, open_trajectories  # noqa: E402
from tests.rl_encoders.faulty import NAME  # noqa: E402
from tests.rl_encoders.rendering import need_environment  # noqa: E402
from vie import VieError  # noqa: E402

ROOT = Path(__file__).parents[2]
LABEL = {"policy": "random", "noise": 0.0}


def same(one, two):
    assert (one.terminal, list(one.observations)) == (two.terminal, list(two.observations))
    np.testing.assert_array_equal(one.actions, two.actions)
    np.testing.assert_array_equal(one.rewards, two.rewards)
    for name, values in one.observations.items():
        np.testing.assert_array_equal(values, two.observations[name])
        assert values.dtype == two.observations[name].dtype


def test_a_dataset_holds_what_happened_and_says_what_it_is(tmp_path):
    environment = make_environment(NAME, seed=5, size=40)
    kept = []

    def policy(environment, number, seed):
        act = random_actions(environment, seed)
        kept.append([])
        return Plan(lambda seen: kept[-1].append(act(seen)) or kept[-1][-1])

    report = collect([environment], policy, 2, tmp_path / "set", LABEL)
    assert (report.episodes, report.steps, report.successes, report.failed) == (2, 12, 2, {})
    found = list(open_trajectories(str(tmp_path / "set")))
    data = minari.MinariDataset(tmp_path / "set/data")
    for trajectory, actions, episode in zip(found, kept, data.storage.get_episode_metadata(range(2)), strict=True):
        trajectory.check(environment.space)
        again = iter(actions)
        same(trajectory, run_episode(environment, lambda seen, a=again: next(a), "again", episode["seed"]).trajectory)
    environment.close()
    metadata = json.loads((tmp_path / "set/data/metadata.json").read_text())
    assert metadata["algorithm_name"] == "random"
    assert metadata["vie_rl"]["environment"] == NAME
    assert metadata["vie_rl"]["seed"] == 5
    assert "gymnasium" in metadata["vie_rl"]["versions"]
    encoded = open_dataset(str(tmp_path / "set"))
    assert encoded.cameras == ("pixels",)
    np.testing.assert_array_equal(next(iter(encoded)).cameras["pixels"]().numpy(), found[0].observations["pixels"])


def test_a_folder_named_from_where_one_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["collect", NAME, "--episodes", "2", "--size", "40", "--out", "some/set"])
    main(["collect", NAME, "--episodes", "3", "--size", "40", "--out", "some/set"])
    assert len(list(open_trajectories("some/set"))) == 3


def test_stopped_and_continued_is_the_same_dataset(tmp_path):
    environment = make_environment(NAME, size=40)
    policy = make_policy(environment, "random")
    for episodes in (1, 3):
        collect([environment], policy, episodes, tmp_path / "parts", LABEL)
    # An episode that was moved into place before the dataset counted it.
    (tmp_path / "whole/data/1").mkdir(parents=True)
    (tmp_path / "whole/data/1/part-0.arrow").write_bytes(b"half")
    collect([environment], policy, 1, tmp_path / "other", LABEL)
    (tmp_path / "other/data").joinpath("metadata.json").rename(tmp_path / "whole/data/metadata.json")
    (tmp_path / "other/data/0").rename(tmp_path / "whole/data/0")
    collect([environment], policy, 3, tmp_path / "whole", LABEL)
    environment.close()
    parts, whole = (list(open_trajectories(str(tmp_path / name))) for name in ("parts", "whole"))
    assert len(parts) == 3
    for one, two in zip(parts, whole, strict=True):
        same(one, two)


def test_several_at_once_make_the_same_dataset(tmp_path):
    faults = {"fault": "raises", "share": 0.3}
    environments = [make_environment(NAME, size=40, arguments=faults) for _ in range(3)]
    policy = make_policy(environments[0], "random")
    one = collect(environments[:1], policy, 7, tmp_path / "one", LABEL)
    collect(environments, policy, 2, tmp_path / "three", LABEL)
    three = collect(environments, policy, 7, tmp_path / "three", LABEL)
    for environment in environments:
        environment.close()
    assert (one.episodes, one.steps) == (three.episodes, three.steps) == (7, 70)
    found = [list(open_trajectories(str(tmp_path / name))) for name in ("one", "three")]
    for mine, theirs in zip(*found, strict=True):
        same(mine, theirs)


def test_two_commands_cannot_fill_one_dataset(tmp_path):
    environment = make_environment(NAME, size=40)
    writer = MinariWriter(tmp_path / "set", environment.space, {})
    with pytest.raises(VieError, match=r"another process writes into .*set: wait for it, or give another folder"):
        collect([environment], make_policy(environment, "random"), 1, tmp_path / "set", LABEL)
    writer.close()
    environment.close()


def test_episodes_that_fail_cost_no_others(tmp_path, caplog):
    environment = make_environment(NAME, size=40, arguments={"fault": "raises", "share": 0.3})
    report = collect([environment], make_policy(environment, "random"), 5, tmp_path, LABEL)
    environment.close()
    assert report.episodes == len(list(open_trajectories(str(tmp_path)))) == 5
    assert report.failed
    for name, reason in report.failed.items():
        assert reason.startswith(f"{name}, step 2: {NAME} raised ZeroDivisionError")
        assert name in caplog.text
    broken = make_environment(NAME, size=40, arguments={"fault": "raises"})
    with pytest.raises(VieError, match=r"3 episodes on end failed \(episode 2, step 2.*0 are in"):
        collect([broken], make_policy(broken, "random"), 5, tmp_path / "none", LABEL)
    broken.close()


def test_a_policy_that_fails_is_an_episode_that_fails_and_costs_none_beside_it(tmp_path):
    environments = [make_environment(NAME, size=40) for _ in range(6)]
    random = make_policy(environments[0], "random")

    def policy(environment, number, seed):
        plan = random(environment, number, seed)

        def act(seen):
            if number < 3:
                raise VieError("the way is lost")
            return plan.act(seen)

        return Plan(act)

    with pytest.raises(VieError, match=r"3 episodes on end failed \(episode 2, step 0: the way is lost\); 3 are in"):
        collect(environments, policy, 9, tmp_path, LABEL)
    assert len(list(open_trajectories(str(tmp_path)))) == 3
    report = collect(environments, policy, 9, tmp_path, LABEL)  # goes on after those that failed
    assert (report.episodes, report.failed) == (9, {})
    for environment in environments:
        environment.close()


def test_a_killed_command_goes_on(tmp_path, capsys):
    out = tmp_path / "set"
    command = ["collect", NAME, "--episodes", "40", "--out", str(out)]
    # From the server of forks: it shares no more with this process than one of its own, and has its imports.
    process = multiprocessing.get_context("forkserver").Process(target=main, args=(command,))
    process.start()
    while process.is_alive():
        if (out / "data/4").exists():
            process.kill()
            break
        time.sleep(0.005)
    process.join()
    assert process.exitcode == -signal.SIGKILL, "the command ended before it could be killed"
    assert 4 <= len(list(open_trajectories(str(out)))) < 40
    main(command)
    assert "40 episodes of 240 steps" in capsys.readouterr().out
    assert len(list(open_trajectories(str(out)))) == 40


def test_mistakes_are_named(tmp_path, capsys):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.txt").write_text("mine")
    main(["collect", NAME, "--episodes", "1", "--out", str(tmp_path / "set")])
    for arguments, message in (
        (["--out", str(tmp_path / "other")], "holds something else"),
        (["--out", str(tmp_path / "set"), "--seed", "1"], "was collected with seed=0 and not 1"),
        (["--out", str(tmp_path / "new"), "--policy", "scripted"], "has no policy 'scripted': it has random"),
        (["--out", str(tmp_path / "new"), "what"], "unknown argument what"),
    ):
        with pytest.raises(SystemExit):
            main(["collect", NAME, "--episodes", "2", *arguments])
        assert message in capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("name", "policy", "package"),
    [
        ("robotics:PointMaze_UMaze-v3", "waypoint", "gymnasium_robotics"),
        ("robotics:PointMaze_Medium-v3", "waypoint", "gymnasium_robotics"),
        pytest.param("metaworld:reach-v3", "scripted", "metaworld", marks=pytest.mark.long),
        pytest.param("metaworld:door-open-v3", "scripted", "metaworld", marks=pytest.mark.long),
        pytest.param("ogbench:visual-cube-single-play-singletask-v0", "scripted", "ogbench", marks=pytest.mark.long),
    ],
)
def test_scripted_policies_do_their_tasks(name, policy, package, tmp_path):
    need_environment(name, package)
    environment = make_environment(name, size=32, reward="success")
    report = collect([environment], make_policy(environment, policy), 2, tmp_path, {"policy": policy})
    environment.close()
    assert report.successes == 2
    assert all(trajectory.terminal and trajectory.rewards[-1] == 1 for trajectory in open_trajectories(str(tmp_path)))
