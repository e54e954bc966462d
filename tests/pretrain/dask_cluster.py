"""A Dask cluster for the tests: a scheduler and workers in processes of their own, as a lab starts them."""

import os
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PATIENCE = 120  # seconds until a test that waits has failed; a loaded machine is slow

# On the workers, the name of a video says what the decoder does with it.
TREACHEROUS = """
import importlib.machinery, importlib.util, os, signal, sys, time
from pathlib import Path
here = Path(__file__).parents[1]
spec = importlib.machinery.PathFinder.find_spec("decord", [path for path in sys.path if path != str(here)])
decord = importlib.util.module_from_spec(spec)
sys.modules["decord"] = decord
spec.loader.exec_module(decord)
Real = decord.VideoReader

class Treacherous(Real):
    def __init__(self, path, **options):
        path = Path(path)
        if "crash" in path.name:
            os.kill(os.getpid(), signal.SIGSEGV)
        if "hang" in path.name:
            while True:
                time.sleep(1)
        if "wait" in path.name:
            path.with_suffix(".reached").touch()
            while not path.with_suffix(".go").exists():
                time.sleep(0.02)
        super().__init__(str(path), **options)

decord.VideoReader = Treacherous
"""


def wait_until(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


class Cluster:
    """A scheduler and its workers, as a lab starts them.

    Without nannies nobody takes the place of a worker that died, which would import everything anew.
    """

    def __init__(self, folder, workers=0, allowed_failures=3, nannies=True):
        self.allowed_failures = allowed_failures
        self.nannies = [] if nannies else ["--no-nanny"]
        self.folder, self.address = folder, str(folder / "scheduler.json")
        (folder / "fake/decord").mkdir(parents=True)
        (folder / "fake/decord/__init__.py").write_text(TREACHEROUS)
        (folder / "without").mkdir()
        for package in ("vie", "pretrain"):  # goes before an installed one
            (folder / f"without/{package}.py").write_text(f"raise ModuleNotFoundError('No module named {package}')")
        self.paths = [str(folder / "fake"), str(REPOSITORY)]
        self.without_vie = [str(folder / "without")]
        self.processes = []
        self.start("scheduler", [], "--port=0", "--dashboard-address=:0", f"--scheduler-file={self.address}")
        wait_until(Path(self.address).exists)
        for _ in range(workers):
            self.add_worker(self.paths)

    def add_worker(self, paths):
        given = [f"--scheduler-file={self.address}", "--nthreads=1", "--no-dashboard", *self.nannies]
        return self.start("worker", paths, *given)

    def start(self, kind, paths, *arguments):
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        process = subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.dask_{kind}", *arguments],
            env=environment
            | {"PYTHONPATH": os.pathsep.join(paths)}
            | {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": str(self.allowed_failures)},
            cwd=self.folder,
            stderr=(self.folder / f"{kind}.log").open("a"),
        )
        self.processes.append(process)
        return process

    def __enter__(self):
        return self

    def __exit__(self, *_):
        scheduler, *workers = self.processes
        for processes in (workers, [scheduler]):  # a worker waits for a scheduler that is gone
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(PATIENCE)
