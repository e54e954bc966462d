"""What an encoder is asked for on top of its trunk."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral

from vie import VieError


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

    def __post_init__(self) -> None:
        """Raises ``VieError`` for what a config file makes of a slip, such as one name in place of a list of them."""
        views = () if self.views is None else self.views
        if isinstance(views, str) or not isinstance(views, Iterable) or not all(isinstance(one, str) for one in views):
            raise VieError(f"views={views!r}: give the names of the cameras as a list, such as ['front', 'wrist']")
        if len(set(views)) < len(views):
            raise VieError(f"views={list(views)} names a camera twice: give each once")
        for what, example in (("proprio", "names and lengths, such as {'state': 7}"), ("pool_arguments", "a mapping")):
            if getattr(self, what) is not None and not isinstance(getattr(self, what), Mapping):
                raise VieError(f"{what}={getattr(self, what)!r}: give {example}")
        lengths = {
            "history": self.history,
            **{f"proprio {name}": length for name, length in (self.proprio or {}).items()},
        }
        for name in ("project", "proprio_project"):
            if getattr(self, name) is not None:
                lengths[name] = getattr(self, name)
        for name, length in lengths.items():
            if not isinstance(length, Integral) or isinstance(length, bool) or length < 1:
                raise VieError(f"{name}={length!r}: give a whole number, at least 1")
        # Not a config library's own, which may not be pickled.
        object.__setattr__(self, "views", tuple(views))
        object.__setattr__(self, "pool_arguments", dict(self.pool_arguments) if self.pool_arguments else None)
        object.__setattr__(self, "proprio", dict(self.proprio) if self.proprio else None)

    @property
    def cameras(self) -> list[str]:
        """Names of the cameras in an observation that is a mapping."""
        return list(self.views) or ["pixels"]

    @property
    def parts(self) -> list[str]:
        """Names of everything that is taken of such an observation."""
        return [*self.cameras, *(self.proprio or {})]
