"""What all measurements of speed share: what they are asked, medians, the machine, a table that is kept row by row."""

import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    *("torch", "torchvision", "numpy", "faiss-cpu"),
    *("decord2", "decord", "torchcodec", "pytorchvideo", "av", "simplejpeg"),
)

Row = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """What a measurement is asked.

    Attributes:
        device: To measure on.
        out: Folder of the results; None keeps none.
        quick: Tiny sizes, to see that everything runs.
        only: Rows to measure: those whose name contains this.
        videos: Folder or listing of source videos; None writes synthetic ones.
        workers: Processes of a loader.
        deadline: On ``time.monotonic``; no row is begun after it.
        at_once: Rows that are made ready side by side, where that takes long.
        corpora: Folder of synthetic corpora, which all measurements share.
    """

    device: torch.device
    out: Path | None = None
    quick: bool = False
    only: str = ""
    videos: str | None = None
    workers: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    deadline: float = float("inf")
    corpora: Path | None = None
    at_once: int = 1


class Table:
    """Rows of one measurement, each printed and written as soon as it is known: what was measured is never lost."""

    def __init__(self, job: Job, name: str, columns: Mapping[str, str]) -> None:
        """Begins a table.

        Args:
            job: Says where it is kept.
            name: Of the measurement.
            columns: Format of each column's numbers, by its heading.
        """
        self.job = job
        self.name = name
        self.columns = dict(columns)
        self.rows: list[Row] = []
        self.skipped: dict[str, str] = {}
        self._machine = describe_machine(job.device)
        print(f"\n{_words(self._machine)}\n\n{self._heading()}", flush=True)

    def wants(self, row: str) -> bool:
        """Whether a row is asked for, and there is time left for it; says so if not."""
        if self.job.only not in row:
            return False
        if time.monotonic() > self.job.deadline:
            self.skip(row, "no time was left for it")
            return False
        return True

    def add(self, **row: Any) -> None:
        """Adds a row; keys that are no columns are kept in the JSON alone."""
        self.rows.append(row)
        print(self._line(row), flush=True)
        self._write()

    def skip(self, row: str, why: object) -> None:
        """Notes that a row could not be measured."""
        self.skipped[row] = (str(why).splitlines() or [type(why).__name__])[0][:300]
        print(f"({row} is left out: {self.skipped[row]})", flush=True)
        self._write()

    def markdown(self) -> str:
        """The table with the machine that it was measured on."""
        notes = [f"Left out: {row} ({why})." for row, why in self.skipped.items()]
        return "\n".join([_words(self._machine), "", self._heading(), *map(self._line, self.rows), "", *notes]).rstrip()

    def _heading(self) -> str:
        return f"| {' | '.join(self.columns)} |\n|{'---|' * len(self.columns)}"

    def _line(self, row: Row) -> str:
        cells = (
            "" if row.get(key) is None else format(row[key], spec if not isinstance(row[key], str) else "")
            for key, spec in self.columns.items()
        )
        return f"| {' | '.join(cells)} |"

    def _write(self) -> None:
        if self.job.out is None:
            return
        self.job.out.mkdir(parents=True, exist_ok=True)
        content = {
            "measurement": self.name,
            "quick": self.job.quick,
            "machine": self._machine,
            "rows": self.rows,
            "skipped": self.skipped,
        }
        (self.job.out / f"{self.name}.json").write_text(json.dumps(content, indent=2, default=str) + "\n")
        (self.job.out / f"{self.name}.md").write_text(self.markdown() + "\n")


def in_turns(
    ways: Mapping[str, Callable[[], object]], device: torch.device, seconds: float = 1.0, repeats: int = 5
) -> dict[str, list[float]]:
    """Seconds of a call of each way, the device's part included, one figure for each repeat.

    The ways take turns, so that a slow minute of the machine strikes all of them.

    Args:
        ways: Each is called once before it is timed, as its first call may compile or set the device up.
        device: That they run on.
        seconds: That one repeat of one way takes, about.
        repeats: Turns.
    """
    for way in ways.values():
        way()
    calls = {name: max(1, round(seconds / max(timed(way, device), 1e-6))) for name, way in ways.items()}
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            found[name].append(timed(way, device, calls[name]))
    return found


def medians(found: Mapping[str, list[float]]) -> dict[str, float]:
    """The median of each way."""
    return {name: statistics.median(values) for name, values in found.items()}


def timed(way: Callable[[], object], device: torch.device, calls: int = 1) -> float:
    """Wall-clock seconds of a call, of several on end; the device is waited for before and after them."""
    wait(device)
    began = time.perf_counter()
    for _ in range(calls):
        way()
    wait(device)
    return (time.perf_counter() - began) / calls


def wait(device: torch.device) -> None:
    """Waits until a device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def scratch() -> AbstractContextManager[str]:
    """A temporary folder, in memory where there is room for it."""
    memory = Path("/dev/shm")
    return tempfile.TemporaryDirectory(dir=memory if memory.is_dir() and _free(memory) > 2**33 else None)


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Processor, GPU, system and versions."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    on_gpu = device.type == "cuda"
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if on_gpu else None,
        "cuda": torch.version.cuda if on_gpu else None,
        "cudnn": torch.backends.cudnn.version() if on_gpu else None,
        "system": platform.platform(),
        "versions": versions,
    }


def _words(machine: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    gpu = f"{machine['gpu']} (CUDA {machine['cuda']}, cuDNN {machine['cudnn']}); " if machine["gpu"] else ""
    return f"{gpu}{machine['cores']} cores of {machine['cpu']}, {machine['threads']} threads; {versions}."


def _free(folder: Path) -> int:
    state = os.statvfs(folder)
    return state.f_bavail * state.f_frsize
