"""Actions that were recorded, with the state of the simulation in which they began: to be done again and seen."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rl_encoders.trajectories.d4rl import HDF5, ends_of, open_hdf5
from vie import VieError

ACTIONS = re.compile(r"(.+)/actions")
STATE, INFOS = "init/", "infos/"
NO_STATE = re.compile(r"action|log|goal")
"""What D4RL's files hold beside the state of the simulation."""


@dataclass(frozen=True)
class Recording:
    """Part of an episode.

    Attributes:
        name: For errors.
        actions: (T, A) float32.
        state: In which it began, by the names that the environment gives to its parts.
    """

    name: str
    actions: npt.NDArray[np.float32]
    state: Mapping[str, npt.NDArray[np.float64]]


def read_recordings(path: Path) -> list[Recording]:
    """The recordings of a file.

    Args:
        path: D4RL's format (``.hdf5``) with ``infos/qpos`` and its like; or ``.npz`` with ``NAME/actions`` and
            ``NAME/init/...`` for each.

    Raises:
        VieError: It cannot be read, or lacks states.
    """
    if path.suffix in HDF5:
        return _of_hdf5(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            content = {name: file[name] for name in file.files}
    except (OSError, ValueError) as error:
        raise VieError(f"{path} cannot be read ({error}): give a file of D4RL (.hdf5), or .npz") from error
    names = sorted(found[1] for name in content if (found := ACTIONS.fullmatch(name)))
    if not names:
        raise VieError(f"{path} holds no recordings: give NAME/actions and NAME/init/... for each")
    return [_recording(path, name, content[f"{name}/actions"], _below(content, f"{name}/{STATE}")) for name in names]


def _of_hdf5(path: Path) -> list[Recording]:
    with open_hdf5(path) as file:
        columns = {
            name: np.asarray(file[name][()]) for name in file if name != "infos" and hasattr(file[name], "shape")
        }
        names = [name for name in file.get("infos", ()) if not NO_STATE.search(name)]
        states = {name: np.asarray(file[INFOS + name][()]) for name in names}
    told = {"timeouts"} if "timeouts" in columns else {"observations", "next_observations"}
    if lacking := sorted({"actions", "terminals", *told} - columns.keys()):
        raise VieError(f"{path} lacks {', '.join(lacking)}: give a file as D4RL's")
    ends = np.flatnonzero(ends_of(columns))
    starts = [0, *(ends[:-1] + 1).tolist()]
    return [
        _recording(
            path,
            str(number),
            columns["actions"][start : end + 1],
            {name: state[start] for name, state in states.items()},
        )
        for number, (start, end) in enumerate(zip(starts, ends.tolist(), strict=True))
    ]


def _recording(path: Path, name: str, actions: npt.NDArray[Any], state: Mapping[str, npt.NDArray[Any]]) -> Recording:
    if not state:
        raise VieError(
            f"recording {name} of {path} does not say in which state of the simulation it began: give a file with "
            "infos/qpos and its like (.hdf5), or NAME/init/... (.npz)"
        )
    began = {part: np.asarray(value, np.float64) for part, value in state.items()}
    return Recording(f"recording {name} of {path}", np.asarray(actions, np.float32), began)


def _below(content: Mapping[str, npt.NDArray[Any]], prefix: str) -> dict[str, npt.NDArray[Any]]:
    return {name.removeprefix(prefix): value for name, value in content.items() if name.startswith(prefix)}
