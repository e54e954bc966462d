"""What pretraining teaches: every job of a file, over several seeds, as one table with spread.

    python -m benchmarks.pretraining benchmarks/pretraining.yaml --data CORPORA --out RUNS --seeds 3 --parallel 6

A job trains a stream (``recipes``), or joins the streams of two others (``hybrid``), on a prepared corpus (a folder
under --data); ``benchmarks.jobs.Job`` says what else it may hold. Runs go on where they stopped, and what has been done
is done again only if the file, a recipe or a task asks for something else by now. Results of transfer tasks are written
to ``transfer/`` under --out.
"""

import argparse
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.curves import draw_curves
from benchmarks.jobs import Job, read_jobs
from benchmarks.scheduler import Scheduler
from benchmarks.transfer.table import tables
from pretrain.monitor import METRICS_NAME
from pretrain.summary import last_stage, summarise
from pretrain.transfer_results import read_results
from vie import VieError
from vie.files import write_text_atomically
from vie.history import read_history

Row = dict[str, Any]


def collect(jobs: list[Job], out: Path, seeds: Sequence[int]) -> list[Row]:
    """Mean and standard deviation over seeds for every stream, stage, label and read-out of the runs there are."""
    groups: dict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        groups[job.joined or job.name].append(job)
    values: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for group, members in groups.items():
        for seed in seeds:
            runs = [job.run(out, seed) for job in members]
            finished = [run for run in runs if (run / METRICS_NAME).exists()]
            rows = summarise(finished)["results"] if finished else []
            for row in [*rows, *(row for run in finished for row in _by_bank(run))]:
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


def _by_bank(run: Path) -> list[Row]:
    """Nearest neighbours by the bank's rows, as a run has followed them: at the last test, and the best of all."""
    tests = [(row["step"], one) for row in read_history(run) for one in row.get("monitor", [])]
    found: dict[tuple[str, str], list[tuple[int, Row]]] = defaultdict(list)
    for step, one in tests:
        found[one["label"], one["readout"]].append((step, one))
    stream, stage = {"stream": run.resolve().name}, {"stage": last_stage(run)}
    return [
        {**one, **stream, **stage, "steps": step, "readout": name}
        for (_, readout), curve in found.items()
        for name, (step, one) in (
            (readout, curve[-1]),
            (f"{readout} best", max(curve, key=lambda test: test[1]["top1"])),
        )
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Carries out what is missing, then writes ``results.json`` and ``curves-CORPUS.svg`` and prints the tables.

    A fault that the user can mend is told on stderr with exit status 1, and so is whatever went wrong in the jobs.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jobs", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder of the prepared corpora")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--seeds", type=int, default=3, help="how many (%(default)s)")
    parser.add_argument("--first-seed", type=int, default=0, help="the others follow it (%(default)s)")
    parser.add_argument("--parallel", type=int, default=1, help="runs at a time, spread over the GPUs")
    parser.add_argument("--no-train", action="store_true", help="only tell what finished runs found")
    try:
        errors = _run(parser.parse_args(arguments))
    except (VieError, OSError) as error:
        sys.exit(f"benchmarks.pretraining: {error}")
    sys.exit("\n".join(errors) or None)


def _run(parsed: argparse.Namespace) -> list[str]:
    """Returns what went wrong in the jobs."""
    jobs = read_jobs(parsed.jobs)
    seeds = range(parsed.first_seed, parsed.first_seed + parsed.seeds)
    parsed.out.mkdir(parents=True, exist_ok=True)
    errors = [] if parsed.no_train else Scheduler(jobs, parsed.data, parsed.out, parsed.parallel).run(seeds)
    trained = [job for job in jobs.values() if not job.hybrid]
    rows = collect(trained, parsed.out, seeds)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    content = {"command": " ".join(sys.argv), "device": device, "torch": torch.__version__, "results": rows}
    write_text_atomically(parsed.out / "results.json", json.dumps(content, indent=1) + "\n")
    draw_curves({job.name: [job.run(parsed.out, seed) for seed in seeds] for job in trained}, parsed.out)
    print(markdown(rows))
    if any((parsed.out / "transfer").glob("*.json")):
        print("\n" + tables(read_results([parsed.out / "transfer"])))
    return errors


if __name__ == "__main__":
    main()
