"""What the rows of a memory bank stand for: whole videos, or stretches of them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vie.video import Sampling, Shards
from vie.video.clips import count_starts, own_frames


@dataclass(frozen=True)
class Instances:
    """N instances; the clips of each begin anywhere in one stretch of one video.

    Attributes:
        videos: (N,) row of the corpus.
        first: (N,) the first frame that its clips may begin at.
        starts: (N,) how many frames from there on they may begin at; those beyond the last start of the video that
            leaves room for a clip are not used.
    """

    videos: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.videos)


def whole_videos(shards: Shards, videos: npt.NDArray[np.int64]) -> Instances:
    """One instance for each of the videos (rows of the corpus)."""
    return Instances(videos, np.zeros_like(videos), shards.num_frames[videos])


def temporal_bins(shards: Shards, videos: npt.NDArray[np.int64], sampling: Sampling, frames: int) -> Instances:
    """Several instances for each long video: its range of clip starts, cut into bins (VIE's ablation).

    Bins are laid from the beginning. The last is as short as it comes out and an instance like the others, never joined
    to its neighbour: so in the authors' release, and so a video of 250 frames gives 5 bins of 52 or 2 of 130 single
    frames, and Kinetics-400 the release's 4.83 and 1.97 a video; dropping or rounding short ends would give fewer.

    Args:
        shards: The prepared corpus.
        videos: Its rows to cut.
        sampling: The clip, whose length decides how many starts a video has.
        frames: Length of a bin, counted at the rate of ``sampling`` like its stride; at least 1.

    Returns:
        The bins of the first video from its beginning to its end, then those of the next.
    """
    starts = count_starts(sampling, shards.num_frames[videos], shards.fps[videos])
    # A video slower than the sampling's rate may have less than a frame for each bin.
    length = np.maximum(1.0, frames * own_frames(sampling, shards.fps[videos]))
    # One too many where the starts fill the bins, which is dropped: one too few, by rounding, would lose starts.
    bins = np.floor(starts / length).astype(np.int64) + 1
    video = np.repeat(np.arange(len(videos)), bins)
    number = np.arange(len(video)) - (np.cumsum(bins) - bins)[video]
    first = np.ceil(number * length[video]).astype(np.int64)
    end = np.minimum(np.ceil((number + 1) * length[video]).astype(np.int64), starts[video])
    kept = end > first
    return Instances(videos[video][kept], first[kept], (end - first)[kept])
