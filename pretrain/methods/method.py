"""What a method of pretraining is: what it makes of a batch, the network that it trains, and its loss."""

from typing import ClassVar

from torch import Tensor, nn

from pretrain.checkpoint import Divided
from vie import MemoryBank, Sampling

Shape = tuple[int, ...]
"""(B, 3, T, H, W)."""


class Method:
    """One way to train a stream; the trainer runs any of them.

    A step is ``begin_step``, ``inputs``, the network, ``loss``, the optimiser, ``end_step``. Everything that chance
    decides is a function of (seed, step), so that a run that is continued repeats it.

    Attributes:
        citation: Where the method comes from.
        views: Clips that it takes of each instance of a batch, drawn one by one.
        embeds: Whether it trains the stream's embedding, not a head of its own in its place.
        stages: Their names, and the step at which each ends.
        network: From a clip to what the loss takes; its parameters are trained, the stream's among them.
        bank: The memory bank, for methods that have one.
    """

    citation: ClassVar[str]
    views: ClassVar[int] = 1
    embeds: ClassVar[bool] = False
    stages: dict[str, int]
    network: nn.Module
    bank: MemoryBank | None = None

    def sampling(self, sampling: Sampling) -> Sampling:
        """The clip that it trains on, for a stream that is tested on ``sampling``."""
        return sampling

    def clip_shape(self, clip: Shape) -> Shape:
        """Shape of what the network takes, for the whole batch of augmented clips."""
        return clip

    def stage(self, step: int) -> str:
        """Name of the stage of a step."""
        return next((name for name, end in self.stages.items() if step < end), list(self.stages)[-1])

    def begin_step(self, step: int) -> None:
        """Is called before the inputs are made."""

    def inputs(self, clip: Tensor, instances: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """What the network takes, and what the loss compares its output with.

        Args:
            clip: (views x B, 3, T, H, W) augmented and normalised, the first views of all instances first.
            instances: (B,) their numbers.
            step: Of the run.
        """
        return clip, instances

    def loss(self, output: Tensor, target: Tensor, step: int) -> Tensor:
        """This rank's part of the loss of a step, a scalar: the sum over ranks is the mean over the whole batch."""
        raise NotImplementedError

    def end_step(self, output: Tensor, target: Tensor) -> None:
        """Is called after the optimiser's step."""

    def state(self) -> dict[str, Tensor | Divided]:
        """What the method knows beside the weights of its network, to be kept and to be read back into."""
        return {}
