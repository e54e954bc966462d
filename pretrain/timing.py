"""Where the time of a step goes."""

import sys
import time
from dataclasses import dataclass

import torch

MOST_TIMED = 500
"""Steps between two readings that are timed on the device; the others are taken to be like them."""


@dataclass(frozen=True)
class Timing:
    """Seconds by name, summed over some steps.

    Attributes:
        seconds: Of the wall clock: "data", "step", "other".
        within: Of the steps alone: what the "host" needs to issue them, and how long the "device" works on them. The
            two overlap, and the longer one decides; none where the host itself computes.
        steps: How many.
    """

    seconds: dict[str, float]
    within: dict[str, float]
    steps: int

    @property
    def working(self) -> float:
        """Seconds of data and steps, without the tests and checkpoints in between."""
        return self.seconds["data"] + self.seconds["step"]


class Stopwatch:
    """Adds up seconds under names.

    Work on a GPU runs behind the host's clock, so a lap of the host may end before the device has done its part;
    ``read`` waits for the device once and gives that wait to "step". The step after it finds the device idle, so
    nothing holds the host up: its time stands for what the host needs. The device's time lies between two events.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds: dict[str, float] = {}
        self._steps = 0
        self._host = 0.0
        self._events: list[torch.cuda.Event] = []
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Adds the time since the last lap to a name; "data" begins a step and "step" ends it."""
        now = time.perf_counter()
        self._seconds[name] = self._seconds.get(name, 0.0) + now - self._last
        if name == "step":
            self._steps += 1
            if self._steps == 1:
                self._host = now - self._last
        self._last = now
        if self._device.type == "cuda" and name in ("data", "step") and len(self._events) < 2 * MOST_TIMED:
            self._events.append(torch.cuda.Event(enable_timing=True))
            self._events[-1].record()

    def read(self) -> Timing:
        """What was added since the last reading."""
        within = {}
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            pairs = zip(self._events[::2], self._events[1::2], strict=True)
            spans = [begin.elapsed_time(end) / 1000 for begin, end in pairs]
            within["host"] = self._host * self._steps
            within["device"] = sum(spans) / len(spans) * self._steps
            self.lap("step")
            self._steps -= 1
        timing = Timing(self._seconds, within, self._steps)
        self._seconds, self._steps, self._events = {}, 0, []
        return timing


def progress_interval() -> float:
    """Seconds between two states of a progress bar: few of them where it goes to a file."""
    return 0.5 if sys.stderr.isatty() else 15.0
