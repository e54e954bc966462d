"""Frames into a video file that every browser plays."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt


def write_mp4(
    path: Path,
    frames: Sequence[npt.NDArray[np.uint8]] | npt.NDArray[np.uint8],
    fps: float,
    *,
    key_frames_only: bool = False,
) -> None:
    """Writes H.264 in 4:2:0, by PyAV.

    Args:
        path: The file, of any name; replaced if it is there.
        frames: (T, H, W, 3) uint8, H and W even.
        fps: Frames in a second.
        key_frames_only: Whether no frame is predicted from others, so that it keeps no trace of them.

    Raises:
        OSError: The file cannot be written.
    """
    import av  # here, so that a corpus can be written straight into shards on a machine without it

    options = {"crf": "18", "preset": "veryfast", "threads": "1", **({"g": "1"} if key_frames_only else {})}
    try:
        with av.open(str(path), "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options=options)
            stream.height, stream.width = frames[0].shape[:2]
            stream.pix_fmt = "yuv420p"
            for image in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode())
    except av.FFmpegError as error:
        raise OSError(error.errno, error.strerror) from error
