"""The offline data of a run, as its agent keeps it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from rl_encoders.agents.perception import Perception
from rl_encoders.environments import Environment
from rl_encoders.replay.trajectory import Space, Trajectory
from rl_encoders.training.build import gamma_of, parts_seen
from rl_encoders.training.settings import TrainConfig
from rl_encoders.training.storage import Stored, read_offline
from rl_encoders.trajectories import Trajectories, open_trajectories
from rl_encoders.trajectories.minari import BOUNDS
from vie.errors import VieError


def open_data(config: TrainConfig) -> Trajectories:
    """The dataset of a run; raises ``VieError`` as ``open_trajectories``."""
    return open_trajectories(config.dataset, config.data.demonstrations)


def space_of_run(config: TrainConfig, worlds: Sequence[Environment]) -> Space:
    """What a run's environment gives and takes; without one, what its data holds.

    Raises:
        VieError: There is neither; or the data is of another environment, or its actions have other bounds.
    """
    if worlds:
        if config.data.scale_actions:
            raise VieError(
                f"data.scale_actions=true is for data without an environment: {config.environment.name} takes actions "
                "in [-1, 1], and the data has to hold what it took"
            )
        if config.dataset and not config.data.of_another_world:
            _check_same_world(config, open_data(config).facts, worlds[0])
        return worlds[0].space
    if not config.dataset:
        raise VieError("there is nothing to learn from: give dataset, environment.name, or both")
    first: Trajectory | None = next(iter(open_data(config)), None)
    if first is None:
        raise VieError(f"{config.dataset} holds no episodes: give another dataset")
    high = np.ones(first.actions.shape[1], np.float32)
    low = -high
    if config.data.scale_actions:
        low, high = _bounds(open_data(config).actions())
    return Space({name: (part.shape[1:], part.dtype) for name, part in first.observations.items()}, low, high)


def _bounds(actions: Iterable[npt.NDArray[np.float32]]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The least and the largest of each component (A,); about one that never changes, room."""
    ends = [(np.fmin.reduce(one), np.fmax.reduce(one)) for one in actions if len(one)]
    if not ends or len({least.shape for least, _ in ends}) > 1:
        raise VieError("data.scale_actions=true needs episodes whose actions have as many components: mend the dataset")
    low, high = np.fmin.reduce([least for least, _ in ends]), np.fmax.reduce([most for _, most in ends])
    room = np.where(low == high, np.maximum(1, np.abs(low)), 0).astype(np.float32)
    return low - room, high + room


def read_data(config: TrainConfig, space: Space, eyes: Perception) -> list[Stored]:
    """Every trajectory of a run's dataset, seen once; none where it has no dataset.

    Raises:
        VieError: It does not fit the space; names the episode.
    """
    if not config.dataset:
        return []
    # Only what the agent sees has to be there.
    seen = {name: kind for name, kind in space.observations.items() if name in parts_seen(config)}
    wanted = Space(seen, space.low, space.high)
    data = replace(config.data, gamma=gamma_of(config.agent))
    return list(read_offline(open_data(config), wanted, eyes, data))


def _check_same_world(config: TrainConfig, recorded: Mapping[str, Any], world: Environment) -> None:
    wanted = world.wanted
    # Steps as they came out, whoever had set them.
    own = {"environment": wanted.name, "size": wanted.size, "max_steps": world.max_steps, "reward": wanted.reward}
    own["arguments"] = json.loads(json.dumps(wanted.arguments))
    if not config.encoder.source:
        del own["size"]  # of pictures that nobody sees
    for name, value in own.items():
        if recorded.get(name, value) != value:
            setting = "name" if name == "environment" else name
            raise VieError(
                f"{config.dataset} was collected with {name}={recorded[name]!r}, and the run's environment has "
                f"{value!r}: give environment.{setting} as it was there, or data.of_another_world=true if you mean it"
            )
    bounds = recorded.get(BOUNDS, world.bounds)
    if np.shape(bounds) == np.shape(world.bounds) and not np.allclose(bounds, world.bounds, rtol=1e-4):
        raise VieError(
            f"the actions of {config.dataset} lie between {bounds[0]} and {bounds[1]}, and {world.name} takes such "
            f"between {world.bounds[0]} and {world.bounds[1]}: both would become [-1, 1], and the agent would do "
            "something else than the data; bring the data to the environment's bounds, or give "
            "data.of_another_world=true if you mean it"
        )
