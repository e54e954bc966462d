"""What pretraining teaches: every job of a file, over several seeds, as one table with spread.

    python -m benchmarks.pretraining benchmarks/pretraining.yaml --data CORPORA --out RUNS --seeds 3 --parallel 6

A job is recipes, the prepared corpus it runs on (a folder under --data) and settings over the recipes. Jobs with
the same ``joined`` name are streams of one corpus: their features are also tested side by side. Runs go on where they
stopped.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue
from typing import Any

import torch
import yaml

from benchmarks.curves import draw_curves
from pretrain.monitor import METRICS_NAME
from pretrain.summary import summarise

Row = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One line of the jobs file."""

    name: str
    recipes: list[str]
    corpus: str
    settings: list[str] = field(default_factory=list)
    joined: str | None = None

    def run(self, out: Path, seed: int) -> Path:
        return out / f"seed{seed}" / self.name


def train(job: Job, data: Path, out: Path, seed: int, places: Queue[str]) -> str | None:
    """Trains one job in a process of its own, on a GPU that is free; returns what went wrong, if anything did."""
    run = job.run(out, seed)
    run.mkdir(parents=True, exist_ok=True)
    settings = [f"run={run}", f"seed={seed}", f"data.path={data / job.corpus}", *job.settings]
    recipes = [f"--config={recipe}" for recipe in job.recipes]
    command = [sys.executable, "-m", "pretrain", "train", *recipes, *settings]
    place = places.get()
    try:
        with (run / "log.txt").open("w") as log:
            environment = {**os.environ, "CUDA_VISIBLE_DEVICES": place}
            done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment, check=False)
    finally:
        places.put(place)
    return None if done.returncode == 0 else f"{run}: {(run / 'log.txt').read_text()[-300:]}"


def visible_gpus() -> list[str]:
    """Names of the GPUs that runs may use, as CUDA_VISIBLE_DEVICES takes them; one empty name if there is none."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return given.split(",")
    return [str(number) for number in range(torch.cuda.device_count())] or [""]


def collect(jobs: list[Job], out: Path, seeds: int) -> list[Row]:
    """Mean and standard deviation over seeds for every stream, stage, label and read-out of the runs there are."""
    groups: dict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        groups[job.joined or job.name].append(job)
    values: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for group, members in groups.items():
        for seed in range(seeds):
            runs = [job.run(out, seed) for job in members]
            finished = [run for run in runs if (run / METRICS_NAME).exists()]
            for row in summarise(finished)["results"] if finished else []:
                values[group, row["stream"], row["stage"], row["label"], row["readout"]].append(row)
    return [
        {
            **dict(zip(("group", "stream", "stage", "label", "readout"), key, strict=True)),
            "steps": rows[0].get("steps"),
            "mean": statistics.mean(row["top1"] for row in rows),
            "std": statistics.stdev(row["top1"] for row in rows) if len(rows) > 1 else None,
            "seeds": len(rows),
            "chance": rows[0]["chance"],
            "videos": rows[0]["videos"],
        }
        for key, rows in values.items()
    ]


def markdown(rows: list[Row]) -> str:
    """One line for each group, stream and stage; one column for each label and read-out."""
    lines: list[str] = []
    for group in dict.fromkeys(row["group"] for row in rows):
        mine = [row for row in rows if row["group"] == group]
        columns = list(dict.fromkeys((row["label"], row["readout"]) for row in mine))
        seeds = max(row["seeds"] for row in mine)
        lines += ["", f"**{group}** ({mine[0]['videos']} test videos; seeds: {seeds})", ""]
        lines.append("| stream | stage | steps | " + " | ".join(" ".join(column) for column in columns) + " |")
        lines.append("|---" * (3 + len(columns)) + "|")
        for stream, stage in dict.fromkeys((row["stream"], row["stage"]) for row in mine):
            found = {
                (row["label"], row["readout"]): row for row in mine if (row["stream"], row["stage"]) == (stream, stage)
            }
            cells = [_cell(found[column], seeds) if column in found else "" for column in columns]
            steps = next(iter(found.values()))["steps"]
            lines.append(f"| {stream} | {stage} | {'' if steps is None else steps} | " + " | ".join(cells) + " |")
    return "\n".join(lines).strip()


def _cell(row: Row, seeds: int) -> str:
    spread = "" if row["std"] is None else f" ± {row['std']:.1f}"
    return f"{row['mean']:.1f}{spread}" + (f" (seeds: {row['seeds']})" if row["seeds"] < seeds else "")


def main() -> None:
    """Trains what is missing, then writes ``results.json`` and ``curves-CORPUS.svg`` and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jobs", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder of the prepared corpora")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--parallel", type=int, default=1, help="runs at a time, spread over the GPUs")
    parser.add_argument("--no-train", action="store_true", help="only tell what finished runs found")
    parsed = parser.parse_args()
    jobs = [Job(name=name, **content) for name, content in yaml.safe_load(parsed.jobs.read_text()).items()]
    todo = [(job, seed) for seed in range(0 if parsed.no_train else parsed.seeds) for job in jobs]
    parsed.out.mkdir(parents=True, exist_ok=True)
    places: Queue[str] = Queue()
    gpus = visible_gpus()
    for number in range(parsed.parallel):
        places.put(gpus[number % len(gpus)])
    with ThreadPoolExecutor(parsed.parallel) as pool:
        done = pool.map(lambda one: train(one[0], parsed.data, parsed.out, one[1], places), todo)
        errors = [error for error in done if error]
    rows = collect(jobs, parsed.out, parsed.seeds)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    content = {"command": " ".join(sys.argv), "device": device, "torch": torch.__version__, "results": rows}
    (parsed.out / "results.json").write_text(json.dumps(content, indent=1) + "\n")
    draw_curves({job.name: [job.run(parsed.out, seed) for seed in range(parsed.seeds)] for job in jobs}, parsed.out)
    print(markdown(rows))
    sys.exit("\n".join(errors) or None)


if __name__ == "__main__":
    main()
