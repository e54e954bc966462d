"""The jobs of pretraining as works: each trained or joined, and measured, with every seed."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.jobs import Job
from benchmarks.works import Asked, Work, carry_out
from vie import VieError


class Scheduler:
    """Carries out jobs over seeds: whatever of them has not been carried out, or is asked for otherwise by now."""

    def __init__(self, jobs: dict[str, Job], data: Path, out: Path, parallel: int) -> None:
        """Spreads ``parallel`` places over the GPUs.

        Raises:
            VieError: A job's recipes, tasks or settings are wrong.
        """
        self.jobs, self.data, self.out, self.parallel = jobs, data, out, parallel
        self.asked: dict[str, tuple[Asked, list[Asked]]] = {}
        # Before anything starts, so that a slip in the last job is told now and not after hours.
        for name, job in jobs.items():
            try:
                self.asked[name] = job.to_make(jobs), job.to_measure()
            except VieError as error:
                raise VieError(f"{name}: {error}") from error

    def run(self, seeds: Sequence[int]) -> list[str]:
        """Carries out every job with every seed; returns what went wrong, a job that needs a failed one included.

        Raises:
            VieError: There is no place to work at.
        """
        works = {_key(name, seed): self._work(job, seed) for seed in seeds for name, job in self.jobs.items()}
        return [
            f"{works[key].folder}: {error if isinstance(error, VieError) else repr(error)}"
            for key, error in carry_out(works, self.parallel).items()
        ]

    def _work(self, job: Job, seed: int) -> Work:
        to_make, to_measure = self.asked[job.name]

        def follows(before: Asked) -> None:
            if job.start and before["start"] != to_make["start"]:
                # The trainer cannot see it: the encoder that it began from has the same path as before.
                raise VieError(f"{job.start} is not what it began from any more: delete the folder to train it again")

        return Work(
            job.name,
            job.run(self.out, seed),
            to_make,
            lambda: job.making(self.jobs, self.data, self.out, seed),
            [_key(needed, seed) for needed in job.needs],
            to_measure,
            lambda: job.measuring(self.data, self.out, seed),
            follows,
        )


def _key(name: str, seed: int) -> str:
    return f"seed{seed}/{name}"
