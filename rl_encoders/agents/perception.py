"""What an agent keeps of observations, and what its networks see of them.

A trunk that stays frozen sees every picture once, when its trajectory is stored: its features are kept in place of the
pixels. One that is trained, now or later, sees the pixels at every update.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rl_encoders.clip_buffer import ClipBuffer
from rl_encoders.encoder import VisualEncoder
from rl_encoders.replay.trajectory import Array
from rl_encoders.shift import draw_shifts, shift
from vie import VieError

FOREVER = 2**62
"""A step that no training comes to."""

CHUNK = 64
"""Observations that go through a frozen trunk at once."""


class Perception(Protocol):
    """Between observations, what is kept of them, and the vectors z that networks take.

    Attributes:
        dim: Length of z.
        back: For ``Replay``: what it is to hand out as clips.
        reach: Observations before the newest that ``keep_newest`` looks at.
        augments: Whether ``vector`` takes shifts.
    """

    dim: int
    back: Mapping[str, Sequence[int]]
    reach: int
    augments: bool

    def keep(self, observations: Mapping[str, Array]) -> dict[str, Tensor]:
        """What is stored of the observations (T, ...) of a trajectory: (T, ...) by name, on the CPU."""
        ...

    def keep_newest(self, histories: Sequence[Sequence[Mapping[str, Array]]]) -> dict[str, Tensor]:
        """The same of the newest observation of each of B episodes: (B, ...) by name.

        Args:
            histories: Observations of each, the newest last: that and ``reach`` before it, or all that there are.
        """
        ...

    def advance(self, step: int, optimizer: Optimizer | None) -> None:
        """Trains what a schedule says is trained from this update on, and gives it to an optimizer."""
        ...

    def vector(self, seen: Mapping[str, Tensor], shifts: Tensor | None = None) -> Tensor:
        """Vectors z, (B, dim), of what was stored; gradients go as far as there is something to train."""
        ...

    def param_groups(self, lr: float) -> list[dict[str, Any]]:
        """What an optimizer has to train of it."""
        ...

    def shifts(self, count: int) -> Tensor:
        """Drawn for some observations: (count, 2)."""
        ...


class States(nn.Module):
    """Numbers as they are: agents without eyes."""

    augments, reach = False, 0

    def __init__(self, lengths: Mapping[str, int]) -> None:
        """Takes parts of the observation, and their lengths."""
        super().__init__()
        self.lengths = dict(lengths)
        self.dim = sum(lengths.values())
        self.back: Mapping[str, Sequence[int]] = {}

    def keep(self, observations: Mapping[str, Array]) -> dict[str, Tensor]:
        return _numbers(observations, self.lengths)

    def keep_newest(self, histories: Sequence[Sequence[Mapping[str, Array]]]) -> dict[str, Tensor]:
        return _numbers(_newest(histories, self.lengths), self.lengths)

    def advance(self, step: int, optimizer: Optimizer | None) -> None:
        """Nothing is ever frozen."""

    def vector(self, seen: Mapping[str, Tensor], shifts: Tensor | None = None) -> Tensor:
        return torch.cat([seen[name] for name in self.lengths], dim=1)

    def param_groups(self, lr: float) -> list[dict[str, Any]]:
        return []

    def shifts(self, count: int) -> Tensor:
        raise NotImplementedError("numbers are not shifted")


class Eyes(nn.Module):
    """Pixels through an encoder."""

    def __init__(self, encoder: VisualEncoder, control_hz: float, most_shift: int = 4) -> None:
        """Takes an encoder.

        Args:
            encoder: Whose observations hold one clip.
            control_hz: Observations in a second.
            most_shift: Pixels that a trained trunk's pictures are shifted by at most; 0 for none.

        Raises:
            VieError: The encoder takes several clips.
        """
        super().__init__()
        if encoder.heads.history != 1:
            raise VieError(f"history={encoder.heads.history}: agents keep single clips, so load the encoder with 1")
        self.encoder, self.dim, self.most_shift = encoder, encoder.output_dim, most_shift
        self.clip_back = ClipBuffer(encoder.sampling, control_hz).back
        schedule, trunk = encoder.schedule, encoder.trunk
        self.keeps_features = schedule.first_trained(trunk, FOREVER) == len(trunk.stages)
        still = self.keeps_features or encoder.sampling.frames == 1
        back: list[int] = self.clip_back.tolist()
        self.back: Mapping[str, Sequence[int]] = {} if still else dict.fromkeys(encoder.heads.cameras, back)
        self.reach = int(self.clip_back[0]) if self.keeps_features else 0
        self.augments = not self.keeps_features and most_shift > 0
        # A trunk that is frozen for now looks for pictures that it has seen; one that unfreezes changes its networks.
        self.capturable = self.keeps_features or len(schedule.trained) == 1

    def keep(self, observations: Mapping[str, Array]) -> dict[str, Tensor]:
        heads = self.encoder.heads
        pictures = {name: torch.from_numpy(np.ascontiguousarray(observations[name])) for name in heads.cameras}
        if self.keeps_features:
            for name, frames in pictures.items():
                clips = (torch.arange(len(frames))[:, None] - torch.from_numpy(self.clip_back)).clamp(min=0)
                # A dataset waits here until all of it is seen, and a replay takes it over then.
                pictures[name] = self._features(frames[rows] for rows in clips.split(CHUNK)).cpu()
        return {**pictures, **_numbers(observations, heads.proprio or {})}

    def keep_newest(self, histories: Sequence[Sequence[Mapping[str, Array]]]) -> dict[str, Tensor]:
        heads = self.encoder.heads
        numbers = _numbers(_newest(histories, heads.proprio or {}), heads.proprio or {})
        if not self.keeps_features:
            newest = _newest(histories, heads.cameras)
            return {**{name: torch.from_numpy(pictures) for name, pictures in newest.items()}, **numbers}
        found = {}
        for name in heads.cameras:
            clips = [np.stack([one[max(0, len(one) - 1 - back)][name] for back in self.clip_back]) for one in histories]
            found[name] = self._features(torch.from_numpy(np.stack(clips)).split(CHUNK))
        return {**found, **numbers}

    @torch.no_grad()
    def _features(self, clips: Iterable[Tensor]) -> Tensor:
        return torch.cat([self.encoder.features(some) for some in clips]).to(self.encoder.kept_dtype)

    def advance(self, step: int, optimizer: Optimizer | None) -> None:
        self.encoder.advance(step, optimizer)

    def vector(self, seen: Mapping[str, Tensor], shifts: Tensor | None = None) -> Tensor:
        heads = self.encoder.heads
        if self.keeps_features:
            numbers = [seen[name] for name in heads.proprio or {}]
            return self.encoder.read(
                [seen[name].float() for name in heads.cameras], torch.cat(numbers, dim=1) if numbers else None
            )
        moved = {name: seen[name] if shifts is None else shift(seen[name], shifts) for name in heads.cameras}
        given = {**seen, **moved}
        return self.encoder(given if heads.views or heads.proprio else given["pixels"])

    def param_groups(self, lr: float) -> list[dict[str, Any]]:
        return self.encoder.param_groups(lr)

    def shifts(self, count: int) -> Tensor:
        return draw_shifts(count, self.most_shift, self.encoder.device)


def _numbers(observations: Mapping[str, Array], names: Iterable[str]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.asarray(observations[name], np.float32)) for name in names}


def _newest(histories: Sequence[Sequence[Mapping[str, Array]]], names: Iterable[str]) -> dict[str, Any]:
    return {name: np.stack([history[-1][name] for history in histories]) for name in names}


def of_its_own(perception: nn.Module) -> nn.Module:
    """A copy that learns for itself; a frozen trunk is shared."""
    return copy.deepcopy(perception)
