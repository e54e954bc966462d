"""Real processes: what a user sees of a mistake is one line, and nothing half-written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import tiny_run

ROOT = Path(__file__).parents[2]
MISTAKES = {
    "misspelt key": (["optim.lrr=0.1"], "did you mean 'optim.lr'?"),
    "missing folder": (["data.path=nowhere"], "nowhere holds no prepared corpus"),
    "wrong label column": (["monitor.labels=[colour]"], "its label columns are shape, motion"),
    "too many clusters": (["local_aggregation.clusters=49"], "48 instances cannot make 49 clusters"),
}


@pytest.fixture(scope="module")
def outcomes(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, str, list[str]]]:
    """Exit status, output, errors and files left behind of each mistake; the processes run side by side."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    running = {}
    for name, (arguments, _) in MISTAKES.items():
        folder = tmp_path_factory.mktemp("cli")
        command = [sys.executable, "-m", "pretrain", "train", *tiny_run(tiny_corpus, Path("run")), *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        running[name] = folder, subprocess.Popen(command, cwd=folder, env=environment, text=True, **pipes)
    results = {}
    for name, (folder, process) in running.items():
        output, errors = process.communicate(timeout=120)
        results[name] = process.returncode, output, errors, sorted(os.listdir(folder))
    return results


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(outcomes, mistake):
    status, output, errors, files = outcomes[mistake]
    assert status == 1
    assert output == ""
    assert errors.startswith("vie-pretrain: ")
    assert errors.count("\n") == 1, errors
    assert errors.endswith("\n")
    assert MISTAKES[mistake][1] in errors
    assert files == []
