"""Training from shards through the real loader, as a share of the rate of the same step without one.

For each stream: the step alone on two batches that lie on the device (synthetic), the loader alone, and
``Trainer.train`` with both, as its own history tells, in local aggregation. JPEG frames are decoded by the workers (0),
by the device (1), or a share of every batch by the device.
"""

import gc
import statistics
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.speed.parts import CASES, IR_STEPS, Case, aggregate, open_trainer, synthetic_step
from benchmarks.speed.record import Job, Table, in_turns, medians, scratch, wait
from pretrain.data.feed import feed
from pretrain.train import Trainer
from vie.errors import VieError
from vie.history import read_history

SHARES = (0.0, 0.1, 0.25, 0.5, 1.0)
SCHEDULE = 92_800_000
"""Clips of the authors' 1,450,000 steps of 64 on Kinetics-400."""

WINDOWS = 8
COLUMNS = {
    **{"stream": "", "batch": "d", "workers": "d", "decoded on the device": ".2f", "synthetic, clips/s": ",.0f"},
    **{"loader alone": ",.0f", "end to end": ",.0f", "share, %": ".1f", "data, ms": ".2f", "host, ms": ".2f"},
    **{"device, ms": ".2f", "hours for 92.8 M clips": ".1f"},
}


def measure(job: Job) -> None:
    """Measures every stream under every share."""
    table = Table(job, "end-to-end", COLUMNS)
    seconds = 0.3 if job.quick else 10.0
    with scratch() as folder:
        for case in CASES:
            synthetic = None
            for share in SHARES:
                row = f"{case.name} {share}"
                if table.wants(row):
                    try:
                        synthetic = synthetic or _synthetic(case, job, Path(folder))
                        table.add(**_row(case, share, synthetic, job, Path(folder), seconds))
                    except (RuntimeError, VieError) as error:
                        table.skip(row, error)
                    gc.collect()


def _mode(job: Job) -> str:
    return f"runtime.mode={'compile+cuda_graph' if job.device.type == 'cuda' else 'eager'}"


def _synthetic(case: Case, job: Job, folder: Path) -> float:
    """Clips a second of the step alone."""
    trainer = open_trainer(case, job, folder, "synthetic", _mode(job))
    aggregate(trainer)
    step = synthetic_step(trainer)
    for _ in range(6):
        step()
    found = in_turns({"step": step}, job.device, *((0.1, 2) if job.quick else (1.0, 5)))
    return trainer.config.data.batch_size / medians(found)["step"]


def _row(case: Case, share: float, synthetic: float, job: Job, folder: Path, seconds: float) -> dict[str, Any]:
    batch = 8 if job.quick else case.batches[0]
    every = max(4, round(seconds * synthetic / batch / WINDOWS))
    trainer = open_trainer(
        case,
        job,
        folder,
        f"run-{case.name}-{share}",
        _mode(job),
        f"data.device_decode={share}",
        f"local_aggregation.steps={every * (WINDOWS + 2) - IR_STEPS}",
        f"monitor.log_every={every}",
    )
    loader = _loader_alone(trainer, seconds / 2)
    trainer.train()
    # The first windows hold compilations, the clustering and the start of the workers.
    rows = [row for row in read_history(trainer.run) if "clips_per_s" in row][-(WINDOWS - 2) :]

    def per_step(name: str) -> float | None:
        return 1000 * statistics.median(row[name] for row in rows) / every if name in rows[0] else None

    rate = statistics.median(row["clips_per_s"] for row in rows)
    return {
        "stream": case.name,
        "batch": trainer.config.data.batch_size,
        "workers": trainer.config.data.workers,
        "decoded on the device": share,
        "synthetic, clips/s": synthetic,
        "loader alone": loader,
        "end to end": rate,
        "share, %": 100 * rate / synthetic,
        "data, ms": per_step("data_s"),
        "host, ms": per_step("host_s"),
        "device, ms": per_step("device_s"),
        "hours for 92.8 M clips": SCHEDULE / rate / 3600,
        "windows, clips/s": [row["clips_per_s"] for row in rows],
    }


def _loader_alone(trainer: Trainer, seconds: float) -> float:
    """Clips a second that reach the device when nothing is done with them."""
    device, clips = trainer.device, 0
    with closing(feed(trainer.clips, range(10**6), trainer.config.data, device)) as batches:
        for _ in range(20 if seconds > 1 else 2):  # what the workers have made while they were waited for
            next(batches)
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            clips += len(next(batches).instances)
        wait(device)
        return clips / (time.perf_counter() - began)
