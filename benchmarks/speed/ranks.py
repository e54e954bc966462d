"""Whole jobs on one rank and on several: what they gain, and whether they learn the same.

The jobs are those that users run: ``torchrun -m pretrain train`` over NCCL where each rank has a GPU,
over gloo on a CPU.

- scaling: the Kinetics recipe of a stream, as many clips on every rank; clips a second of all ranks over those of one.
  On a CPU with a small network, small pictures and a bank of few clusters, one thread to each rank.
- agreement: the same global batches on one rank and on all, in float32, with batch norm over all ranks on GPUs. What
  differs is rounding; on a CPU batch norm sees each rank's own clips, which differ more.
"""

import os
import statistics
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from benchmarks.speed.corpus import synthetic_corpus
from benchmarks.speed.parts import CASES, TINY, Case
from benchmarks.speed.record import Job, Table, scratch
from vie.errors import VieError
from vie.history import read_history

WINDOWS = 8
SAME_STEPS = 20
SMALL_BANK = ("instance_recognition.noise=64", "local_aggregation.clusters=20", "local_aggregation.neighbours=64")
ON_A_CPU = (
    *("model.width=16", "data.size=64", "runtime.precision=fp32", "runtime.channels_last=false", *SMALL_BANK),
    # What is shared by all ranks of a machine would be told as a loss of theirs.
    *("runtime.threads=1", "data.workers=0"),
)
"""Where a rank is one core: a network and a bank that it has time for."""

SCALING = {
    **{"stream": "", "bank": "", "batch of a rank": "d", "ranks": "d", "clips/s": ",.0f", "efficiency, %": ".1f"},
}
AGREEMENT = {
    **{"objective": "", "bank": "", "ranks": "d", "steps": "d", "loss": ".4f", "largest difference of a loss": ".1e"},
    **{"of a weight": ".1e", "what a weight moved": ".1e"},
}


def measure(job: Job) -> None:
    """Measures both on all GPUs of this machine, or on two ranks of its CPU."""
    size = torch.cuda.device_count() if job.device.type == "cuda" else 2
    if size < 2:
        raise VieError("one GPU is here: several ranks need several GPUs, or --device cpu")
    with scratch() as name:
        folder = Path(name)
        _agreement(job, size, folder)
        _scaling(job, size, folder)


def _agreement(job: Job, size: int, folder: Path) -> None:
    table = Table(job, "ranks-agreement", AGREEMENT)
    for objective, ir_steps in (("ir", SAME_STEPS), ("la", SAME_STEPS // 4)):
        for layout in ("sharded", "replicated"):
            row = f"agreement {objective} {layout}"
            if not table.wants(row):
                continue
            settings = (
                *("model.width=8", "data.size=64", "data.batch_size=32", "runtime.precision=fp32", "optim.lr=0.01"),
                *("runtime.channels_last=false", *SMALL_BANK, f"bank.layout={layout}", "monitor.log_every=1"),
                f"runtime.sync_batch_norm={str(job.device.type == 'cuda').lower()}",
                f"instance_recognition.steps={ir_steps}",
                f"local_aggregation.steps={SAME_STEPS - ir_steps}",
            )
            try:
                runs = [_train(CASES[0], n, job, folder, f"{objective}-{layout}-{n}", *settings) for n in (1, size)]
                table.add(objective=objective, bank=layout, ranks=size, steps=SAME_STEPS, **_differences(*runs))
            except VieError as error:
                table.skip(row, error)


def _differences(one: Path, several: Path) -> dict[str, float]:
    losses, others = ([entry["loss"] for entry in read_history(run) if "loss" in entry] for run in (one, several))
    begun = load_file(one / "encoder-random" / "model.safetensors")
    last = sorted({path.name for path in one.glob("encoder-*")} - {"encoder-random"})[-1]
    ended, other = (load_file(run / last / "model.safetensors") for run in (one, several))

    def largest(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
        return max((a[name].double() - b[name].double()).abs().max().item() for name in a)

    return {
        "loss": losses[-1],
        "largest difference of a loss": max(abs(a - b) for a, b in zip(losses, others, strict=True)),
        "of a weight": largest(ended, other),
        "what a weight moved": largest(begun, ended),
    }


def _scaling(job: Job, size: int, folder: Path) -> None:
    table = Table(job, "ranks-scaling", SCALING)
    on_gpus = job.device.type == "cuda"
    every = 2 if job.quick else 40 if on_gpus else 5
    for case in CASES:
        for layout in ("sharded", "replicated"):
            row = f"scaling {case.name} {layout}"
            if not table.wants(row):
                continue
            batch = 8 if job.quick else case.batches[0] if on_gpus else 16
            single = None
            for ranks in (1, size):
                settings = (
                    f"data.workers={max(1, job.workers // size)}",
                    *(TINY if job.quick else () if on_gpus else ON_A_CPU),
                    f"data.batch_size={batch * ranks}",
                    f"bank.layout={layout}",
                    f"runtime.mode={'compile' if on_gpus else 'eager'}",
                    *("instance_recognition.steps=5", f"local_aggregation.steps={every * (WINDOWS + 2) - 5}"),
                    f"monitor.log_every={every}",
                )
                try:
                    run = _train(case, ranks, job, folder, f"{case.name}-{layout}-{ranks}", *settings)
                except VieError as error:
                    table.skip(f"{row} {ranks}", error)
                    break
                # The first windows hold compilations, the clustering and the start of the workers.
                windows = [entry["clips_per_s"] for entry in read_history(run) if "clips_per_s" in entry]
                rate = statistics.median(windows[-(WINDOWS - 2) :])
                single = single or rate
                table.add(
                    **{"stream": case.name, "bank": layout, "batch of a rank": batch, "ranks": ranks, "clips/s": rate},
                    **{"efficiency, %": 100 * rate / (ranks * single), "windows, clips/s": windows},
                )


def _train(case: Case, ranks: int, job: Job, folder: Path, name: str, *settings: str) -> Path:
    """Carries a run of ``vie-pretrain train`` out and returns its folder."""
    data = synthetic_corpus(case.short_side, job)
    torchrun = ("torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m") if ranks > 1 else ()
    common = (
        *("--config", case.recipe, f"data.path={data}", f"run={folder / name}", f"runtime.device={job.device.type}"),
        *("monitor.knn_every=0", "monitor.checkpoint_every=0", "monitor.evaluate_every=0"),
    )
    command = [sys.executable, "-m", *torchrun, "pretrain", "train", *common, *settings]
    threads = {"OMP_NUM_THREADS": str(max(1, job.workers // ranks))}
    done = subprocess.run(command, env={**threads, **os.environ}, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "Error" in line] or done.stderr.splitlines()[-1:]
        raise VieError(f"{ranks} ranks failed: {' | '.join(lines[-3:])}")
    return folder / name
