"""Datasets of trajectories by their paths."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rl_encoders.replay.trajectory import Trajectory
from vie import VieError

Actions = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Trajectories:
    """Some trajectories, read one after another.

    Attributes:
        name: As they were asked for.
        trajectories: Gives them, each time it is called.
        count: How many there are; None where only reading them tells.
        facts: What is told of all of them: what ``vie-rl collect`` recorded, as their environment; LeRobot's ``fps``.
        actions_alone: Gives the actions (T, A) of each without reading a picture, where that can be done.
    """

    name: str
    trajectories: Callable[[], Iterator[Trajectory]]
    count: int | None
    facts: Mapping[str, Any] = field(default_factory=dict)
    actions_alone: Callable[[], Iterator[Actions]] | None = None

    def __iter__(self) -> Iterator[Trajectory]:
        return self.trajectories()

    def actions(self) -> Iterator[Actions]:
        """The actions (T, A) of each."""
        return self.actions_alone() if self.actions_alone else (one.actions for one in self)


def open_trajectories(path: str, demonstrations: bool = False) -> Trajectories:
    """Opens a dataset.

    Args:
        path: Folder that ``vie-rl collect`` wrote; ``minari:ID`` of a Minari dataset on this machine (extra
            ``minari``); an HDF5 file as D4RL's; folder of a LeRobot dataset.
        demonstrations: Of a LeRobot dataset without rewards: whether every episode counts as a success, rewarded by 1
            at its last step, which is terminal.

    Raises:
        VieError: It is none of these; reading it raises one that names the episode that is not whole.
    """
    from rl_encoders.trajectories import d4rl, lerobot, minari

    if path.startswith(minari.PREFIX) or minari.is_minari(Path(path)):
        return Trajectories(path, *minari.read(path))
    if Path(path).suffix in d4rl.HDF5:
        return Trajectories(path, *d4rl.read(Path(path)))
    if lerobot.is_lerobot(Path(path)):
        return Trajectories(path, *lerobot.read(path, demonstrations))
    raise VieError(
        f"{path} holds no trajectories that are known: give a folder of vie-rl collect, minari:ID, a D4RL file "
        "(.hdf5) or a LeRobot folder"
    )
