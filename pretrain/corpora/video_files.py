"""A corpus that is computed, as video files with a listing."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pretrain.corpora.writing import Chunk, Rendered, in_chunks

LISTING_NAME = "videos.csv"


def write_videos(folder: Path, kind: str, chunks: Sequence[Chunk], fps: int, workers: int | None) -> None:
    """Writes H.264 files, and a listing with the columns path, the labels' and split.

    Args:
        folder: An empty folder.
        kind: What the progress bar says.
        chunks: The videos, some at a time; all with the same label columns.
        fps: Frames per second.
        workers: Threads; as many as there are processors where left out.
    """
    rows: list[dict[str, str]] = []

    def encode(video: Rendered) -> None:
        path = folder / video.name
        path.parent.mkdir(parents=True, exist_ok=True)
        _encode(path, video.frames.numpy(), fps)

    for video, _ in in_chunks(kind, chunks, encode, workers):
        rows.append({"path": video.name, **video.labels, "split": video.split})
    with (folder / LISTING_NAME).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _encode(path: Path, video: npt.NDArray[np.uint8], fps: int) -> None:
    import av  # here, so that a corpus can be written straight into shards on a machine without it

    # Key frames only: a predicted frame keeps traces of the ones before it, and those give the motion away.
    options = {"crf": "18", "preset": "veryfast", "threads": "1", "g": "1"}
    try:
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=fps, options=options)
            stream.height, stream.width = video.shape[1:3]
            stream.pix_fmt = "yuv420p"
            for image in video:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode())
    except av.FFmpegError as error:
        raise OSError(error.errno, error.strerror) from error
