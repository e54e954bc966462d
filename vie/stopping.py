"""Being asked to stop: the step is finished and kept first."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

import torch

from vie import VieError
from vie.distributed import Ranks

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""What schedulers send before they kill: SLURM either of them, by ``--signal``."""

AGREE_EVERY = 1.0
"""Seconds, about, between two times that ranks tell each other whether they were asked to stop, and most steps."""
MOST_STEPS = 100


class StoppedError(VieError):
    """A run has stopped because it was asked to.

    Attributes:
        status: Exit status of the process, as if the signal had ended it.
    """

    def __init__(self, number: int, step: int) -> None:
        super().__init__(
            f"stopped at step {step} by {signal.Signals(number).name}; the same command goes on from there"
        )
        self.status = 128 + number


class Listener:
    """Remembers the signal that asks to stop.

    Attributes:
        asked: Its number, or 0.
    """

    asked: int = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.asked = number


@contextlib.contextmanager
def listening() -> Iterator[Listener]:
    """Takes the place of what the signals would do; signals reach the main thread of a process alone."""
    listener = Listener()
    if threading.current_thread() is not threading.main_thread():
        yield listener
        return
    before = {number: signal.signal(number, listener) for number in SIGNALS}
    try:
        yield listener
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Agreement:
    """Has all ranks stop at the same step, whichever of them were asked."""

    def __init__(self, listener: Listener, ranks: Ranks, device: torch.device, step: int) -> None:
        self._listener, self._ranks, self._device = listener, ranks, device
        self._at, self._step, self._next = time.monotonic(), step, step

    def asked(self, step: int) -> int:
        """The signal that asked a rank to stop, or 0; to be called by all ranks after each step."""
        if self._ranks.size == 1:
            return self._listener.asked
        if step < self._next:
            return 0
        now = time.monotonic()
        elapsed = (now - self._at) / max(1, step - self._step)
        asked, per_step = self._ranks.largest(
            torch.tensor([self._listener.asked, elapsed], device=self._device)
        ).tolist()
        self._at, self._step = now, step
        # All ranks know the same time of a step.
        self._next = step + max(1, min(MOST_STEPS, int(AGREE_EVERY / per_step)))
        return int(asked)
