"""Where the time of a step goes."""

import sys
import time
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Timing:
    """Seconds by name, summed over some steps."""

    seconds: dict[str, float]
    steps: int

    @property
    def working(self) -> float:
        """Seconds of data and steps, without the tests and checkpoints in between."""
        return self.seconds["data"] + self.seconds["step"]


class Stopwatch:
    """Adds up seconds under names.

    Work on a GPU runs behind the host's clock, so a lap of the host may end before the device has done its part;
    ``read`` waits for the device once and gives that wait to "step".
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds: dict[str, float] = {}
        self._steps = 0
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Adds the time since the last lap to a name; "step" ends a step."""
        now = time.perf_counter()
        self._seconds[name] = self._seconds.get(name, 0.0) + now - self._last
        self._steps += name == "step"
        self._last = now

    def read(self) -> Timing:
        """What was added since the last reading."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            self.lap("step")
            self._steps -= 1
        timing = Timing(self._seconds, self._steps)
        self._seconds, self._steps = {}, 0
        return timing


def progress_interval() -> float:
    """Seconds between two states of a progress bar: few of them where it goes to a file."""
    return 0.5 if sys.stderr.isatty() else 15.0
