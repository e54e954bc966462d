"""What each subcommand of ``vie-pretrain`` takes and does."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from vie import VieError
from vie.command_line import CommandParser, help_of


def run(arguments: Sequence[str]) -> None:
    """Parses a command line and carries it out; raises ``VieError`` for any fault that the user can mend."""
    parser = CommandParser(prog="vie-pretrain", description="Pretrain video encoders without labels (VIE).")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (_add_prepare, _add_train, _add_join, _add_export, _add_report, _add_corpus):
        add(commands)
    parsed, settings = parser.parse_known_args(list(arguments))
    if parsed.command == "train":
        parsed.settings = settings
    elif settings:
        raise VieError(f"unknown arguments {' '.join(settings)}; see `vie-pretrain {parsed.command} --help`")
    parsed.carry_out(parsed)


def _add_prepare(commands: "argparse._SubParsersAction[CommandParser]") -> None:
    parser = commands.add_parser("prepare", help="turn video files or pictures into shards that training reads")
    parser.add_argument(
        "source",
        help="a folder of videos or of pictures, a CSV (Kinetics' or with a path column), the folder of UCF101's or "
        "HMDB51's official split files, or a list",
    )
    parser.add_argument("out", type=Path, help="folder of the prepared corpus; the same command continues")
    parser.add_argument("--root", type=Path, help="folder of the files that a CSV, a list or split files name")
    parser.add_argument("--labels", help="label columns of the CSV to keep, separated by commas (default: all)")
    parser.add_argument(
        "--val-fraction", type=float, default=0.0, help="share of the videos to hold out where the source has no splits"
    )
    settings = parser.add_argument_group(
        "settings (left out: the default of pretrain.preparation.prepare.PrepareConfig)"
    )
    settings.add_argument("--short-side", type=int, help="shorter side of the stored frames, in pixels (128)")
    settings.add_argument("--quality", type=int, help="of the JPEG frames, 1 to 100 (90)")
    settings.add_argument(
        "--workers", type=int, help="processes (one for each CPU; with --cluster, for each thread of its workers: 1)"
    )
    settings.add_argument("--timeout", type=float, help="seconds that one video may take (120)")
    settings.add_argument("--decoder", choices=["decord", "torchcodec"], help="(decord)")
    settings.add_argument(
        "--cluster",
        metavar="ADDRESS",
        help="let the workers of a Dask cluster do it: tcp://host:8786, or a scheduler file (.json). All machines must "
        "see the videos and OUT under the same paths (this machine alone)",
    )
    parser.set_defaults(carry_out=_prepare)


def _prepare(parsed: argparse.Namespace) -> None:
    from pretrain.preparation.inputs import list_videos
    from pretrain.preparation.prepare import FAILED_NAME, PrepareConfig, prepare

    labels = parsed.labels.split(",") if parsed.labels else None
    videos = list_videos(parsed.source, root=parsed.root, labels=labels, val_fraction=parsed.val_fraction)
    given = {
        name: getattr(parsed, name) for name in ("short_side", "quality", "workers", "timeout", "decoder", "cluster")
    }
    config = PrepareConfig(**{name: value for name, value in given.items() if value is not None})
    report = prepare(videos, parsed.out, config)
    print(
        f"{parsed.out}: {report.prepared} videos prepared in {report.seconds:.0f} s, {report.skipped} there already, "
        f"{len(report.failed)} left out" + (f" (see {parsed.out / FAILED_NAME})" if report.failed else "")
    )


def _add_train(commands: "argparse._SubParsersAction[CommandParser]") -> None:
    parser = commands.add_parser("train", help="pretrain one stream", add_help=False)
    parser.add_argument("-h", "--help", action=help_of(_settings), nargs=0, help="show every setting")
    parser.add_argument("--config", action="append", default=[], help="a recipe: a YAML file, or one that comes along")
    parser.set_defaults(carry_out=_train)


def _settings() -> argparse.ArgumentParser:
    from pretrain.settings import config_parser

    return config_parser()


def _train(parsed: argparse.Namespace) -> None:
    from pretrain.launch import process_group
    from pretrain.settings import parse_config
    from pretrain.train import Trainer

    config = parse_config(parsed.config, parsed.settings)
    with process_group():
        Trainer(config).train()


def _add_join(commands: "argparse._SubParsersAction[CommandParser]") -> None:
    parser = commands.add_parser("join", help="make the two-pathway hybrid of a static and a dynamic encoder")
    parser.add_argument("static", help="folder or hub id of a saved vie_single_r18")
    parser.add_argument("dynamic", help="folder or hub id of a saved dynamic encoder of the same width")
    parser.add_argument("out", type=Path, help="folder of the hybrid")
    parser.add_argument(
        "--fast", action="store_true", help="pool the fast pathway's channels too, which the authors leave out"
    )
    parser.set_defaults(carry_out=_join)


def _join(parsed: argparse.Namespace) -> None:
    from pretrain.join import join_encoders

    print(join_encoders(parsed.static, parsed.dynamic, parsed.out, parsed.fast))


def _add_export(commands: "argparse._SubParsersAction[CommandParser]") -> None:
    parser = commands.add_parser("export", help="copy an encoder in half precision, to give away")
    parser.add_argument("encoder", help="folder or hub id of a saved encoder")
    parser.add_argument("out", type=Path, help="folder of the copy")
    parser.set_defaults(carry_out=_export)


def _export(parsed: argparse.Namespace) -> None:
    import vie

    if parsed.out.exists():
        raise VieError(f"{parsed.out} is there already: give another folder")
    encoder = vie.load(parsed.encoder)
    vie.save_pretrained(encoder.model, parsed.out, encoder.sampling, encoder.card, half=True)
    print(parsed.out)


def _add_report(commands: "argparse._SubParsersAction[CommandParser]") -> None:
    parser = commands.add_parser("report", help="write one HTML page about one run, or several side by side")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("--transfer", type=Path, metavar="FOLDER", help="results of `vie-bench transfer` to show")
    parser.add_argument("--out", type=Path, help="the page (default: report.html in the first run's folder)")
    parser.set_defaults(carry_out=_report)


def _report(parsed: argparse.Namespace) -> None:
    from pretrain.reporting.report import write_report
    from pretrain.transfer_results import read_results

    transfer = read_results([parsed.transfer]) if parsed.transfer else ()
    print(write_report(parsed.runs, parsed.out or parsed.runs[0] / "report.html", transfer=transfer))


def _add_corpus(commands: "argparse._SubParsersAction[CommandParser]") -> None:
    parser = commands.add_parser("corpus", help="write a corpus that is computed")
    corpora = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    digits = corpora.add_parser("moving-digits", help="real scanned digits in synthetic motion, as video files")
    digits.add_argument("out", type=Path)
    digits.add_argument("--size", type=int, default=40, help="side of the picture in pixels (default: %(default)s)")
    digits.add_argument("--frames", type=int, default=16, help="frames in a video (default: %(default)s)")
    digits.add_argument("--videos-per-digit", type=int, default=1, help="motions of each scan (default: %(default)s)")
    digits.add_argument("--seed", type=int, default=0)
    digits.set_defaults(carry_out=_moving_digits)
    objects = corpora.add_parser("moving-objects", help="your labelled pictures in synthetic motion")
    objects.add_argument("out", type=Path)
    objects.add_argument(
        "--pictures", type=Path, required=True, help="folder of {class}/* or {train,val}/{class}/*, or a zip"
    )
    objects.add_argument("--size", type=int, default=64, help="side of the picture in pixels (default: %(default)s)")
    objects.add_argument("--frames", type=int, default=16, help="frames in a video (default: %(default)s)")
    objects.add_argument("--backgrounds", type=int, default=16, help="shared by all videos (default: %(default)s)")
    objects.add_argument("--seed", type=int, default=0)
    objects.add_argument("--prepared", action="store_true", help="write shards that training reads, not video files")
    objects.set_defaults(carry_out=_moving_objects)
    for name, title in (("cifar10", "CIFAR-10"), ("cifar100", "CIFAR-100")):
        cifar = corpora.add_parser(name, help=f"{title} as picture files, to prepare like any others")
        cifar.add_argument("out", type=Path)
        cifar.add_argument("--source", type=Path, required=True, help="folder of the official binary version, unpacked")
        cifar.set_defaults(carry_out=_cifar)


def _moving_digits(parsed: argparse.Namespace) -> None:
    from pretrain.corpora import write_moving_digits

    write_moving_digits(
        parsed.out,
        size=parsed.size,
        frames=parsed.frames,
        videos_per_digit=parsed.videos_per_digit,
        seed=parsed.seed,
    )


def _cifar(parsed: argparse.Namespace) -> None:
    from pretrain.corpora import write_cifar

    write_cifar(parsed.name, parsed.out, parsed.source)


def _moving_objects(parsed: argparse.Namespace) -> None:
    from pretrain.corpora import write_moving_objects

    write_moving_objects(
        parsed.out,
        parsed.pictures,
        size=parsed.size,
        frames=parsed.frames,
        backgrounds=parsed.backgrounds,
        seed=parsed.seed,
        prepared=parsed.prepared,
    )
