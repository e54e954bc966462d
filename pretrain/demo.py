"""The whole way on an embedded corpus: video files, shards, two streams, evaluation, report."""

import json
import time
from pathlib import Path

from pretrain.corpora.moving_digits import write_moving_digits
from pretrain.inputs import list_videos
from pretrain.prepare import PrepareConfig, prepare
from pretrain.report import write_report
from pretrain.settings import parse_config
from pretrain.summary import summarise
from pretrain.train import Trainer
from vie import VieError
from vie.files import write_text_atomically

STREAMS = ("static", "dynamic")
SIZE = 40
"""Side of the videos in pixels; the networks see crops of 32."""


def run_demo(out: Path) -> None:
    """Pretrains a static and a dynamic stream on moving digits without labels, and reports what they learned.

    Every part goes on where an earlier call stopped.

    Args:
        out: Folder for the videos, the prepared corpus, the runs, ``metrics.json`` and ``report.html``.
    """
    start = time.monotonic()
    print("1/5 Writing moving digits (1,797 real scans in synthetic motion) as video files", flush=True)
    listing = write_moving_digits(out / "videos", size=SIZE)
    print("2/5 Preparing them into shards", flush=True)
    corpus = out / "moving-digits"
    prepare(list_videos(listing), corpus, PrepareConfig(short_side=SIZE))
    for number, stream in enumerate(STREAMS, start=3):
        print(f"{number}/5 Pretraining the {stream} stream without labels", flush=True)
        _open_run(stream, out, corpus).train()
    print("5/5 Testing the streams together, and writing the report", flush=True)
    runs = [out / stream for stream in STREAMS]
    summary = summarise(runs)
    write_text_atomically(out / "metrics.json", json.dumps(summary, indent=2) + "\n")
    report = write_report(runs, out / "report.html", summary)
    for row in summary["results"]:
        if row["readout"] == "linear" and row["stage"] not in ("ir",):
            print(f"  {row['stream']:16} {row['stage']:7} {row['label']:7} {row['top1']:5.1f} % linear top-1")
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
