"""What an encoder is asked for on top of its trunk."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Heads:
    """What is learned on top of a trunk.

    Attributes:
        pool: One of ``rl_encoders.pooling.POOLS``.
        pool_arguments: Its arguments.
        views: Names of the cameras in an observation; empty for one without a name.
        share_views: Whether all cameras go through one pool; each has its own otherwise. The trunk is always one.
        history: How many clips in a row an observation holds; their vectors are put side by side.
        project: Length that a linear layer, LayerNorm and tanh bring the cameras' vectors to; None keeps them.
        proprio: Parts of the proprioception and their lengths.
        proprio_project: The same for the proprioception; None keeps its numbers as they are.
    """

    pool: str = "mean"
    pool_arguments: Mapping[str, int] | None = None
    views: Sequence[str] = ()
    share_views: bool = True
    history: int = 1
    project: int | None = None
    proprio: Mapping[str, int] | None = None
    proprio_project: int | None = None

    @property
    def cameras(self) -> list[str]:
        """Names of the cameras in an observation that is a mapping."""
        return list(self.views) or ["pixels"]

    @property
    def parts(self) -> list[str]:
        """Names of everything that is taken of such an observation."""
        return [*self.cameras, *(self.proprio or {})]
