"""D4RL's HDF5 files: all steps on end, cut into episodes here."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rl_encoders.replay.trajectory import Array, Trajectory
from vie import VieError

HDF5 = {".hdf5", ".h5"}
JUMP = 1e-6
"""Between what was seen last of a step and first of the next, where an episode began (Nakamoto, CORL issue 63)."""

NEEDED = ("observations", "actions", "rewards", "terminals")


def read(path: Path) -> tuple[Callable[[], Iterator[Trajectory]], None]:
    """What gives the trajectories of a file; only cutting it tells how many there are.

    An episode ends at a step that is terminal or timed out; where the file knows no timeouts, where the observation
    jumps. What was seen after its last step is taken from ``next_observations``. Without these, an episode that was cut
    off loses its last step, whose outcome nobody knows, and one that is terminal repeats its last observation, whose
    value nobody asks for.

    Raises:
        VieError: It cannot be read, or lacks something.
    """
    with open_hdf5(path) as file:
        missing = [name for name in NEEDED if name not in file]
        known = {"timeouts", "next_observations"} & set(file)
        lengths = {name: len(file[name]) for name in (*NEEDED, *known) if name in file}
    if missing:
        raise VieError(f"{path} has no {', '.join(missing)}: give a file of D4RL's format")
    if len(set(lengths.values())) != 1:
        raise VieError(f"{path} has columns of different lengths {lengths}: fetch it again")
    if not known:
        raise VieError(
            f"{path} has neither timeouts nor next_observations, so that nobody knows where its episodes end: add one"
        )

    def trajectories() -> Iterator[Trajectory]:
        with open_hdf5(path) as file:
            columns = {name: np.asarray(file[name][()]) for name in (*NEEDED, *sorted(known))}
        yield from _cut(path, columns)

    return trajectories, None


def open_hdf5(path: Path) -> Any:
    """An HDF5 file, to be closed.

    Raises:
        VieError: It cannot be read, or h5py is missing.
    """
    try:
        import h5py
    except ImportError as error:
        raise VieError(f"{path} needs h5py ({error}): pip install 'vie[minari]'") from error
    try:
        return h5py.File(path)
    except OSError as error:
        raise VieError(f"{path} cannot be read ({error}): fetch it again") from error


def ends_of(columns: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.bool_]:
    """Whether a step is the last of its episode: (N,)."""
    ends = columns["terminals"].astype(bool).reshape(-1)
    if "timeouts" in columns:
        ends = ends | columns["timeouts"].astype(bool).reshape(-1)
    else:
        ahead, after = columns["observations"][1:], columns["next_observations"][:-1]
        apart = (ahead.astype(np.float64) - after).reshape(len(ahead), -1)
        ends[:-1] |= np.linalg.norm(apart, axis=1) > JUMP
    # Of the last episode, what there is.
    ends[-1:] = True
    return ends


def _cut(path: Path, columns: dict[str, npt.NDArray[Any]]) -> Iterator[Trajectory]:
    first = 0
    for number, end in enumerate(np.flatnonzero(ends_of(columns)).tolist()):
        rows, terminal = slice(first, end + 1), bool(columns["terminals"].reshape(-1)[end])
        first = end + 1
        seen = columns["observations"][rows]
        steps = len(seen)
        if "next_observations" in columns:
            seen = np.concatenate([seen, columns["next_observations"][end : end + 1]])
        elif terminal:
            seen = np.concatenate([seen, seen[-1:]])
        else:
            steps -= 1
        if steps == 0:
            continue
        yield Trajectory(
            f"episode {number} of {path}",
            _named(seen),
            np.asarray(columns["actions"][rows][:steps], np.float32).reshape(steps, -1),
            np.asarray(columns["rewards"][rows][:steps], np.float32).reshape(-1),
            terminal,
        )


def _named(seen: npt.NDArray[Any]) -> dict[str, Array]:
    return {"pixels": seen} if seen.dtype == np.uint8 and seen.ndim == 4 else {"state": np.asarray(seen, np.float32)}
