"""Videos of evaluation episodes in the folder of a run, each with what is known of it beside."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rl_encoders.replay.trajectory import Array
from rl_encoders.rollout import Episode
from vie.files import write_atomically, write_text_atomically
from vie.video.mp4 import write_mp4

logger = logging.getLogger(__name__)

FOLDER = "films"
"""Within a run's."""

LEAST = 192
"""Pixels that the higher side of a shown picture has at least, where an agent's are smaller."""

STILL = 1.0
"""Seconds for which the last picture stays: films are shown over and over."""


@dataclass(frozen=True)
class Film:
    """What is known of an episode that was filmed.

    Attributes:
        updates, environment_steps: That the agent had learned and acted by then.
        number: Of the episode in its evaluation; those of one number begin alike.
        seed: Of its reset.
        result: Undiscounted return.
        success: Whether it did the task; None where the environment does not tell.
        length: In steps.
    """

    updates: int
    environment_steps: int
    number: int
    seed: int
    result: float
    success: bool | None
    length: int

    @property
    def name(self) -> str:
        """Of its files, without suffix: in the order in which they were made."""
        return f"{self.updates:08d}-{self.environment_steps:08d}-{self.number}"

    def video(self, run: Path) -> Path:
        """The video in the folder of a run."""
        return run / FOLDER / f"{self.name}.mp4"


def keep_films(run: Path, episodes: Sequence[Episode], control_hz: float, updates: int, environment_steps: int) -> None:
    """Writes the videos of some episodes of an evaluation; those without pictures have none.

    What cannot be written is left out with a warning: an agent learns without it.

    Args:
        run: Folder of the run.
        episodes: The first of the evaluation.
        control_hz: Observations in a second.
        updates: That the agent has learned.
        environment_steps: That it has acted.
    """
    for number, episode in enumerate(episodes):
        shown = frames(episode.trajectory.observations)
        if shown is None:
            continue
        rewards = episode.trajectory.rewards
        film = Film(
            updates, environment_steps, number, episode.seed, float(rewards.sum()), episode.success, len(rewards)
        )
        path = film.video(run)
        shown = np.concatenate([shown, shown[-1:].repeat(round(STILL * control_hz), axis=0)])
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, partial(write_mp4, frames=shown, fps=control_hz))
            write_text_atomically(path.with_suffix(".json"), json.dumps(asdict(film)) + "\n")
        except Exception as error:  # a codec that is missing raises errors of its own
            logger.warning("%s is left out (%s)", path, error)


def read_films(run: Path) -> list[Film]:
    """The films of a run in the order in which they were made; what is no film is passed over."""
    found = []
    for path in sorted((run / FOLDER).glob("*.json")):
        try:
            film = Film(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError) as error:
            logger.warning("%s is passed over (%s)", path, error)
            continue
        if film.video(run).exists():
            found.append(film)
    return found


def frames(observations: Mapping[str, Array]) -> npt.NDArray[np.uint8] | None:
    """Pictures to be shown, uint8 (T + 1, H, W, 3): cameras side by side, small ones magnified by a whole number.

    Args:
        observations: (T + 1, ...) by name, of which some are uint8 (T + 1, H, W, 3).

    Returns:
        None where there are no pictures; H and W are even.
    """
    cameras = [part for part in observations.values() if part.dtype == np.uint8 and part.ndim == 4]
    if not cameras:
        return None
    height = max(part.shape[1] for part in cameras)
    magnified = -(-LEAST // max(height, *(part.shape[2] for part in cameras)))
    beside = [np.pad(part, ((0, 0), (0, height - part.shape[1]), (0, 0), (0, 0))) for part in cameras]
    shown = np.concatenate(beside, axis=2).repeat(magnified, axis=1).repeat(magnified, axis=2)
    odd = [(0, side % 2) for side in shown.shape[1:3]]
    return np.pad(shown, ((0, 0), *odd, (0, 0)), mode="edge").astype(np.uint8, copy=False)
