"""What stands for the processes of works."""

import subprocess
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import works

Run = Callable[..., "subprocess.CompletedProcess[Any]"]


def stand_in(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    """Carries commands out by a function, for works alone: others start processes too."""

    class Process:
        def __init__(self, command: list[str], **given: Any) -> None:
            self.status = run(command, **given).returncode

        def wait(self) -> int:
            return self.status

        def terminate(self) -> None:
            raise AssertionError("it is over")

    monkeypatch.setattr(works, "subprocess", SimpleNamespace(Popen=Process, STDOUT=subprocess.STDOUT))
