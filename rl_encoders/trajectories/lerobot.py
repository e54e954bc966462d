"""Episodes of LeRobot's datasets as trajectories."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rl_encoders.datasets import INFO, Episode, open_dataset
from rl_encoders.replay.trajectory import Array, Trajectory
from vie import VieError

REWARD, DONE, SUCCESS = "next.reward", "next.done", "next.success"
SEEN = "observation."


def is_lerobot(folder: Path) -> bool:
    """Whether a folder holds a LeRobot dataset."""
    return (folder / INFO).is_file()


def read(
    path: str, demonstrations: bool
) -> tuple[
    Callable[[], Iterator[Trajectory]], int, Mapping[str, float | None], Callable[[], Iterator[npt.NDArray[np.float32]]]
]:
    """What gives the trajectories, how many there are, frames of a second (``fps``), and what gives actions alone.

    ``observation.images.NAME`` is ``NAME``, ``observation.image`` is ``pixels`` and ``observation.state`` is ``state``.
    Actions are as they were recorded. A frame is seen before each action and none after the last: an episode that ends
    in success (``next.success``, or ``demonstrations``) is terminal, and repeats its last observation; any other loses
    its last action.

    Args:
        path: Folder of the dataset.
        demonstrations: Whether every episode counts as a success, rewarded by 1 at its last step and 0 before.

    Raises:
        VieError: See ``open_dataset``.
    """
    dataset = open_dataset(path)

    def trajectories() -> Iterator[Trajectory]:
        for episode in dataset:
            yield _trajectory(episode, f"{episode.name} of {path}", demonstrations)

    def actions() -> Iterator[npt.NDArray[np.float32]]:
        for episode in dataset:
            yield _actions(episode, f"{episode.name} of {path}")

    return trajectories, len(dataset), {"fps": dataset.fps}, actions


def _actions(episode: Episode, name: str) -> npt.NDArray[np.float32]:
    if "action" not in episode.numbers:
        raise VieError(f"{name} has no actions: give a dataset that has")
    actions = np.asarray(episode.numbers["action"], np.float32)
    if len(actions) == 0:
        raise VieError(f"{name} has no steps: leave it out")
    return actions.reshape(len(actions), -1)


def _trajectory(episode: Episode, name: str, demonstrations: bool) -> Trajectory:
    actions = _actions(episode, name)
    length = len(actions)
    if demonstrations:
        rewards = np.zeros(length, np.float32)
        rewards[-1] = 1.0
        terminal = True
    elif REWARD in episode.numbers:
        rewards = np.asarray(episode.numbers[REWARD], np.float32).reshape(length)
        terminal = SUCCESS in episode.numbers and bool(np.ravel(episode.numbers[SUCCESS])[-1])
    else:
        raise VieError(f"{name} has no rewards ({REWARD}): give data.demonstrations=true if every episode is a success")
    seen: dict[str, Array] = {_short(camera): frames().numpy() for camera, frames in episode.cameras.items()}
    seen |= {
        _short(part): np.asarray(value, np.float32)
        for part, value in episode.numbers.items()
        if part.startswith(SEEN) and np.ndim(value) == 2
    }
    if terminal:
        seen = {part: np.concatenate([value, value[-1:]]) for part, value in seen.items()}
    else:
        actions, rewards = actions[:-1], rewards[:-1]
    return Trajectory(name, seen, actions, rewards, terminal)


def _short(name: str) -> str:
    short = name.removeprefix(SEEN).removeprefix("images.")
    return "pixels" if short == "image" else short
