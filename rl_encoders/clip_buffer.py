"""The clip that a dynamic trunk sees of an environment, frame by frame at the rate of its control."""

import numpy as np
import numpy.typing as npt

from vie import Sampling, VieError

Pixels = npt.NDArray[np.uint8]


class ClipBuffer:
    """The last frames of one environment, of which those are handed out that make the trunk's clip.

    A clip ends at the newest frame. Its frames lie as far apart in time as those that the trunk was trained on, as
    nearly as the rate of control allows; a trunk that counts a video's own frames counts the environment's. Before the
    first frame of an episode that frame is repeated.
    """

    def __init__(self, sampling: Sampling, control_hz: float) -> None:
        """Begins empty.

        Args:
            sampling: Of the trunk.
            control_hz: Frames that the environment gives in a second.

        Raises:
            VieError: The rate is not positive.
        """
        if control_hz <= 0:
            raise VieError(f"control_hz={control_hz}: give the number of steps that the environment takes in a second")
        apart = sampling.stride * (control_hz / sampling.fps if sampling.fps else 1.0)
        back = np.arange(sampling.frames - 1, -1, -1) * apart
        self.back: npt.NDArray[np.int64] = np.floor(back + 0.5).astype(np.int64)
        """How many frames before the newest each frame of a clip was."""
        self._kept: list[Pixels] = []

    def reset(self, frame: Pixels) -> Pixels:
        """Begins an episode with its first frame (H, W, 3); returns its clip (T, H, W, 3)."""
        self._kept = []
        return self.append(frame)

    def append(self, frame: Pixels) -> Pixels:
        """Takes the next frame (H, W, 3) uint8 of the episode; returns the clip (T, H, W, 3) that ends with it."""
        self._kept = [*self._kept[-int(self.back[0]) :], frame.copy()] if self.back[0] else [frame.copy()]
        newest = len(self._kept) - 1
        return np.stack([self._kept[max(0, newest - back)] for back in self.back.tolist()])
