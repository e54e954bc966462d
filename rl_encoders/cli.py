"""The command line: ``vie-rl encode | collect | train | ooo | eval | report``."""

import argparse
import json
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from vie.command_line import CommandParser, guard, help_of
from vie.errors import VieError


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command of ``vie-rl``."""
    guard("vie-rl", run, arguments)


def run(arguments: Sequence[str]) -> None:
    """Parses a command line and carries it out; raises ``VieError`` for any fault that the user can mend."""
    parser = CommandParser(prog="vie-rl", description="Encoders for agents that see.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    encode = commands.add_parser("encode", help="fill a feature cache with all frames of a dataset")
    encode.add_argument("dataset", help="LeRobot folder, minari:ID, or a corpus of vie-pretrain prepare")
    encode.add_argument("source", help="encoder: as rl_encoders.load takes it")
    encode.add_argument(
        "--cache", required=True, metavar="FOLDER", help="the same command goes on where it was stopped"
    )
    encode.add_argument("--limit-gb", type=float, default=16.0, help="that the cache may hold (%(default)s)")
    encode.add_argument("--cameras", help="to encode, separated by commas (default: all)")
    encode.add_argument(
        "--batch", type=int, default=256, help="frames that go through the trunk together (%(default)s)"
    )
    encode.add_argument("--control-hz", type=float, help="for an encoder of clips: frames in a second (the dataset's)")
    encode.set_defaults(carry_out=_encode)
    _add_collect(commands)
    _add_training(commands)
    parsed, settings = parser.parse_known_args(list(arguments))
    parsed.settings = settings
    parsed.carry_out(parsed)


def _add_training(commands: "argparse._SubParsersAction[CommandParser]") -> None:
    train = commands.add_parser(
        "train", help="train an agent; the same command goes on where it was stopped", add_help=False
    )
    train.add_argument("-h", "--help", action=help_of(_train_settings), nargs=0, help="show every setting")
    train.add_argument("--config", action="append", default=[], help="a recipe: a YAML file, or one that comes along")
    train.set_defaults(carry_out=_train)
    retrain = commands.add_parser(
        "ooo",
        help="explore, then train anew on what was found (OOO); the same command goes on where it was stopped",
        add_help=False,
    )
    retrain.add_argument("-h", "--help", action=help_of(_retrain_settings), nargs=0, help="show every setting")
    retrain.add_argument("--config", action="append", default=[], help="as of train: ooo, or a file that is over it")
    retrain.set_defaults(carry_out=_retrain)
    evaluate = commands.add_parser("eval", help="evaluate the agent of a run")
    evaluate.add_argument("run", type=Path, help="its folder")
    evaluate.add_argument("--episodes", type=int, default=20, help="(%(default)s)")
    evaluate.set_defaults(carry_out=_evaluate)
    report = commands.add_parser("report", help="write one HTML page about one run, or several side by side")
    report.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run of train or ooo")
    report.add_argument("--out", type=Path, help="the page (default: report.html in the first run's folder)")
    report.set_defaults(carry_out=_report)


def _train_settings() -> argparse.ArgumentParser:
    from rl_encoders.training.settings import TrainConfig

    return _settings_of(TrainConfig, "train")


def _retrain_settings() -> argparse.ArgumentParser:
    from rl_encoders.training.settings import OOOConfig

    return _settings_of(OOOConfig, "ooo")


def _settings_of(kind: type, command: str) -> argparse.ArgumentParser:
    from vie.settings import settings_parser

    parser = settings_parser(kind)
    parser.usage = f"vie-rl {command} --config RECIPE key=value …"
    return parser


def _train(parsed: argparse.Namespace) -> None:
    _need_gymnasium()
    from rl_encoders.training.commands import train

    print(json.dumps(train(parsed.config, parsed.settings)))


def _retrain(parsed: argparse.Namespace) -> None:
    _need_gymnasium()
    from rl_encoders.training.commands import offline_retraining

    print(json.dumps(offline_retraining(parsed.config, parsed.settings)))


def _evaluate(parsed: argparse.Namespace) -> None:
    _need_gymnasium()
    from rl_encoders.training.commands import evaluate

    print(json.dumps(evaluate(parsed.run, parsed.episodes, parsed.settings)))


def _report(parsed: argparse.Namespace) -> None:
    if parsed.settings:
        raise VieError(f"unknown arguments {' '.join(parsed.settings)}; see `vie-rl report --help`")
    _need_gymnasium()
    from rl_encoders.reporting.report import write_report

    print(write_report(parsed.runs, parsed.out or parsed.runs[0] / "report.html"))


def _need_gymnasium() -> None:
    try:
        import gymnasium  # noqa: F401
    except ImportError as error:
        raise VieError(f"environments need Gymnasium ({error}): pip install 'vie[gymnasium]'") from error


def _add_collect(commands: "argparse._SubParsersAction[CommandParser]") -> None:
    collect = commands.add_parser("collect", help="make an offline dataset by a scripted or random policy")
    collect.add_argument(
        "environment", help="as ale:Pong, gym:Pendulum-v1, metaworld:door-open-v3, robotics:PointMaze_UMaze-v3"
    )
    collect.add_argument(
        "--policy",
        default="random",
        help="random; one that the environment has, as scripted or waypoint; or replay:FILE (%(default)s)",
    )
    collect.add_argument("--noise", type=float, default=0.0, help="added to a scripted policy's actions (%(default)s)")
    collect.add_argument("--episodes", type=int, required=True, help="that the dataset shall hold")
    collect.add_argument("--out", required=True, metavar="FOLDER", help="the same command goes on where it was stopped")
    collect.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    collect.add_argument(
        "--parallel", type=int, default=1, help="episodes at once, each in a process of its own (%(default)s)"
    )
    collect.add_argument("--size", type=int, default=64, help="of the pictures in pixels (%(default)s)")
    collect.add_argument("--max-steps", type=int, help="of an episode (the environment's own)")
    collect.add_argument(
        "--reward", choices=["task", "success"], default="task", help="its own, or 1 for success (%(default)s)"
    )
    collect.add_argument("--timeout", type=float, default=60.0, help="seconds that a step may take (%(default)s)")
    collect.set_defaults(carry_out=_collect)


def _collect(parsed: argparse.Namespace) -> None:
    _need_gymnasium()
    from rl_encoders.collect import collect
    from rl_encoders.demonstrators import make_policy
    from rl_encoders.environments import make_environment

    for name in ("episodes", "size", "parallel"):
        if getattr(parsed, name) < 1:
            raise VieError(f"--{name}={getattr(parsed, name)}: give at least 1")
    with ExitStack() as stack:
        environments = [
            stack.enter_context(
                closing(
                    make_environment(
                        parsed.environment,
                        parsed.seed,
                        parsed.size,
                        max_steps=parsed.max_steps,
                        reward=parsed.reward,
                        timeout=parsed.timeout,
                        arguments=_values(parsed.settings, "an argument of the environment"),
                    )
                )
            )
            for _ in range(min(parsed.parallel, parsed.episodes))
        ]
        label = {"policy": parsed.policy, "noise": parsed.noise}
        policy = make_policy(environments[0], parsed.policy, parsed.noise)
        report = collect(environments, policy, parsed.episodes, parsed.out, label)
    told = "" if report.successes is None else f", {report.successes} with success"
    print(f"{report.episodes} episodes of {report.steps} steps are in {parsed.out}{told}")
    if report.failed:
        raise VieError(
            f"{len(report.failed)} episodes failed and others took their place ({'; '.join(report.failed.values())})"
        )


def _values(settings: Sequence[str], what: str) -> dict[str, Any]:
    import yaml

    values = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise VieError(f"unknown argument {setting}: give NAME=VALUE, {what}")
        try:
            values[name] = json.loads(value)  # of numbers it knows 1e-05, which YAML takes for a word
        except ValueError:
            values[name] = yaml.safe_load(value)
    return values


def _encode(parsed: argparse.Namespace) -> None:
    from rl_encoders.cache import FeatureCache
    from rl_encoders.datasets import open_dataset
    from rl_encoders.encode import encode
    from rl_encoders.loading import from_config

    config = {"source": parsed.source, **_values(parsed.settings, "an argument of rl_encoders.load")}
    dataset = open_dataset(parsed.dataset)
    cameras = parsed.cameras.split(",") if parsed.cameras else list(dataset.cameras)
    cache = FeatureCache(parsed.cache, round(parsed.limit_gb * 2**30))
    report = encode(
        dataset, from_config({"device": _device(), **config, "cache": cache}), cameras, parsed.batch, parsed.control_hz
    )
    print(
        f"{report.frames} frames of {report.episodes} episodes are encoded, {report.found} of them were there already"
    )
    if report.failed:
        raise VieError(
            f"{len(report.failed)} episodes could not be read ({'; '.join(sorted(report.failed.values())[:3])}): mend "
            "them and give the same command again"
        )


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
