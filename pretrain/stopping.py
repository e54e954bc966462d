"""Being asked to stop: the step is finished and kept first."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from vie import VieError

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""What schedulers send before they kill: SLURM either of them, by ``--signal``."""


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
