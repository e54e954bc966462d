"""A config can name values, not code: nothing that a recipe, a task, jobs or an override asks for is run."""

from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from benchmarks.jobs import read_jobs
from benchmarks.transfer.config import parse_task
from pretrain.settings import parse_config
from vie import VieError
from vie.settings import flatten

CALLS = {
    "a call": "!!python/object/apply:os.system ['touch TRACE']",
    "an object": "!!python/object/new:subprocess.Popen [[touch, TRACE]]",
    "a name": "!!python/name:os.system",
    "a module": "!!python/module:os",
}
AS_VALUES = {
    "a class to build": "{class_path: subprocess.Popen, init_args: {args: [touch, TRACE]}}",
    "a target": "{_target_: subprocess.Popen, args: [touch, TRACE]}",
}


def written(tmp_path: Path, text: str) -> Path:
    (tmp_path / "hostile.yaml").write_text(text.replace("TRACE", str(tmp_path / "trace")))
    return tmp_path / "hostile.yaml"


@pytest.mark.parametrize("kind", [*CALLS, *AS_VALUES])
@pytest.mark.parametrize("key", ["seed", "model.name", "data.path", "optim.drops", "model"])
def test_recipes(tmp_path, kind, key, table):
    text = {**CALLS, **AS_VALUES}[kind]
    group, _, name = key.rpartition(".")
    file = written(tmp_path, f"{group}:\n  {name}: {text}\n" if group else f"{name}: {text}\n")
    with pytest.raises(VieError) as caught:
        parse_config([file])
    assert "\n" not in str(caught.value)
    override = text.replace("TRACE", str(tmp_path / "trace"))
    if key in ("model.name", "data.path"):  # a word like any other
        assert flatten(asdict(parse_config([], [f"{key}={override}"])))[key] == override
    else:
        with pytest.raises(VieError):
            parse_config([], [f"{key}={override}"])
    assert not (tmp_path / "trace").exists()
    if key == "optim.drops":
        table("jobs", fault=f"config: {kind} as a value", outcome="refused, and nothing was run")


@pytest.mark.parametrize("kind", [*CALLS, *AS_VALUES])
def test_tasks_and_jobs(tmp_path, kind):
    text = {**CALLS, **AS_VALUES}[kind]
    with pytest.raises(VieError):
        parse_task(str(written(tmp_path, f"data:\n  batch_size: {text}\n")), [])
    jobs = written(tmp_path, f"one:\n  corpus: here\n  settings: {text}\n")
    if kind in CALLS:
        with pytest.raises(VieError, match="cannot be read as YAML"):
            read_jobs(jobs)
    else:  # words like any others, until the job's settings are read
        assert isinstance(read_jobs(jobs)["one"].settings, dict)
    assert not (tmp_path / "trace").exists()


def test_the_texts_are_live(tmp_path):
    """By a loader that does run them."""
    yaml.unsafe_load(written(tmp_path, CALLS["a call"]).read_text())
    assert (tmp_path / "trace").exists()
