"""What all agents share: what they see, optimizers, and how they go on."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rl_encoders.agents.perception import Perception, of_its_own
from rl_encoders.replay.buffer import Batch

Metrics = dict[str, Tensor]
"""Numbers of an update, still on the device: reading one waits for it."""


class Agent(nn.Module):
    """An actor and a critic that see through encoders.

    Attributes:
        eyes: Of the critic, which trains them; the actor uses them too, without a gradient, unless it has its own.
        actor_eyes: Of the actor; those of the critic if they are shared.
        critic_optimizer: Trains the critic and its eyes.
        actor_optimizer: Trains the actor and the eyes of its own.
    """

    critic_optimizer: Optimizer
    actor_optimizer: Optimizer

    @property
    def imitates(self) -> bool:
        """Whether its policy learns by imitation alone: of the data first, online of what the critic has improved."""
        return False

    def __init__(self, eyes: Perception, share_encoder: bool, held: bool = True) -> None:
        """Takes eyes.

        Args:
            eyes: Of the critic.
            share_encoder: Whether the actor has no others.
            held: Whether the agent holds them itself; False where a part of it does, so that no checkpoint has them
                twice.
        """
        super().__init__()
        assert isinstance(eyes, nn.Module)
        self.eyes: Any
        if held:
            self.eyes = eyes
        else:
            object.__setattr__(self, "eyes", eyes)
        self.own_eyes: Any = None if share_encoder else of_its_own(eyes)

    @property
    def actor_eyes(self) -> Any:
        return self.eyes if self.own_eyes is None else self.own_eyes

    def update(self, batch: Batch) -> Metrics:
        """Learns from some transitions."""
        raise NotImplementedError

    def update_with_bonus(self, batch: Batch, bonus: Tensor) -> Metrics:
        """The same with a bonus (B,) for exploration, which bounds of values do not cut (OOO)."""
        return self.update(batch._replace(reward=batch.reward + bonus))

    def imitate(self, batch: Batch) -> Metrics:
        """Where it imitates: the policy learns the actions of the data."""
        raise NotImplementedError

    def distil(self, batch: Batch) -> Metrics:
        """Where it imitates: the policy learns the actions that the critic has improved."""
        raise NotImplementedError

    def choose(self, seen: Mapping[str, Tensor], explore: bool) -> Tensor:
        """Actions (B, A) for what is kept of B observations: drawn to explore, or the best."""
        raise NotImplementedError

    @torch.no_grad()
    def act(self, seen: Mapping[str, Tensor], explore: bool = False) -> npt.NDArray[np.float32]:
        """Actions (B, A) for what is kept of B observations, as a replay hands it out."""
        was_training = self.training
        self.eval()
        try:
            there = {name: tensor.to(self.device, non_blocking=True) for name, tensor in seen.items()}
            return self.choose(there, explore).cpu().numpy()
        finally:
            self.train(was_training)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def make_optimizers(self) -> None:
        """After the agent has been moved to its device."""
        raise NotImplementedError

    def optimizers(self) -> dict[str, Optimizer]:
        """Whose states it goes on with, by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Optimizer)}

    def seers(self) -> Iterator[tuple[Any, Optimizer | None]]:
        """All eyes that there are, with the optimizers that train them."""
        yield self.eyes, self.critic_optimizer
        if self.own_eyes is not None:
            yield self.own_eyes, self.actor_optimizer

    def advance(self, step: int) -> None:
        """Trains what schedules of encoders say is trained from an update on."""
        for eyes, optimizer in self.seers():
            eyes.advance(step, optimizer)

    def shifts(self, batch: Batch) -> Tensor | None:
        """Drawn for a batch's pictures, (B, 2); None where a frozen trunk has seen them as they are."""
        return self.eyes.shifts(len(batch.action)) if self.eyes.augments else None

    def look(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What critic and actor see of s and of s': z and z', then the actor's, under one shift for each transition."""
        shifts = self.shifts(batch)
        state = self.eyes.vector(batch.seen, shifts)
        with torch.no_grad():
            next_state = self.eyes.vector(batch.next_seen, shifts)
        if self.own_eyes is None:
            return state, next_state, state.detach(), next_state
        actor_state = self.own_eyes.vector(batch.seen, shifts)
        with torch.no_grad():
            return state, next_state, actor_state, self.own_eyes.vector(batch.next_seen, shifts)


def descend(optimizer: Optimizer, loss: Tensor) -> None:
    """One step of an optimizer, which leaves the gradients of all other parameters alone."""
    parameters: Sequence[Tensor] = [one for group in optimizer.param_groups for one in group["params"]]
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True):
        parameter.grad = gradient
    optimizer.step()
