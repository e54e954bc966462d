"""When which part of a trunk is trained."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real

from rl_encoders.trunk import Trunk
from vie import VieError

ALL, LAST, NONE = "all", "last", "none"


@dataclass(frozen=True)
class Schedule:
    """From which step on which stages are trained.

    Attributes:
        trained: From steps to the lowest stage that is trained from then on, ``"all"``, ``"last"`` or ``"none"``:
            ``{0: "none", 10_000: "conv5", 50_000: "all"}`` trains what is on top of the trunk alone, then its last
            stage too, then everything.
        layer_decay: Factor of the learning rate from every stage to the one below; what is on top of the trunk has the
            full rate.
    """

    trained: Mapping[int, str] = field(default_factory=lambda: {0: NONE})
    layer_decay: float = 1.0

    def __post_init__(self) -> None:
        if 0 not in self.trained or min(self.trained) < 0:
            raise VieError(f"the schedule {dict(self.trained)} does not say what is trained at step 0: add 0: none")
        if not isinstance(self.layer_decay, Real) or not 0 < self.layer_decay <= 1:
            raise VieError(f"layer_decay={self.layer_decay!r}: give a factor above 0, at most 1")

    def check(self, trunk: Trunk) -> None:
        """Raises ``VieError`` where a stage is not one of the trunk's, or would be frozen again."""
        firsts = [self._number(trunk, self.trained[step]) for step in sorted(self.trained)]
        if firsts != sorted(firsts, reverse=True):
            raise VieError(
                f"the schedule {dict(self.trained)} freezes stages again that were trained, and no checkpoint would "
                "hold them: let it train from a lower stage each time"
            )

    def first_trained(self, trunk: Trunk, step: int) -> int:
        """Number of the lowest stage of a trunk that is trained at a step; the number of stages if none is."""
        return self._number(trunk, self.trained[max(begin for begin in self.trained if begin <= step)])

    def _number(self, trunk: Trunk, name: str) -> int:
        if name == ALL:
            return 0
        if name == LAST:
            return len(trunk.stages) - 1
        return len(trunk.stages) if name == NONE else trunk.stage(name)
