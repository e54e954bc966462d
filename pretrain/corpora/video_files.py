"""A corpus that is computed, as video files with a listing."""

import csv
from collections.abc import Sequence
from pathlib import Path

from pretrain.corpora.writing import Chunk, Rendered, in_chunks
from vie.video.mp4 import write_mp4

LISTING_NAME = "videos.csv"


def write_videos(folder: Path, kind: str, chunks: Sequence[Chunk], fps: int, workers: int | None) -> None:
    """Writes H.264 files, and a listing with the columns path, the labels' and split.

    Args:
        folder: An empty folder.
        kind: What the progress bar says.
        chunks: The videos, some at a time; all with the same label columns.
        fps: Frames per second.
        workers: Processes; as many as there are processors where left out.
    """

    def encode(video: Rendered) -> dict[str, str]:
        path = folder / video.name
        path.parent.mkdir(parents=True, exist_ok=True)
        # A predicted frame keeps traces of the ones before it, and those give the motion away.
        write_mp4(path, video.frames.numpy(), fps, key_frames_only=True)
        return {"path": video.name, **video.labels, "split": video.split}

    rows = list(in_chunks(kind, chunks, encode, workers))
    with (folder / LISTING_NAME).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
