"""Jobs in processes of their own, several at a time, each on a GPU that is free, and after those that it needs."""

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import Queue

import torch

from benchmarks.jobs import Asked, Command, Job
from vie import VieError
from vie.files import write_text_atomically

DONE = "done.json"
"""What a run's commands were asked for that need not be carried out again."""


def visible_gpus() -> list[str]:
    """Names of the GPUs that runs may use, as CUDA_VISIBLE_DEVICES takes them; one empty name if there is none."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return given.split(",")
    return [str(number) for number in range(torch.cuda.device_count())] or [""]


class Scheduler:
    """Carries out jobs over seeds: whatever of them has not been carried out, or is asked for otherwise by now."""

    def __init__(self, jobs: dict[str, Job], data: Path, out: Path, parallel: int) -> None:
        """Spreads ``parallel`` places over the GPUs.

        Raises:
            VieError: There is no place, or a job's recipes, tasks or settings are wrong.
        """
        if parallel < 1:
            raise VieError(f"{parallel} runs at a time are none: give at least 1")
        self.jobs, self.data, self.out = jobs, data, out
        self.places: Queue[str] = Queue()
        gpus = visible_gpus()
        for number in range(parallel):
            self.places.put(gpus[number % len(gpus)])
        self.asked: dict[str, tuple[Asked, list[Asked]]] = {}
        # Before anything starts, so that a slip in the last job is told now and not after hours.
        for name, job in jobs.items():
            try:
                self.asked[name] = job.to_make(jobs), job.to_measure()
            except VieError as error:
                raise VieError(f"{name}: {error}") from error
        self.futures: dict[tuple[str, int], Future[None]] = {}

    def run(self, seeds: Sequence[int]) -> list[str]:
        """Carries out every job with every seed; returns what went wrong, a job that needs a failed one included."""
        # A thread for each, as most of them wait: for the jobs that they need, or for a place.
        with ThreadPoolExecutor(max(1, len(self.jobs) * len(seeds))) as pool:
            for seed in seeds:
                for job in self.jobs.values():
                    self.futures[job.name, seed] = pool.submit(self._carry_out, job, seed)
        return [
            f"{self.jobs[name].run(self.out, seed)}: {error if isinstance(error, VieError) else repr(error)}"
            for (name, seed), future in self.futures.items()
            if (error := future.exception())
        ]

    def _carry_out(self, job: Job, seed: int) -> None:
        for needed in job.needs:
            if self.futures[needed, seed].exception():
                raise VieError(f"{needed}, which it needs, has failed")
        run = job.run(self.out, seed)
        to_make, to_measure = self.asked[job.name]
        done = json.loads((run / DONE).read_text()) if (run / DONE).exists() else {"made": None, "measured": []}
        if done["made"] == to_make and all(asked in done["measured"] for asked in to_measure):
            return
        if job.start and done["made"] and done["made"]["start"] != to_make["start"]:
            # The trainer cannot see it: the encoder that it began from has the same path as before.
            raise VieError(f"{job.start} is not what it began from any more: delete the folder to train it again")
        run.mkdir(parents=True, exist_ok=True)
        with self._place() as place:
            if done["made"] != to_make:
                _call(job.making(self.jobs, self.data, self.out, seed), run, place)
                done = {"made": to_make, "measured": []}
                write_text_atomically(run / DONE, json.dumps(done))
            for asked, command in zip(to_measure, job.measuring(self.data, self.out, seed), strict=True):
                if asked not in done["measured"]:
                    _call(command, run, place)
                    done["measured"].append(asked)
                    write_text_atomically(run / DONE, json.dumps(done))

    @contextmanager
    def _place(self) -> Iterator[str]:
        place = self.places.get()
        try:
            yield place
        finally:
            self.places.put(place)


def _call(command: Command, run: Path, place: str) -> None:
    with (run / "log.txt").open("a") as log:
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": place}
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment, check=False)
    if done.returncode:
        raise VieError((run / "log.txt").read_text()[-300:])
