"""Minari's datasets, and those that ``vie-rl collect`` wrote in its format."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rl_encoders.replay.trajectory import Array, Trajectory, to_unit
from vie import VieError

PREFIX = "minari:"
METADATA = Path("data/metadata.json")
FACTS = "vie_rl"
"""In the metadata of a dataset of ``vie-rl collect``: what it is."""
BOUNDS = "action_bounds"
"""Among the facts of any other dataset: the least and the largest of each component of its action space."""


def is_minari(folder: Path) -> bool:
    """Whether a folder holds a dataset in Minari's format."""
    return (folder / METADATA).is_file()


def load(path: str) -> Any:
    """Minari's own object for ``minari:ID`` or a folder.

    Raises:
        VieError: Minari is missing, or cannot open it.
    """
    try:
        import minari
    except ImportError as error:
        raise VieError(f"{path} needs Minari ({error}): pip install 'vie[minari]'") from error
    try:
        if path.startswith(PREFIX):
            return minari.load_dataset(path.removeprefix(PREFIX))
        return minari.MinariDataset(Path(path) / METADATA.parent)
    except Exception as error:  # it raises errors of many kinds
        raise VieError(f"{path} cannot be opened ({error}): `minari list local` names those on this machine") from error


def read(path: str) -> tuple[Callable[[], Iterator[Trajectory]], int, Mapping[str, Any]]:
    """What gives the trajectories, how many there are, and what ``vie-rl collect`` recorded of them, or ``BOUNDS``.

    Actions are brought from the bounds of the dataset's action space into [-1, 1], as environments take them. Parts of
    nested observations are named as in ``robot.hand``; an observation that is no mapping is ``pixels`` or ``state``.

    Raises:
        VieError: See ``load``; its actions have no bounds.
    """
    data = load(path)
    bounds = data.action_space
    if not hasattr(bounds, "low") or not (np.isfinite(bounds.low).all() and np.isfinite(bounds.high).all()):
        raise VieError(f"{path} has the actions {bounds}: agents act by bounded numbers")
    low, high = bounds.low.ravel().astype(np.float64), bounds.high.ravel().astype(np.float64)

    def trajectories() -> Iterator[Trajectory]:
        for episode in data.iterate_episodes():
            name = f"episode {episode.id} of {path}"
            ends = np.asarray(episode.terminations) | np.asarray(episode.truncations)
            if not len(ends) or not ends[-1] or ends[:-1].any():
                raise VieError(f"{name} does not end at its last step and there alone: leave it out, or mend it")
            actions = np.asarray(episode.actions, np.float64).reshape(len(ends), -1)
            yield Trajectory(
                name,
                dict(_parts(episode.observations)),
                to_unit(actions, low, high) if actions.shape[1] == len(low) else actions.astype(np.float32),
                np.asarray(episode.rewards, np.float32),
                bool(episode.terminations[-1]),
            )

    # ``vie-rl collect`` writes actions in [-1, 1], whatever bounds its environment has.
    facts = data.storage.metadata.get(FACTS) or {BOUNDS: [low.tolist(), high.tolist()]}
    return trajectories, int(data.total_episodes), facts


def _parts(observations: Any, above: str = "") -> Iterator[tuple[str, Array]]:
    if isinstance(observations, Mapping):
        for name, value in observations.items():
            yield from _parts(value, f"{above}.{name}" if above else name)
        return
    value = np.asarray(observations)
    picture = value.dtype == np.uint8 and value.ndim == 4
    numbers = np.issubdtype(value.dtype, np.floating)
    yield above or ("pixels" if picture else "state"), value.astype(np.float32) if numbers else value
