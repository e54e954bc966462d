"""Which frames of a video make a clip."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vie.errors import VieError


@dataclass(frozen=True)
class Sampling:
    """The clip that a model wants.

    Attributes:
        frames: Frames in a clip.
        stride: Distance between them, counted at ``fps``.
        fps: Frame rate in 1/s at which the stride is counted; None counts the video's own frames.
        size: Side of the square picture, in pixels.
        binned: Whether each frame is drawn at random from a bin of ``stride`` frames of its own (VIE-TRN).
        short_side: Short side that a test picture is resized to before the square in its middle is taken, as a multiple
            of ``size``, at least 1: VIE's 8/7 is 256 for 224 and 128 for 112; 1 takes the largest square.
    """

    frames: int
    stride: int
    fps: float | None
    size: int
    binned: bool = False
    short_side: float = 8 / 7

    def __post_init__(self) -> None:
        if not self.short_side >= 1:
            raise VieError(
                f"short_side={self.short_side} is out of range: give at least 1, the size of the crop itself"
            )

    @property
    def resized(self) -> int:
        """The short side of a test picture before the crop, in pixels."""
        return round(self.size * self.short_side)


def clip_frames(
    sampling: Sampling,
    num_frames: npt.NDArray[np.int64],
    fps: npt.NDArray[np.float32],
    position: npt.NDArray[np.float64],
    in_bin: npt.NDArray[np.float64] | float = 0.5,
    within: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None = None,
) -> npt.NDArray[np.int64]:
    """Frame numbers of one clip from each of B videos.

    The start is uniform over the starts of ``count_starts``, or over a stretch of them. A video shorter than the clip
    loops.

    Args:
        sampling: The clip's frames, stride and rate.
        num_frames: (B,) frames in each video.
        fps: (B,) its own frame rate.
        position: (B,) in [0, 1): where in the range of starts the clip begins.
        in_bin: (B, sampling.frames) in [0, 1): where in its bin each frame lies, if the sampling is binned; the
            middle, as in tests.
        within: The stretch of starts that ``position`` ranges over: (B,) its first frame and (B,) its frames, at least
            1; what lies beyond the last start is cut off. None takes all starts.

    Returns:
        (B, sampling.frames), each in [0, num_frames).
    """
    first, starts = np.zeros_like(num_frames), count_starts(sampling, num_frames, fps)
    if within is not None:
        first = np.minimum(within[0], starts - 1)
        starts = np.minimum(within[0] + within[1], starts) - first
    start = first + np.floor(position * starts).astype(np.int64)
    places = np.arange(sampling.frames) + (np.asarray(in_bin) if sampling.binned else 0.0)
    offsets = np.floor(places * _step(sampling, num_frames, fps)[:, None]).astype(np.int64)
    return (start[:, None] + offsets) % num_frames[:, None]


def count_starts(
    sampling: Sampling, num_frames: npt.NDArray[np.int64], fps: npt.NDArray[np.float32]
) -> npt.NDArray[np.int64]:
    """How many frames of each of B videos, from frame 0 on, a clip may begin at: (B,), at least 1.

    They are those that keep the clip inside the video; a video shorter than the clip starts anywhere (VIE's 3DResNet
    and SlowFast; its other models swapped short videos for others, which would leave a bank row stale). Bins shrink
    until they fit into the video instead.
    """
    step = _step(sampling, num_frames, fps)
    if sampling.binned:
        span = np.minimum(np.ceil(sampling.frames * step).astype(np.int64), num_frames)
    else:
        span = np.floor((sampling.frames - 1) * step).astype(np.int64) + 1
    return np.where(span <= num_frames, num_frames - span + 1, num_frames)


def own_frames(sampling: Sampling, fps: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """How many of a video's own frames pass in one frame of the sampling's rate: (B,)."""
    return fps.astype(np.float64) / sampling.fps if sampling.fps else np.ones(len(fps))


def _step(
    sampling: Sampling, num_frames: npt.NDArray[np.int64], fps: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """Distance between the frames of a clip, or between its bins, in the video's own frames: (B,)."""
    step = sampling.stride * own_frames(sampling, fps)
    return np.minimum(step, num_frames / sampling.frames) if sampling.binned else step


def even_positions(clips: int) -> npt.NDArray[np.float64]:
    """Positions of ``clips`` test clips spread evenly over a video; one clip sits in the middle."""
    return (np.arange(clips) + 0.5) / clips
