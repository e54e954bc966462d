"""Small corpora of moving shapes, prepared as real ones are: JPEG frames in tar shards, and a Parquet index."""

import contextlib
import gc
import io
import json
import logging
import multiprocessing
import os
import tarfile
from collections.abc import Callable, Sequence
from multiprocessing import forkserver
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torchvision.io import encode_jpeg

from vie.video.index import INDEX_NAME, LABEL_PREFIX, write_index

# TorchRL makes spawn the default of the whole process, unless somebody has chosen.
if multiprocessing.get_start_method(allow_none=True) is None:
    multiprocessing.set_start_method("fork")

# A process has one server of forks, which imports what the first to need it asks for: whoever comes later, from another
# file, would have his slow modules imported by every process anew.
PRELOAD = (
    *("torch._dynamo", "torchvision.transforms.v2.functional", "pretrain.objective"),
    *("pretrain.preparation.transcode", "rl_encoders.environments.guarded"),
)
set_preload = forkserver.set_forkserver_preload
set_preload(list(PRELOAD))
forkserver.set_forkserver_preload = lambda names: set_preload(list(dict.fromkeys([*PRELOAD, *names])))

# Two runtimes of OpenMP in one process, PyTorch's and faiss's, crash at times: one of them is kept to one thread.
with contextlib.suppress(ImportError):
    import faiss

    faiss.omp_set_num_threads(1)

# The libraries leave half a million objects that stay, and the default is to look through them again and again.
gc.set_threshold(50_000, 20, 50)

