"""The whole training step as the trainer takes it: augmentation, network, objective over a bank of 240,000, SGD.

Two batches take turns on the device, so that no loader is measured. A part's share is what the step is shorter by
without it. The baseline is the same trunk with PyTorch's own convolutions in eager autocast without channels last,
forward, backward and SGD on clips that are finished: without augmentation, bank and objective.
"""

import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed.corpus import synthetic_corpus
from benchmarks.speed.parts import (
    CASES,
    Case,
    NoBank,
    aggregate,
    finished_clips,
    open_trainer,
    replaced,
    synthetic_step,
    use_plain_layers,
)
from benchmarks.speed.record import Job, Row, Table, in_turns, medians, scratch, wait
from benchmarks.speed.side_by_side import side_by_side
from pretrain.train import Trainer
from vie.errors import VieError

MODES = ("compile", "compile+cuda_graph", "cuda_graph", "eager")
COLUMNS = {
    **dict.fromkeys(("stream", "mode"), ""),
    **{"batch": "d", "clips/s": ",.0f", "ms": ".2f", "ms in IR": ".2f", "bank and LA, %": ".1f"},
    **{"bank and IR, %": ".1f", "augmentation, %": ".1f", "host, ms": ".2f", "device, ms": ".2f", "peak, GB": ".1f"},
    **{"waits a step": ".1f", "baseline, clips/s": ",.0f", "ratio": ".2f"},
}
WARM_UP = 6


@dataclass(frozen=True)
class Task:
    """A row."""

    case: Case
    mode: str
    batch: int

    @property
    def name(self) -> str:
        return f"{self.case.name} {self.mode} {self.batch}"


def measure(job: Job) -> None:
    """Measures every stream, mode and batch."""
    table = Table(job, "full-step", COLUMNS)
    # What eager mode loses to the others is the same at any batch.
    tasks = [
        Task(case, mode, batch)
        for mode in (MODES if job.device.type == "cuda" else ("eager",))
        for case in CASES
        for batch in ((8,) if job.quick else case.batches[:1] if mode == "eager" else case.batches)
    ]
    with scratch() as folder:
        for case in CASES:
            if any(job.only in task.name for task in tasks if task.case is case):
                synthetic_corpus(case.short_side, job)  # once, before there are several processes
        wanted = (task for task in tasks if table.wants(task.name))
        for task, found in side_by_side(partial(_make_ready, job, Path(folder)), wanted, job.at_once):
            if isinstance(found, str):
                table.skip(task.name, found)
            else:
                table.add(**found)


def _make_ready(job: Job, folder: Path, task: Task) -> Callable[[], Row]:
    settings = (f"data.batch_size={task.batch}", f"runtime.mode={task.mode}")
    trainer = open_trainer(task.case, job, folder, f"run-{task.name.replace(' ', '-')}", *settings)
    step = synthetic_step(trainer)
    _warm_up(step)
    aggregate(trainer)
    _warm_up(step)

    def measure_row() -> Row:
        result = _step(trainer, step, job)
        baseline = _baseline(task.case, task.batch, job, folder)
        ratio = result["clips/s"] / baseline if baseline else None
        own = {"stream": task.case.name, "mode": task.mode, "batch": task.batch, "at once": job.at_once}
        return {**own, **result, "baseline, clips/s": baseline, "ratio": ratio}

    return measure_row


def _step(trainer: Trainer, step: Callable[[], object], job: Job) -> dict[str, Any]:
    batch = trainer.config.data.batch_size

    def changed(**parts: object) -> Callable[[], None]:
        def take() -> None:
            with replaced(trainer, **parts):
                step()

        take()
        return take

    ways = {
        "la": step,
        "ir": changed(step=0),
        "no bank": changed(method=NoBank(trainer.method.network)),
        "no augmentation": changed(apply=finished_clips(trainer)),
    }
    found = in_turns(ways, job.device, *((0.1, 2) if job.quick else (0.5, 5)))
    ms = {name: 1000 * seconds for name, seconds in medians(found).items()}
    on_gpu = _on_gpu(step, job.device) if job.device.type == "cuda" else {}
    return {
        "clips/s": 1000 * batch / ms["la"],
        "ms": ms["la"],
        "ms in IR": ms["ir"],
        "bank and LA, %": 100 * (1 - ms["no bank"] / ms["la"]),
        "bank and IR, %": 100 * (1 - ms["no bank"] / ms["ir"]),
        "augmentation, %": 100 * (1 - ms["no augmentation"] / ms["la"]),
        "all_ms": {name: [1000 * value for value in values] for name, values in found.items()},
        **on_gpu,
    }


def _on_gpu(step: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Host and device milliseconds, peak memory and waits of a step."""
    host, busy = [], []
    for _ in range(5):
        wait(device)
        began = time.perf_counter()
        step()
        host.append(1000 * (time.perf_counter() - began))
    for _ in range(3):
        # The device sleeps while the host queues the step behind it, so that it never waits for the host.
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        torch.cuda._sleep(400_000_000)
        events[0].record()
        step()
        events[1].record()
        wait(device)
        busy.append(events[0].elapsed_time(events[1]))
    torch.cuda.reset_peak_memory_stats(device)
    step()
    wait(device)
    return {
        "host, ms": statistics.median(host),
        "device, ms": statistics.median(busy),
        "peak, GB": torch.cuda.max_memory_allocated(device) / 1e9,
        "waits a step": count_waits(step),
    }


def count_waits(step: Callable[[], object], steps: int = 3) -> float:
    """How often a step makes the host wait for the device, as PyTorch tells."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(steps):
                step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught) / steps


def _baseline(case: Case, batch: int, job: Job, folder: Path) -> float | None:
    """Clips a second of the trunk alone in eager autocast; None where it does not fit beside all that is ready."""
    settings = (f"data.batch_size={batch}", "runtime.mode=eager", "runtime.channels_last=false")
    try:
        trainer = open_trainer(case, job, folder, "run", *settings)
        use_plain_layers(trainer.method.network)
        step = synthetic_step(trainer)
        with replaced(trainer, method=NoBank(trainer.method.network), apply=finished_clips(trainer)):
            step()
            step()
            found = in_turns({"baseline": step}, job.device, *((0.1, 2) if job.quick else (0.7, 3)))
        return batch / medians(found)["baseline"]
    except (RuntimeError, VieError) as error:
        print(f"(no baseline of {case.name} at {batch}: {str(error).splitlines()[0]})", flush=True)
        return None


def _warm_up(step: Callable[[], object]) -> None:
    for _ in range(WARM_UP):
        step()
