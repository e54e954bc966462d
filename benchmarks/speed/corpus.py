"""A prepared corpus of synthetic videos with as many rows as Kinetics-400, for measurements without a data set.

No video encoder is needed. Few videos are different; the index names them over and over, so that a bank of 240,000 rows
has its instances. What is read lies in the system's cache, as the frames of a fast disk would.
"""

import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.speed.record import Job
from benchmarks.speed.synthetic import FPS, draw_frames
from pretrain.corpora.prepared import write_prepared
from pretrain.corpora.writing import Rendered
from vie.video.index import INDEX_NAME

ROWS = 240_000


def synthetic_corpus(short_side: int, job: Job) -> Path:
    """Writes a corpus into the job's folder of corpora, unless it is there, and returns its own."""
    assert job.corpora is not None, "the job names no folder of corpora"
    videos, frames, rows = (4, 20, 2_000) if job.quick else (16, 72, ROWS)
    folder = job.corpora / f"synthetic-{short_side}-{videos}x{frames}-{rows}"
    if not folder.exists():
        job.corpora.mkdir(parents=True, exist_ok=True)
        # Whole when it has its name; another command that makes it too has its own until then.
        with tempfile.TemporaryDirectory(dir=job.corpora) as unfinished:
            made = Path(unfinished) / "corpus"
            made.mkdir()
            chunks = [partial(_render, number, frames) for number in range(videos)]
            write_prepared(made, "synthetic videos", chunks, FPS, short_side, job.workers)
            _repeat(made / INDEX_NAME, rows)
            if not folder.exists():
                made.rename(folder)
    return folder


def _render(number: int, frames: int) -> list[Rendered]:
    return [Rendered(f"{number:06d}.mp4", draw_frames(number, frames), {}, "train")]


def _repeat(index: Path, rows: int) -> None:
    table = pq.read_table(index)
    repeated = table.take(np.arange(rows) % len(table))
    names = pa.array([f"{number:06d}.mp4" for number in range(rows)])
    place = table.column_names.index("name")
    pq.write_table(repeated.set_column(place, table.schema.field("name"), names), index)
