"""Which frames of a video make a clip."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Sampling:
    """The clip that a model wants.

    Attributes:
        frames: Frames in a clip.
        stride: Distance between them, counted at ``fps``.
        fps: Frame rate in 1/s at which the stride is counted; None counts the video's own frames.
        size: Side of the square picture, in pixels.
        binned: Whether each frame is drawn at random from a bin of ``stride`` frames of its own (VIE-TRN).
    """

    frames: int
    stride: int
    fps: float | None
    size: int
    binned: bool = False


def clip_frames(
    sampling: Sampling,
    num_frames: npt.NDArray[np.int64],
    fps: npt.NDArray[np.float32],
    position: npt.NDArray[np.float64],
    in_bin: npt.NDArray[np.float64] | float = 0.5,
) -> npt.NDArray[np.int64]:
    """Frame numbers of one clip from each of B videos.

    The start is uniform over all starts that keep the clip inside the video; a video shorter than the clip starts
    anywhere and loops (VIE's 3DResNet and SlowFast; its other models swapped short videos for others, which would leave
    a bank row stale). Bins shrink until they fit into the video instead.

    Args:
        sampling: The clip's frames, stride and rate.
        num_frames: (B,) frames in each video.
        fps: (B,) its own frame rate.
        position: (B,) in [0, 1): where in the range of starts the clip begins.
        in_bin: (B, sampling.frames) in [0, 1): where in its bin each frame lies, if the sampling is binned; the
            middle, as in tests.

    Returns:
        (B, sampling.frames), each in [0, num_frames).
    """
    step = sampling.stride * (fps.astype(np.float64) / sampling.fps if sampling.fps else np.ones(len(fps)))
    if sampling.binned:
        step = np.minimum(step, num_frames / sampling.frames)
        span = np.minimum(np.ceil(sampling.frames * step).astype(np.int64), num_frames)
        places = np.arange(sampling.frames) + np.asarray(in_bin)
    else:
        span = np.floor((sampling.frames - 1) * step).astype(np.int64) + 1
        places = np.arange(sampling.frames, dtype=np.float64)
    starts = np.where(span <= num_frames, num_frames - span + 1, num_frames)
    start = np.floor(position * starts).astype(np.int64)
    offsets = np.floor(places * step[:, None]).astype(np.int64)
    return (start[:, None] + offsets) % num_frames[:, None]


def even_positions(clips: int) -> npt.NDArray[np.float64]:
    """Positions of ``clips`` test clips spread evenly over a video; one clip sits in the middle."""
    return (np.arange(clips) + 0.5) / clips
