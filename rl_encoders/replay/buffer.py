"""Transitions on the device, every frame once, drawn as functions of a seed and a step."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vie import VieError

Kept = Mapping[str, Tensor]
"""What is kept of observations, by name: pictures, numbers, or features of a frozen trunk."""


class Batch(NamedTuple):
    """Transitions.

    Attributes:
        seen: What is kept of s: (B, ...) by name.
        next_seen: Likewise of s'.
        action: (B, A).
        reward: (B,).
        terminal: (B,) float: 1 where s' is terminal.
        mc_return: (B,), the discounted rewards from s on.
    """

    seen: dict[str, Tensor]
    next_seen: dict[str, Tensor]
    action: Tensor
    reward: Tensor
    terminal: Tensor
    mc_return: Tensor


def joined(one: Batch, two: Batch) -> Batch:
    """The transitions of both."""

    def both(first: dict[str, Tensor], second: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: torch.cat([tensor, second[name]]) for name, tensor in first.items()}

    return Batch(
        both(one.seen, two.seen),
        both(one.next_seen, two.next_seen),
        *(torch.cat(pair) for pair in zip(one[2:], two[2:], strict=True)),
    )


class Replay:
    """Trajectories on end in tensors of a fixed length; the oldest go first.

    A trajectory of T steps takes T + 1 rows: s' of a row is the next one, so no picture is kept twice. Rows are written
    in the order in which trajectories come, so that the first T rows are what was known after T (OOO's prefix). Of one
    that is half overwritten, those transitions are left whose clips are there.
    """

    def __init__(
        self,
        rows: int,
        device: torch.device | str = "cpu",
        back: Mapping[str, Sequence[int]] | None = None,
        drawn_to: torch.device | str | None = None,
    ) -> None:
        """Makes an empty one; its memory is taken when the first trajectory tells what a row holds.

        Args:
            rows: Observations that it has room for.
            device: On which it keeps them.
            back: How many steps back each frame of a clip lies, as (4, 2, 0), for what is drawn as clips; before the
                first observation of a trajectory that one stands in (``rl_encoders.ClipBuffer.back``).
            drawn_to: The device of what is drawn; None for that on which it keeps them.
        """
        self.rows, self.device = rows, torch.device(device)
        self.drawn_to = self.device if drawn_to is None else torch.device(drawn_to)
        self.back = {name: torch.tensor(steps, device=self.device) for name, steps in (back or {}).items()}
        self.columns: dict[str, Tensor] = {}
        self.action = self.reward = self.terminal = self.mc_return = self.age = torch.empty(0)
        self.reach = max((max(steps) for steps in (back or {}).values()), default=0)
        self.written = 0
        self._ends: deque[int] = deque()
        self._oldest = 0
        self._starts: npt.NDArray[np.int64] | None = None

    def add(
        self,
        kept: Kept,
        action: npt.NDArray[np.float32],
        reward: npt.NDArray[np.float32],
        terminal: bool,
        mc_return: npt.NDArray[np.float32],
    ) -> None:
        """Writes a trajectory of T steps.

        Args:
            kept: (T + 1, ...) by name.
            action: (T, A).
            reward: (T,).
            terminal: Whether its end is.
            mc_return: (T,).

        Raises:
            VieError: It is longer than the buffer, or unlike those before it.
        """
        length = len(action) + 1
        if length > self.rows:
            raise VieError(
                f"a trajectory of {length} observations does not fit into a replay of {self.rows}: enlarge it"
            )
        if not self.columns:
            self._take_memory(kept, action.shape[1])
        known = {name: (tensor.shape[1:], tensor.dtype) for name, tensor in self.columns.items()}
        given = {name: (tensor.shape[1:], tensor.dtype) for name, tensor in kept.items()}
        if known != given or any(len(tensor) != length for tensor in kept.values()):
            raise VieError(f"a trajectory of {given} does not fit into a replay of {known}: encode all of them alike")
        where = (self.written + torch.arange(length)).remainder(self.rows).to(self.device)
        for name, tensor in kept.items():
            self.columns[name][where] = tensor.to(self.device)
        steps = where[:-1]
        ends = np.zeros(len(reward), np.float32)
        ends[-1] = terminal
        for column, values in (
            (self.action, action), (self.reward, reward), (self.terminal, ends), (self.mc_return, mc_return)
        ):  # fmt: skip
            column[steps] = torch.as_tensor(values, dtype=torch.float32).to(self.device)
        self.age[where] = torch.arange(length, device=self.device)
        self.written += length
        self._ends.append(self.written - 1)
        while self._ends[0] < self.written - self.rows:
            self._oldest = self._ends.popleft() + 1
        self._starts = None

    def __len__(self) -> int:
        """Transitions that can be drawn."""
        return len(self.starts)

    def draw(self, count: int, seed: tuple[int, ...], of: npt.NDArray[np.int64] | None = None) -> Batch:
        """Transitions drawn with replacement, each as likely.

        Args:
            count: B.
            seed: Tells the draw, as (seed of the run, update): a run that goes on draws what it would have drawn.
            of: Some of ``starts``; None draws of all.

        Raises:
            VieError: There are none.
        """
        if not len(self):
            raise VieError("the replay has no transitions to draw: add a trajectory first")
        starts = self.starts if of is None else of
        return self.at(starts[np.random.default_rng(seed).integers(len(starts), size=count)])

    def of_largest_reward(self) -> npt.NDArray[np.int64]:
        """Those of ``starts`` whose reward is the largest there is."""
        rewards = self.reward.cpu().numpy()[self.starts % self.rows]
        return self.starts[rewards >= rewards.max()]

    def at(self, numbers: npt.NDArray[np.int64]) -> Batch:
        """The transitions that begin at some observations, counted since the first that was ever written."""
        rows = torch.from_numpy(numbers % self.rows).to(self.device, non_blocking=True)
        return Batch(
            self._seen(rows),
            self._seen((rows + 1).remainder(self.rows)),
            *(self._handed(column[rows]) for column in (self.action, self.reward, self.terminal, self.mc_return)),
        )

    def _seen(self, rows: Tensor) -> dict[str, Tensor]:
        found = {}
        for name, column in self.columns.items():
            if name in self.back:
                back = torch.minimum(self.back[name], self.age[rows][:, None])
                found[name] = self._handed(column[(rows[:, None] - back).remainder(self.rows)])
            else:
                found[name] = self._handed(column[rows])
        return found

    def _handed(self, drawn: Tensor) -> Tensor:
        if self.drawn_to == self.device:
            return drawn
        # From pinned memory the host need not wait until it is copied.
        return (drawn.pin_memory() if self.drawn_to.type == "cuda" else drawn).to(self.drawn_to, non_blocking=True)

    @property
    def starts(self) -> npt.NDArray[np.int64]:
        """The observations at which transitions begin, counted since the first that was ever written, ascending."""
        if self._starts is None:
            # Filling a replay does not ask for them, so that it takes no longer for what it holds already.
            self._starts = self._found_starts()
        return self._starts

    def _take_memory(self, kept: Kept, action_dim: int) -> None:
        self.columns = {
            name: torch.empty(self.rows, *tensor.shape[1:], dtype=tensor.dtype, device=self.device)
            for name, tensor in kept.items()
        }
        self.action = torch.zeros(self.rows, action_dim, device=self.device)
        self.reward, self.terminal, self.mc_return = (torch.zeros(self.rows, device=self.device) for _ in range(3))
        self.age = torch.zeros(self.rows, dtype=torch.int64, device=self.device)

    def _found_starts(self) -> npt.NDArray[np.int64]:
        if not self._ends:
            return np.empty(0, np.int64)
        first = max(0, self.written - self.rows)
        if self._oldest < first:
            # It has lost its beginning, and with it the clips that reach back there.
            first = min(first + self.reach, self._ends[0] + 1)
        begins = np.ones(self.written - first, bool)
        ends = np.asarray(self._ends, np.int64)
        begins[ends[ends >= first] - first] = False
        return first + np.flatnonzero(begins)
