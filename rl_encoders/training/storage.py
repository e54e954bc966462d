"""What an agent has kept of its episodes, on disk before the next one begins."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rl_encoders.agents.perception import Perception
from rl_encoders.agents.returns import monte_carlo_returns
from rl_encoders.replay.buffer import Replay
from rl_encoders.replay.trajectory import Space, Trajectory, to_unit
from rl_encoders.training.config import DataConfig, RunConfig
from vie.errors import VieError
from vie.files import write_atomically

KEPT = "kept."


@dataclass(frozen=True)
class Stored:
    """A trajectory as a replay takes it; see ``Replay.add``."""

    kept: dict[str, Tensor]
    action: npt.NDArray[np.float32]
    reward: npt.NDArray[np.float32]
    terminal: bool
    mc_return: npt.NDArray[np.float32]

    def put_into(self, replay: Replay, config: DataConfig) -> None:
        """Adds it, in chunks of actions if that is how they are chosen."""
        for one in self.chunked(config.chunk, config.gamma) if config.chunk > 1 else [self]:
            replay.add(one.kept, one.action, one.reward, one.terminal, one.mc_return)

    def chunked(self, length: int, gamma: float) -> Iterator["Stored"]:
        """Chunks of actions as single actions: a trajectory of those that begin at each remainder of the step.

        No observation is in two of them. The last action stands in for those that a terminal state made needless;
        what time cut off within a chunk is left out, as what would have come of it is unknown.
        """
        steps = len(self.action)
        discounts = gamma ** np.arange(length)
        for first in range(min(length, steps)):
            starts = np.arange(first, steps if self.terminal else steps - length + 1, length)
            if not len(starts):
                continue
            within = starts[:, None] + np.arange(length)
            there = np.minimum(within, steps - 1)
            end = min(starts[-1] + length, steps)
            rows = torch.from_numpy(np.append(starts, end))
            yield Stored(
                {name: tensor[rows] for name, tensor in self.kept.items()},
                self.action[there].reshape(len(starts), -1),
                (self.reward[there] * (within < steps) * discounts).sum(axis=1).astype(np.float32),
                self.terminal and end == steps,
                self.mc_return[starts],
            )


def stored(trajectory: Trajectory, kept: dict[str, Tensor], config: DataConfig) -> Stored:
    """Scales rewards, computes returns, and takes actions off the edge.

    Args:
        trajectory: Of T steps.
        kept: (T + 1, ...) by name, what is kept of its observations.
        config: How.
    """
    reward = (trajectory.rewards * config.reward_scale + config.reward_bias).astype(np.float32)
    return Stored(
        kept,
        trajectory.actions.clip(-config.edge, config.edge),
        reward,
        trajectory.terminal,
        monte_carlo_returns(reward, config.gamma, config.failure_reward),
    )


def read_offline(
    trajectories: Iterable[Trajectory], space: Space | None, eyes: Perception, config: DataConfig
) -> Iterator[Stored]:
    """Offline data, checked against the environment where there is one, and seen once; actions are in [-1, 1] then.

    Raises:
        VieError: A trajectory does not fit; it is named.
    """
    for trajectory in trajectories:
        if space is not None:
            trajectory.check(space)
            if not space.is_unit:
                scaled = to_unit(trajectory.actions.astype(np.float64), space.low, space.high)
                trajectory = replace(trajectory, actions=scaled)
        yield stored(trajectory, eyes.keep(trajectory.observations), config)


def new_replay(rows: int, eyes: Perception, device: torch.device, config: DataConfig) -> Replay:
    """An empty replay where the settings say that replays live, which draws to an agent's device."""
    lives = device if config.device in {"auto", device.type} else torch.device(config.device)
    return Replay(rows, lives, eyes.back, device)


def filled(
    data: Iterable[Stored], eyes: Perception, device: torch.device, config: DataConfig, *, emptied: bool = False
) -> Replay:
    """A replay that has room for all of some data, and holds it.

    Args:
        data: In the order in which it is kept.
        eyes: That have seen it.
        device: Of the agent that it is drawn for.
        config: How.
        emptied: Whether ``data`` is a list that is emptied on the way, so that nothing is held twice.
    """
    everything = data if emptied and isinstance(data, list) else list(data)
    replay = new_replay(max(1, sum(len(one.action) + config.chunk for one in everything)), eyes, device, config)
    everything.reverse()
    while everything:
        everything.pop().put_into(replay, config)
    return replay


def rows_needed(config: RunConfig, max_steps: int | None) -> int:
    """Observations that the replay of a run's own episodes has to hold: never more than ``config.data.rows``.

    However short its episodes are, none is overwritten before that many rows are taken.

    Args:
        config: Of the run.
        max_steps: Of an episode; None if nobody says.

    Raises:
        VieError: An episode as long as that would not fit.
    """
    if max_steps is None:
        return config.data.rows
    longest = math.ceil(max_steps / config.data.chunk) + 1
    if config.online_steps and longest > config.data.rows:
        raise VieError(
            f"data.rows={config.data.rows} are too few for an episode of {max_steps} steps: give at least {longest}, "
            "or lower environment.max_steps"
        )
    # Of an episode, or of each chain of its chunks, as many rows are taken as it has steps, and one for its end; there
    # are no more chains than steps. The last episode may begin a step before the end.
    return min(config.data.rows, 2 * (config.online_steps + max_steps))


def episode_path(run: Path, number: int) -> Path:
    """Where an episode of a run lies."""
    return run / "episodes" / f"{number:06d}.safetensors"


def episodes_until(run: Path, steps: int) -> Iterator[Stored]:
    """The episodes of a run that were over after so many steps of the environment, in their order.

    Raises:
        VieError: The run has not come so far.
    """
    taken = number = 0
    while taken < steps:
        path = episode_path(run, number)
        if not path.exists():
            raise VieError(f"{run} holds {taken} steps of the environment, not {steps}: train it further first")
        one, _ = load_episode(path)
        taken, number = taken + len(one.action), number + 1
        if taken <= steps:
            yield one


def save_episode(path: Path, one: Stored, attempts: int) -> None:
    """Writes an episode whole, or not at all; with it how many were begun by then."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {KEPT + name: tensor.cpu().contiguous() for name, tensor in one.kept.items()}
    tensors |= {"action": torch.from_numpy(one.action), "reward": torch.from_numpy(one.reward)}
    tensors |= {"mc_return": torch.from_numpy(one.mc_return), "terminal": torch.tensor(one.terminal)}
    tensors["attempts"] = torch.tensor(attempts)
    write_atomically(path, lambda partial: save_file(tensors, partial))


def load_episode(path: Path) -> tuple[Stored, int]:
    """What ``save_episode`` wrote.

    Raises:
        VieError: It is missing or damaged.
    """
    try:
        tensors = load_file(path)
        one = Stored(
            {name.removeprefix(KEPT): tensor for name, tensor in tensors.items() if name.startswith(KEPT)},
            tensors["action"].numpy(),
            tensors["reward"].numpy(),
            bool(tensors["terminal"]),
            tensors["mc_return"].numpy(),
        )
        return one, int(tensors["attempts"])
    except Exception as error:  # safetensors raises errors of its own
        raise VieError(
            f"{path} cannot be read ({error}): the run cannot go on without it; begin another run"
        ) from error
