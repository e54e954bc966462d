"""The files and the table of ``vie-bench control-probe``."""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.control.episodes import Frames, read_frames
from benchmarks.control.probe import ProbeConfig, keep_features, probe
from pretrain.runtime import describe_machine
from rl_encoders import VisualEncoder, load, stages
from rl_encoders.schedule import ALL, LAST, NONE, Schedule
from rl_encoders.trunk import Trunk
from vie import VieError, create_model
from vie.files import write_text_atomically

MODES = {"frozen": NONE, "partial": LAST, "finetune": ALL, "random": NONE, "scratch": ALL}
"""What is trained of the trunk; random and scratch take the same network with random weights."""

CONTEXT = "the mean of seeds, and their standard deviation; best: of all tests, which have seen the held-out episodes"


@dataclass(frozen=True)
class Job:
    """What is measured.

    Attributes:
        data: The dataset.
        sources: Encoders: arguments of ``rl_encoders.load``, by the name that the table calls them.
        modes: Of ``MODES``.
        tasks: Of ``benchmarks.control.probe.TASKS``.
        seeds: How many.
        out: Folder of the results.
        device: To measure on.
        episodes: To read at most; None reads all.
        steps, trained_steps: Of a read-out, and of one with a trunk that is trained.
    """

    data: str
    sources: Mapping[str, Mapping[str, Any]]
    modes: Sequence[str]
    tasks: Sequence[str]
    seeds: int
    out: Path
    device: torch.device
    episodes: int | None = None
    steps: int = 3000
    trained_steps: int = 1000


def measure(job: Job) -> list[Path]:
    """Measures all encoders in all modes on all tasks.

    Returns:
        The results files.
    """
    for mode in job.modes:
        if mode not in MODES:
            raise VieError(f"there is no mode {mode!r}: give one of {', '.join(MODES)}")
    frames = read_frames(job.data, episodes=job.episodes)
    return [
        file
        for name, source in job.sources.items()
        for mode in job.modes
        for file in _one(job, frames, name, source, mode)
    ]


def _one(job: Job, frames: Frames, name: str, source: Mapping[str, Any], mode: str) -> Iterable[Path]:
    kept: dict[str, Tensor] = {}  # by weights: random ones differ from seed to seed, pretrained ones do not
    for task in job.tasks:
        trains = MODES[mode] != NONE
        config = ProbeConfig(task, job.trained_steps if trains else job.steps, 64 if trains else 256)
        file = job.out / f"{Path(job.data).name}-{name}-{mode}-{task}.json"
        found = []
        for seed in range(job.seeds):
            encoder = _encoder(source, mode, seed).to(job.device)
            weights = encoder.fingerprint()
            if not trains and weights not in kept:
                kept[weights] = keep_features(frames, encoder)
            found.append(asdict(probe(frames, encoder, replace(config, seed=seed), kept.get(weights))))
        content = {
            "data": Path(job.data).name,
            "encoder": name,
            "source": dict(source),
            "fingerprint": encoder.fingerprint(),
            "card": encoder.card,
            "mode": mode,
            "protocol": asdict(config) | {"episodes": frames.episodes, "frames": len(frames.pixels)},
            "held_out": int(frames.held_out.sum()),
            "machine": describe_machine(job.device),
            "seeds": found,
        }
        job.out.mkdir(parents=True, exist_ok=True)
        write_text_atomically(file, json.dumps(content, indent=2, default=str) + "\n")
        yield file


def _encoder(source: Mapping[str, Any], mode: str, seed: int) -> VisualEncoder:
    torch.manual_seed(seed)
    encoder = load(**source)
    if mode in {"random", "scratch"}:
        before = encoder.trunk.stream
        arguments: dict[str, Any] = {name: value for name, value in before.arguments.items() if name != "weights"}
        stream = create_model(before.model_name, **arguments).eval()
        trunk = Trunk(stream, stages(stream), update_statistics=mode == "scratch")
        encoder = VisualEncoder(trunk, encoder.sampling, {"weights": "random"}, encoder.heads, Schedule())
    encoder.schedule = Schedule({0: MODES[mode]}, layer_decay=encoder.schedule.layer_decay)
    encoder.advance(0)
    return encoder


def table(files: Iterable[Path]) -> str:
    """Markdown: a row for each encoder and mode, the tasks of each dataset side by side."""
    contents = [json.loads(file.read_text()) for file in files]
    columns = sorted({(each["data"], each["protocol"]["task"]) for each in contents})
    rows: dict[tuple[str, str], dict[tuple[str, str], str]] = {}
    for each in contents:
        place = each["data"], each["protocol"]["task"]
        rows.setdefault((each["encoder"], each["mode"]), {})[place] = _cell(each["seeds"])
    heading = " | ".join(f"{data}, {task}: final (best)" for data, task in columns)
    lines = [f"| encoder | mode | {heading} |", "|---|---|" + "---|" * len(columns)]
    for (name, mode), cells in sorted(rows.items()):
        lines.append(f"| {name} | {mode} | " + " | ".join(cells.get(place, "") for place in columns) + " |")
    return "\n".join([*lines, "", f"Share of the held-out actions' variance that is explained, in %: {CONTEXT}."])


def _cell(seeds: Sequence[Mapping[str, Any]]) -> str:
    final, best = ([100 * seed[what] for seed in seeds] for what in ("final", "best"))
    spread = f" ± {statistics.stdev(final):.1f}" if len(final) > 1 else ""
    return f"{statistics.mean(final):.1f}{spread} ({statistics.mean(best):.1f})"
