"""Batches of offline data and of an agent's own."""

from collections.abc import Iterable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rl_encoders.replay.buffer import Batch, Replay, joined
from rl_encoders.training.config import DataConfig
from rl_encoders.training.storage import Stored


class Source(Protocol):
    """What transitions are drawn from: a replay, or one of two parts."""

    def __len__(self) -> int:
        """Transitions that can be drawn."""
        ...

    def draw(self, count: int, seed: tuple[int, ...], of: npt.NDArray[np.int64] | None = None) -> Batch:
        """See ``Replay.draw``."""
        ...

    def of_largest_reward(self) -> npt.NDArray[np.int64]:
        """See ``Replay.of_largest_reward``."""
        ...


class Parted:
    """A replay that holds data of others first and then what an agent has found, each drawn by its share.

    OOO retrains on both so (Sobol Mark et al. 2023): on Adroit on half of each, however much there is of it.
    """

    def __init__(self, replay: Replay, first: int, mix: float) -> None:
        """Takes a replay that is filled.

        Args:
            replay: With both.
            first: Transitions of the first part; see ``transitions``.
            mix: Its share in a batch, as of ``draw_mixed``.
        """
        self.replay, self.mix = replay, mix
        self.others, self.own = replay.starts[:first], replay.starts[first:]

    def __len__(self) -> int:
        return len(self.replay)

    def draw(self, count: int, seed: tuple[int, ...], of: npt.NDArray[np.int64] | None = None) -> Batch:
        """As ``Replay.draw``; without ``of``, ``mix`` of them are of the first part."""
        if of is not None or not len(self.others) or not len(self.own):
            return self.replay.draw(count, seed, of)
        of_others = _share(count, self.mix, len(self.others), len(self.own))
        parts = [(self.others, of_others, 0), (self.own, count - of_others, 1)]
        drawn = [self.replay.draw(some, (*seed, number), part) for part, some, number in parts if some]
        return drawn[0] if len(drawn) == 1 else joined(*drawn)

    def of_largest_reward(self) -> npt.NDArray[np.int64]:
        """Those of what the agent has found whose reward is the largest there, as OOO adds them."""
        part = self.own if len(self.own) else self.others
        rewards = self.replay.reward.cpu().numpy()[part % self.replay.rows]
        return part[rewards >= rewards.max()]


def transitions(data: Iterable[Stored], config: DataConfig) -> int:
    """How many of them a replay holds of some trajectories: those of chunks, if that is how actions are chosen."""
    return sum(
        len(part.action)
        for one in data
        for part in (one.chunked(config.chunk, config.gamma) if config.chunk > 1 else [one])
    )


def draw_mixed(offline: Source | None, online: Source | None, count: int, mix: float, seed: tuple[int, ...]) -> Batch:
    """Transitions of both.

    Args:
        offline: The offline data, if any.
        online: The agent's own, if any.
        count: B.
        mix: Share of the offline data, ``int(B * mix)`` as Cal-QL rounds it; -1 is its share in both together.
        seed: Tells the draw.

    Raises:
        VieError: Both are empty.
    """
    if offline is None or not len(offline):
        assert online is not None
        return online.draw(count, (*seed, 1))
    if online is None or not len(online):
        return offline.draw(count, (*seed, 0))
    of_data = _share(count, mix, len(offline), len(online))
    if of_data in (0, count):
        return (online if of_data == 0 else offline).draw(count, (*seed, int(of_data == 0)))
    return joined(offline.draw(of_data, (*seed, 0)), online.draw(count - of_data, (*seed, 1)))


def _share(count: int, mix: float, offline: int, online: int) -> int:
    """How many of a batch are offline data, of which there are so many beside those online."""
    return int(count * (offline / (offline + online) if mix < 0 else mix))
