"""The command line: ``vie-bench transfer | table | control-probe | agents | speed | demo | demo-rl``."""

import argparse
import contextlib
import importlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

from vie.command_line import CommandParser, guard
from vie.errors import VieError

SPEEDS = {
    "step": "parts of the training step beside the plain way",
    "full-step": "the whole training step, with a bank of 240,000, beside its trunk in eager autocast",
    "clustering": "neighbours and k-means beside faiss",
    "decode": "JPEG frames on the host and on the device",
    "end-to-end": "training from shards beside the same step on synthetic data",
    "ranks": "whole jobs on several GPUs beside one, and whether they learn the same",
    "loader": "from stored videos to the device, beside PyTorchVideo, decord and torchcodec",
    "handover": "batches of workers in the training process, in fresh memory and in slots",
    "formats": "ways to keep a corpus",
    "encoders": "an observation beside the bare trunk, and training on kept features",
    "agents": "Cal-QL beside d3rlpy's, through the same trunk",
    "parl": "PA-RL, frozen and trained trunk: candidates in a second, the trunk's share of an update",
    "hosts": "agents of other libraries with an encoder, beside the same trunk as a plain module",
}
SPEED = "; ".join(f"{name}: {what}" for name, what in SPEEDS.items()) + "."


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command of ``vie-bench``."""
    guard("vie-bench", run, arguments)


def run(arguments: Sequence[str]) -> None:
    """Parses a command line and carries it out; raises ``VieError`` for any fault that the user can mend."""
    parser = CommandParser(prog="vie-bench", description="Measure encoders on tasks.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    transfer = commands.add_parser("transfer", help="measure an encoder on a task")
    transfer.add_argument("task", help="a task that comes along, or a YAML file of one")
    transfer.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT", help="folder or hub id of a saved encoder")
    transfer.add_argument("--name", help="what tables call the encoder (default: the last two parts of its path)")
    transfer.add_argument("--data", help="folder of the prepared corpus (the same as data.path=)")
    transfer.add_argument("--mode", help="knn, linear, random, finetune, scratch; several separated by commas")
    transfer.add_argument("--out", type=Path, default=Path("results"), help="folder of the results (%(default)s)")
    transfer.set_defaults(carry_out=_transfer)
    table = commands.add_parser("table", help="print results as Markdown tables")
    table.add_argument("results", nargs="+", type=Path, help="results files, or folders of them")
    table.add_argument("--layers", help="columns to keep, separated by commas, such as 'conv5 flat,pooled avg'")
    table.add_argument("--labels", help="to keep, separated by commas, such as 'task,pair.*'")
    table.add_argument("--readout", help="labels side by side for one read-out, such as 'linear conv5 flat'")
    table.add_argument("--figures", type=Path, help="folder for a figure of each of these tables")
    table.add_argument("--gather", type=Path, metavar="FILE.jsonl", help="a file to write all of these results into")
    table.set_defaults(carry_out=_table)
    control = commands.add_parser("control-probe", help="read actions out of what encoders see, without an agent")
    control.add_argument("data", help="LeRobot folder, minari:ID, or a folder of Meta-World's clips")
    control.add_argument(
        "encoders",
        nargs="+",
        metavar="[NAME=]SOURCE",
        help="as rl_encoders.load takes them, or efficientnet-lite0, supervised on ImageNet",
    )
    control.add_argument(
        "--mode", default="frozen,random", help="frozen, partial, finetune, random, scratch (%(default)s)"
    )
    control.add_argument("--task", default="clone,inverse", help="(%(default)s)")
    control.add_argument("--size", type=int, help="side of the pictures that the trunks see (default: their own)")
    control.add_argument("--pool", default="mean", help="of rl_encoders (%(default)s)")
    control.add_argument("--seeds", type=int, default=3, help="(%(default)s)")
    control.add_argument("--episodes", type=int, help="to read at most (default: all)")
    control.add_argument("--steps", type=int, default=3000, help="of a read-out (%(default)s)")
    control.add_argument("--trained-steps", type=int, default=1000, help="of one with a trained trunk (%(default)s)")
    control.add_argument(
        "--out", type=Path, default=Path("results/control"), help="folder of the results (%(default)s)"
    )
    control.add_argument("--device", default="auto", help="auto, cpu or cuda")
    control.set_defaults(carry_out=_control)
    _add_agents(commands)
    speed = commands.add_parser("speed", help="measure speed, ours beside its peers", description=SPEED)
    speed.add_argument("measurements", nargs="*", metavar="MEASUREMENT", help="of these (default: all)")
    speed.add_argument(
        "--out", type=Path, default=Path("results/speed"), help="folder of JSON and Markdown (%(default)s)"
    )
    speed.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything runs")
    speed.add_argument("--only", default="", metavar="TEXT", help="the rows whose name contains this")
    speed.add_argument("--budget", type=float, default=3600, help="seconds after which no row begins (%(default)s)")
    speed.add_argument("--videos", help="folder or listing of source videos (default: synthetic ones)")
    speed.add_argument("--corpora", metavar="DIR", help="keep synthetic corpora here for other commands")
    speed.add_argument("--at-once", type=int, default=1, help="rows of full-step that are compiled side by side")
    speed.add_argument("--workers", type=int, help="processes of a loader (default: one for each core)")
    speed.add_argument("--device", default="auto", help="auto, cpu or cuda")
    speed.set_defaults(carry_out=_speed)
    demo = commands.add_parser("demo", help="the whole way on moving digits, in about ten minutes on two cores")
    demo.add_argument("out", type=Path, nargs="?", default=Path("runs/demo"), help="(default: %(default)s)")
    demo.set_defaults(carry_out=_demo)
    agent = commands.add_parser("demo-rl", help="the whole way of an agent in a maze, in about ten minutes likewise")
    agent.add_argument("out", type=Path, nargs="?", default=Path("runs/demo-rl"), help="(default: %(default)s)")
    agent.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    agent.set_defaults(carry_out=_demo_rl)
    parsed, settings = parser.parse_known_args(list(arguments))
    if parsed.command == "transfer":
        # To the parser, key=value is one more checkpoint.
        parsed.settings = settings + [one for one in parsed.checkpoints if _is_setting(one)]
        parsed.checkpoints = [one for one in parsed.checkpoints if not _is_setting(one)]
    elif settings:
        raise VieError(f"unknown arguments {' '.join(settings)}; see `vie-bench {parsed.command} --help`")
    parsed.carry_out(parsed)


def _add_agents(commands: "argparse._SubParsersAction[CommandParser]") -> None:
    agents = commands.add_parser("agents", help="train agents side by side; the same command goes on where it stopped")
    agents.add_argument("job", type=Path, help="a YAML file, such as benchmarks/small_agents.yaml")
    agents.add_argument("--run", type=Path, required=True, metavar="DIR", help="folder of data, runs and results")
    agents.add_argument("--seeds", type=int, default=3, help="how many (%(default)s)")
    agents.add_argument("--first-seed", type=int, default=0, help="the others follow it (%(default)s)")
    agents.add_argument("--parallel", type=int, default=1, help="processes at a time, spread over the GPUs")
    agents.add_argument("--gpus", help="as CUDA_VISIBLE_DEVICES takes them (default: all that are visible)")
    agents.add_argument(
        "--given", action="append", default=[], metavar="NAME=PATH", help="an encoder or dataset that the job asks for"
    )
    agents.add_argument("--only", default="", metavar="TEXT", help="of the runs seedN/TASK/METHOD/ENCODER, such ones")
    agents.add_argument("--no-train", action="store_true", help="only tell what finished runs found")
    agents.set_defaults(carry_out=_agents)


def _agents(parsed: argparse.Namespace) -> None:
    from benchmarks.agents.command import Order, run_agents

    given = dict(one.partition("=")[::2] for one in parsed.given)
    if wrong := [name for name, path in given.items() if not path]:
        raise VieError(f"--given {wrong[0]} has no path: write --given NAME=PATH")
    if parsed.seeds < 1:
        raise VieError(f"{parsed.seeds} seeds are none: give at least 1")
    order = Order(
        parsed.job,
        parsed.run,
        range(parsed.first_seed, parsed.first_seed + parsed.seeds),
        parsed.parallel,
        parsed.gpus.split(",") if parsed.gpus else (),
        given,
        parsed.only,
        not parsed.no_train,
    )
    if errors := run_agents(order):
        raise VieError("; ".join(errors))


def _transfer(parsed: argparse.Namespace) -> None:
    from benchmarks.transfer.config import parse_task
    from benchmarks.transfer.results import evaluate
    from benchmarks.transfer.table import tables
    from pretrain.transfer_results import read_results

    if not parsed.checkpoints:
        raise VieError("no checkpoint is given: name the folder or hub id of a saved encoder")
    overrides = list(parsed.settings)
    if parsed.data:
        overrides.append(f"data.path={parsed.data}")
    if parsed.mode:
        overrides.append(f"modes={json.dumps(parsed.mode.split(','))}")
    if parsed.name and len(parsed.checkpoints) > 1:
        raise VieError("one name cannot stand for several checkpoints: leave --name out, or give them one by one")
    config = parse_task(parsed.task, overrides)
    written = [path for source in parsed.checkpoints for path in evaluate(config, source, parsed.out, parsed.name)]
    print(tables(read_results(written)))
    print(f"\n{len(written)} results in {parsed.out}")


def _is_setting(argument: str) -> bool:
    return "=" in argument and not Path(argument).exists()


def _table(parsed: argparse.Namespace) -> None:
    from benchmarks.transfer.figure import draw_comparison
    from benchmarks.transfer.table import comparison, tables
    from pretrain.transfer_results import gather, read_results

    contents = read_results(parsed.results)
    if parsed.gather:
        gather(contents, parsed.gather)
    layers, labels = (given.split(",") if given else () for given in (parsed.layers, parsed.labels))
    print(comparison(contents, parsed.readout, labels) if parsed.readout else tables(contents, layers, labels))
    if parsed.figures:
        if not parsed.readout:
            raise VieError("--figures draws one read-out: name it by --readout, such as 'linear conv5 flat'")
        print("\n".join(str(file) for file in draw_comparison(contents, parsed.readout, parsed.figures, labels)))


def _control(parsed: argparse.Namespace) -> None:
    from benchmarks.control.efficientnet import NAME, efficientnet_lite0
    from benchmarks.control.results import Job, measure, table
    from pretrain.runtime import resolve_device

    sources = {}
    for each in parsed.encoders:
        name, equals, source = each.partition("=")
        name = name if equals else "-".join(Path(each).parts[-2:]).replace(":", "-")
        source = source if equals else each
        opened = efficientnet_lite0(parsed.out / f"{NAME}.safetensors") if source == NAME else {"source": source}
        sources[name] = {**opened, "pool": parsed.pool, "size": parsed.size}
    job = Job(
        parsed.data,
        sources,
        parsed.mode.split(","),
        parsed.task.split(","),
        parsed.seeds,
        parsed.out,
        resolve_device(parsed.device),
        parsed.episodes,
        parsed.steps,
        parsed.trained_steps,
    )
    print(table(measure(job)))


def _speed(parsed: argparse.Namespace) -> None:
    from benchmarks.speed.record import Job, scratch
    from pretrain.runtime import resolve_device

    unknown = set(parsed.measurements) - set(SPEEDS)
    if unknown:
        raise VieError(f"there is no measurement {', '.join(sorted(unknown))}: choose from {', '.join(SPEEDS)}")
    if parsed.at_once < 1:
        raise VieError(f"--at-once={parsed.at_once}: give at least 1")
    with contextlib.nullcontext(parsed.corpora) if parsed.corpora else scratch() as corpora:
        job = Job(
            resolve_device(parsed.device),
            parsed.out,
            parsed.quick,
            parsed.only,
            parsed.videos,
            parsed.workers or len(os.sched_getaffinity(0)),
            time.monotonic() + parsed.budget,
            Path(corpora),
            parsed.at_once,
        )
        for name in parsed.measurements or SPEEDS:
            print(f"\n## {name}: {SPEEDS[name]}", flush=True)
            try:
                module = importlib.import_module(f"benchmarks.speed.{name.replace('-', '_')}")
            except ImportError as error:
                print(f"({name} is left out: {error})", flush=True)
                continue
            module.measure(job)


def _demo(parsed: argparse.Namespace) -> None:
    from benchmarks.demo import run_demo

    run_demo(parsed.out)


def _demo_rl(parsed: argparse.Namespace) -> None:
    from benchmarks.demo_rl import run_demo_rl

    run_demo_rl(parsed.out, parsed.seed)
