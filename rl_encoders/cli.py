"""The command line: ``vie-rl encode``."""

import argparse
from collections.abc import Sequence

from vie.command_line import CommandParser, guard
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
    parsed, settings = parser.parse_known_args(list(arguments))
    parsed.settings = settings
    parsed.carry_out(parsed)


def _encode(parsed: argparse.Namespace) -> None:
    import yaml

    from rl_encoders.cache import FeatureCache
    from rl_encoders.datasets import open_dataset
    from rl_encoders.encode import encode
    from rl_encoders.loading import from_config

    config = {"source": parsed.source}
    for setting in parsed.settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise VieError(f"unknown argument {setting}: give NAME=VALUE, an argument of rl_encoders.load")
        config[name] = yaml.safe_load(value)
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