# PyTorch tells of every tensor of every checkpoint, for nobody; pytest would keep it all.
logging.disable(logging.DEBUG)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Three at least: many tests wait for other processes."""
    return max(3, len(os.sched_getaffinity(0)))


SHAPES = ("cross", "disc", "square", "stripes")
MOTIONS = {"down": (1, 0), "left": (0, -1), "right": (0, 1), "up": (-1, 0)}
VIDEOS_PER_SHARD = 24


def moving_shape(shape: str, motion: str, frames: int, height: int, width: int, seed: int) -> torch.Tensor:
    """One bright shape that drifts, and re-enters at the other side, over a dim pattern: uint8 (T, H, W, 3)."""
    rng = np.random.default_rng(seed)
    side = min(height, width)
    y, x = np.mgrid[0:height, 0:width]
    pattern = rng.uniform(0, 90, size=(height, width, 1)) + rng.uniform(0, 40, size=3)
    colour = rng.uniform(140, 255, size=3)
    start = rng.uniform(0, 1, size=2) * (height, width)
    clip = np.empty((frames, height, width, 3), dtype=np.uint8)
    for number in range(frames):
        centre = start + np.array(MOTIONS[motion]) * number * side / 12
        dy = (y - centre[0] + height / 2) % height - height / 2
        dx = (x - centre[1] + width / 2) % width - width / 2
        near = np.maximum(abs(dy), abs(dx)) < side / 4
        inside = {
            "cross": near & ((abs(dy) < side / 12) | (abs(dx) < side / 12)),
            "disc": dy**2 + dx**2 < (side / 4) ** 2,
            "square": near,
            "stripes": near & ((dx + dy) % (side / 6) < side / 12),
        }[shape]
        clip[number] = np.where(inside[..., None], colour, pattern)
    return torch.from_numpy(clip)


def write_corpus(
    folder: Path,
    splits: Sequence[str],
    sizes: Sequence[tuple[int, int, int]],
    fps: Sequence[float],
    quality: int = 95,
) -> Path:
    """Writes one video for each split, size (frames, height, width) and rate given, labelled by shape and motion."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, object]] = []
    for first in range(0, len(splits), VIDEOS_PER_SHARD):
        shard = folder / f"shard-{first // VIDEOS_PER_SHARD:06d}.tar"
        part = range(first, min(first + VIDEOS_PER_SHARD, len(splits)))
        with tarfile.open(shard, "w") as tar:
            for number in part:
                frames, height, width = sizes[number]
                shape, motion = SHAPES[number % 4], list(MOTIONS)[number // 4 % 4]
                clip = moving_shape(shape, motion, frames, height, width, seed=number)
                encoded = [encode_jpeg(frame, quality).numpy().tobytes() for frame in clip.permute(0, 3, 1, 2)]
                row = {
                    "name": f"{shape}/{motion}-{number:03d}.mp4",
                    "split": splits[number],
                    "shard": shard.name,
                    "frame_bytes": [len(frame) for frame in encoded],
                    "fps": fps[number],
                    "height": height,
                    "width": width,
                    f"{LABEL_PREFIX}shape": shape,
                    f"{LABEL_PREFIX}motion": motion,
                }
                _add_member(tar, f"{number:06d}.mjpeg", b"".join(encoded))
                _add_member(tar, f"{number:06d}.json", json.dumps(row).encode())
                rows.append(row)
        with tarfile.open(shard) as tar:
            for number in part:
                rows[number]["offset"] = tar.getmember(f"{number:06d}.mjpeg").offset_data
    write_index(folder / INDEX_NAME, rows, ["shape", "motion"])
    return folder


def rewrite_index(folder: Path, change: dict[str, list[object]], drop: Sequence[str] = ()) -> None:
    """Changes or drops whole columns of a corpus's index."""
    table = pq.read_table(folder / INDEX_NAME).drop_columns(list(drop))
    for column, values in change.items():
        place = table.column_names.index(column)
        table = table.set_column(place, table.schema.field(place), pa.array(values, table.schema.field(place).type))
    pq.write_table(table, folder / INDEX_NAME)


def tiny_run(corpus: Path, run: Path, *settings: str) -> list[str]:
    """Settings of a run on one thread that takes milliseconds a step: 6 steps an epoch, 4 of IR and then 8 of LA."""
    return [
        f"data.path={corpus}",
        f"run={run}",
        "model.name=vie_single_r18",
        "model.width=4",
        "model.embed_dim=16",
        "data.size=16",
        "data.batch_size=8",
        "data.workers=0",
        "instance_recognition.steps=4",
        "instance_recognition.noise=null",
        "local_aggregation.steps=8",
        "local_aggregation.clusters=6",
        "local_aggregation.neighbours=16",
        "monitor.log_every=1",
        "monitor.knn_every=6",
        "monitor.checkpoint_every=5",
        "monitor.clips=2",
        "runtime.device=cpu",
        "runtime.precision=fp32",
        "runtime.threads=1",
        # With fewer than 16 channels in this layout, oneDNN's gradient of the 1x1 stride-2 shortcuts writes past its
        # workspace (uxlfoundation/oneDNN issue 6035).
        "runtime.channels_last=false",
        *settings,
    ]


def _add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=NEEDS_GPU)])
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 train and 16 val videos of 24 x 28 pixels, 10 to 14 frames at 25 fps; do not write into it."""
    count = 64
    return write_corpus(
        tmp_path_factory.mktemp("tiny_corpus"),
        ["train"] * 48 + ["val"] * 16,
        [(10 + number % 5, 24, 28) for number in range(count)],
        [25.0] * count,
    )


@pytest.fixture(scope="session")
def mixed_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 train and 8 val videos of many shapes, 3 to 40 frames, at 12.5, 25 and 50 fps; do not write into it."""
    count = 24
    return write_corpus(
        tmp_path_factory.mktemp("mixed_corpus"),
        ["train"] * 16 + ["val"] * 8,
        [(3 + 7 * number % 38, 20 + 5 * number % 17, 20 + 11 * number % 23) for number in range(count)],
        [(12.5, 25.0, 50.0)[number % 3] for number in range(count)],
    )


@pytest.fixture
def table() -> Callable[..., None]:
    """Keeps a row of a table of ``docs/reliability.md``: ``table("faults", kind="empty file", outcome="…")``.

    Rows are kept where VIE_TABLES names a folder, for ``python -m benchmarks.reliability``.
    """

    def add(name: str, **row: object) -> None:
        if folder := os.environ.get("VIE_TABLES"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            with (Path(folder) / f"{name}.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")

    return add
