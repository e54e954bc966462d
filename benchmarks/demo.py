"""The whole way on an embedded corpus: video files, shards, two streams, their hybrid, transfer, report."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.transfer.config import parse_task
from benchmarks.transfer.results import evaluate
from benchmarks.transfer.table import comparison
from pretrain.corpora.moving_digits import write_moving_digits
from pretrain.join import join_encoders
from pretrain.preparation.inputs import list_videos
from pretrain.preparation.prepare import PrepareConfig, prepare
from pretrain.reporting.report import write_report
from pretrain.settings import parse_config
from pretrain.summary import summarise
from pretrain.train import Trainer
from pretrain.transfer_results import read_results
from vie import VieError
from vie.files import write_text_atomically

STREAMS = ("static", "dynamic")
HYBRID = "hybrid"
STAGES = {"la": "", "random": " (random)"}
"""The encoders that are measured, and what follows the stream in the name of each."""

SIZE = 40
"""Side of the videos in pixels; the networks see crops of 32."""


def run_demo(out: Path) -> None:
    """Pretrains a static and a dynamic stream on moving digits without labels, and reports what they know.

    Training goes on where an earlier call stopped.

    Args:
        out: Folder for the videos, the prepared corpus, the runs, the hybrid, ``transfer/`` with a results file for
            each encoder and read-out, ``metrics.json`` and ``report.html``.

    Raises:
        VieError: The folder holds something else, or a demo of other settings.
    """
    start = time.monotonic()
    print("1/6 Writing moving digits (1,797 real scans in synthetic motion) as video files", flush=True)
    listing = write_moving_digits(out / "videos", size=SIZE)
    print("2/6 Preparing them into shards", flush=True)
    corpus = out / "moving-digits"
    prepare(list_videos(listing), corpus, PrepareConfig(short_side=SIZE))
    for number, stream in enumerate(STREAMS, start=3):
        print(f"{number}/6 Pretraining the {stream} stream without labels", flush=True)
        _open_run(stream, out, corpus).train()
    print("5/6 Joining the two into a hybrid, and reading all three out layer by layer", flush=True)
    transfer = read_results(list(_measure(out, corpus)))
    print("6/6 Testing the streams together, and writing the report", flush=True)
    runs = [out / stream for stream in STREAMS]
    summary = summarise(runs)
    write_text_atomically(out / "metrics.json", json.dumps(summary, indent=2) + "\n")
    report = write_report(runs, out / "report.html", summary, transfer)
    print(comparison(transfer, "logistic pooled avg"))
    print(f"{report} ({(time.monotonic() - start) / 60:.1f} minutes)")


def _open_run(stream: str, out: Path, corpus: Path) -> Trainer:
    config = parse_config([f"demo_{stream}"], [f"run={out / stream}", f"data.path={corpus}"])
    try:
        return Trainer(config)
    except VieError as error:
        if str(out / stream) not in str(error):
            raise
        # The demo takes no settings, so the remedy that the trainer names is none here.
        cause = str(error).rpartition(": ")[0]
        raise VieError(f"{cause}: delete {out} and start the demo again") from error


def _measure(out: Path, corpus: Path) -> Iterator[Path]:
    """The results files of the streams and of their hybrid, trained and as their training began."""
    task = parse_task("demo", [f"data.path={corpus}"])
    results = out / "transfer"
    for earlier in results.glob(f"{task.task}-*.json"):
        earlier.unlink()  # all are measured anew, and those of another version would be refused
    for stage, suffix in STAGES.items():
        encoders = {stream: out / stream / f"encoder-{stage}" for stream in STREAMS}
        encoders[HYBRID] = join_encoders(encoders["static"], encoders["dynamic"], out / HYBRID / f"encoder-{stage}")
        for stream, encoder in encoders.items():
            yield from evaluate(task, str(encoder), results, f"{stream}{suffix}")
