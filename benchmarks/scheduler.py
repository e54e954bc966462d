"""Jobs in processes of their own, several at a time, each on a GPU that is free, and after those that it needs."""

import os
import subprocess
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import Queue

import torch

from benchmarks.jobs import Command, Job

DONE = ".done"
"""Marks a run that need not be carried out again."""


def visible_gpus() -> list[str]:
    """Names of the GPUs that runs may use, as CUDA_VISIBLE_DEVICES takes them; one empty name if there is none."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return given.split(",")
    return [str(number) for number in range(torch.cuda.device_count())] or [""]


class Scheduler:
    """Carries out jobs over seeds."""

    def __init__(self, jobs: dict[str, Job], data: Path, out: Path, parallel: int) -> None:
        """Spreads ``parallel`` places over the GPUs."""
        self.jobs, self.data, self.out = jobs, data, out
        self.places: Queue[str] = Queue()
        gpus = visible_gpus()
        for number in range(parallel):
            self.places.put(gpus[number % len(gpus)])
        self.futures: dict[tuple[str, int], Future[str | None]] = {}

    def run(self, seeds: int) -> list[str]:
        """Carries out every job with every seed; returns what went wrong."""
        # A thread for each, as most of them wait: for the jobs that they need, or for a place.
        with ThreadPoolExecutor(max(1, len(self.jobs) * seeds)) as pool:
            for seed in range(seeds):
                for job in self.jobs.values():
                    self.futures[job.name, seed] = pool.submit(self._carry_out, job, seed)
            return [error for future in self.futures.values() if (error := future.result())]

    def _carry_out(self, job: Job, seed: int) -> str | None:
        """Returns what went wrong, if anything did."""
        run = job.run(self.out, seed)
        run.mkdir(parents=True, exist_ok=True)
        for needed in job.needs:
            if self.futures[needed, seed].result():
                return f"{run}: {needed}, which it needs, has failed"
        if (run / DONE).exists():
            return None
        place = self.places.get()
        try:
            error = self._call(job.making(self.jobs, self.data, self.out, seed), run, place)
            for command in [] if error else job.measuring(self.data, self.out, seed):
                error = error or self._call(command, run, place)
        finally:
            self.places.put(place)
        if error is None:
            (run / DONE).touch()
        return error

    def _call(self, command: Command, run: Path, place: str) -> str | None:
        with (run / "log.txt").open("a") as log:
            environment = {**os.environ, "CUDA_VISIBLE_DEVICES": place}
            done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment, check=False)
        return None if done.returncode == 0 else f"{run}: {(run / 'log.txt').read_text()[-300:]}"
