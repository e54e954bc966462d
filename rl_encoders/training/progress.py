"""A bar for each phase of a run."""

from tqdm import tqdm


class Progress:
    """Shows the bar of the phase that a run is in."""

    def __init__(self, run: str) -> None:
        self.run, self._phase = run, ""
        self._bar: tqdm[None] | None = None

    def show(self, phase: str, unit: str, done: int, total: int) -> None:
        """Tells how far a phase has come; the bar of the one before is left as it stands."""
        if phase != self._phase or self._bar is None:
            self.close()
            self._phase = phase
            self._bar = tqdm(initial=done, total=total, unit=unit, desc=f"{self.run} {phase}")
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """Leaves the bar as it stands."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
