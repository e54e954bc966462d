"""d3rlpy: an encoder factory for its offline algorithms, saved and loaded again with them.

``CalQLConfig(actor_encoder_factory=factory, critic_encoder_factory=factory)`` with ``factory =
VieEncoderFactory(encoder=dict(source="runs/slow/encoder-la"))``.

d3rlpy makes a network for the actor, for every critic and for every target, and samples actions by repeating pixels. A
frozen trunk is held once by all, and sees every picture once in an update all the same: see ``rl_encoders.recent``. A
trained one has to go through each network, and through each repeated picture.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from rl_encoders.adapters.pixels import frames
from rl_encoders.encoder import VisualEncoder
from rl_encoders.loading import from_config
from vie import VieError

try:
    from d3rlpy.base import LearnableBase
    from d3rlpy.models.encoders import EncoderFactory, register_encoder_factory
    from d3rlpy.models.torch import Encoder, EncoderWithAction
    from d3rlpy.torch_utility import Modules
except ImportError as error:
    raise VieError(f"the adapter needs d3rlpy ({error}): pip install 'vie[d3rlpy]'") from error

CURE = "say by scaled=True that PixelObservationScaler divides them by 255, or by scaled=False that nothing does"


class _Read(nn.Module):
    """Observations as d3rlpy has them, and an action, to a vector: encoder, then hidden layers."""

    def __init__(
        self, shapes: Sequence[Any], encoder: Mapping[str, Any], hidden: Sequence[int], scaled: bool, action: int
    ) -> None:
        super().__init__()
        self.encoder = from_config(encoder)
        if self.encoder.schedule.layer_decay != 1 or len(self.encoder.schedule.trained) > 1:
            raise VieError(
                "d3rlpy gives all parameters of a network one learning rate, and asks nobody between updates: leave "
                "out layer_decay, and give train_from one stage"
            )
        if not hidden:
            raise VieError("hidden_units is empty: d3rlpy's networks want one layer at least behind the encoder")
        self.scaled = scaled
        self.several = bool(self.encoder.heads.views or self.encoder.heads.proprio)
        self.names = self.encoder.heads.parts
        shapes = list(shapes) if self.several else [shapes]
        if len(shapes) != len(self.names):
            raise VieError(
                f"observations have {len(shapes)} parts, the encoder takes {', '.join(self.names)}, in order"
            )
        for name, shape in zip(self.names, shapes, strict=True):
            if name not in (self.encoder.heads.proprio or {}) and (len(shape) != 3 or shape[0] % 3):
                raise VieError(
                    f"{name} has the shape {tuple(shape)}: d3rlpy's pictures are (3, H, W), or stacks of them"
                )
        widths = [self.encoder.output_dim + action, *hidden]
        layers = [
            layer
            for before, after in zip(widths, hidden, strict=False)
            for layer in (nn.Linear(before, after), nn.ReLU())
        ]
        self.layers = nn.Sequential(*layers)
        self._probed = False

    def vectors(self, x: Any) -> Tensor:
        parts = list(x) if self.several else [x]
        observation = {
            name: part if name in (self.encoder.heads.proprio or {}) else self._pixels(name, part)
            for name, part in zip(self.names, parts, strict=True)
        }
        encoded: Tensor = self.encoder(observation if self.several else observation["pixels"])
        self._probed = True
        return encoded

    def _pixels(self, name: str, floats: Tensor) -> Tensor:
        try:
            return frames(floats.float(), name, self.scaled, channels_first=True, cure=CURE)
        except VieError:
            if self._probed:
                raise
            # d3rlpy's first call asks for the size of the output, with noise in place of pixels.
            return frames(torch.zeros_like(floats), name, self.scaled, channels_first=True, cure=CURE)


class VieEncoder(_Read, Encoder):
    """Of observations."""

    def forward(self, x: Any) -> Tensor:
        """Vectors (B, last hidden layer) of observations (B, 3k, H, W), or of a list of such and of (B, D) numbers."""
        read: Tensor = self.layers(self.vectors(x))
        return read


class VieEncoderWithAction(_Read, EncoderWithAction):
    """Of observations and actions; the action joins behind the trunk."""

    def forward(self, x: Any, action: Tensor) -> Tensor:
        """As ``VieEncoder``, with actions (B, A)."""
        read: Tensor = self.layers(torch.cat([self.vectors(x), action], dim=1))
        return read


@dataclass()
class VieEncoderFactory(EncoderFactory):
    """Makes encoders for d3rlpy's networks.

    Attributes:
        encoder: Arguments of ``rl_encoders.load``. Observations of several parts come in the order of ``views``, then
            of ``proprio``.
        hidden_units: Layers between the encoder, joined by the action in critics, and the networks' last layer.
        scaled: Whether the algorithm has a ``PixelObservationScaler``.
    """

    encoder: dict[str, Any] = field(default_factory=dict)
    hidden_units: list[int] = field(default_factory=lambda: [256, 256])
    scaled: bool = False

    def create(self, observation_shape: Any) -> VieEncoder:
        """For actors and values."""
        return VieEncoder(observation_shape, self.encoder, self.hidden_units, self.scaled, 0)

    def create_with_action(
        self, observation_shape: Any, action_size: int, discrete_action: bool = False
    ) -> VieEncoderWithAction:
        """For critics of continuous actions."""
        if discrete_action:
            raise VieError(
                "a critic that takes a discrete action as input has no encoder here: take a discrete algorithm"
            )
        return VieEncoderWithAction(observation_shape, self.encoder, self.hidden_units, self.scaled, action_size)

    @staticmethod
    def get_type() -> str:
        """The name under which d3rlpy saves the factory."""
        return "vie"


register_encoder_factory(VieEncoderFactory)


def encoders(algorithm: LearnableBase[Any, Any]) -> list[VisualEncoder]:
    """All encoders of an algorithm that is built, those of its targets too."""
    modules: Modules = algorithm.impl.modules if algorithm.impl else []
    parts = [part for part in vars(modules).values() if isinstance(part, nn.Module)] if modules else []
    return [module for part in parts for module in part.modules() if isinstance(module, VisualEncoder)]


def verify(algorithm: LearnableBase[Any, Any], as_loaded: bool = False) -> None:
    """``VisualEncoder.verify`` for every encoder of an algorithm.

    Raises:
        VieError: There is none, or d3rlpy has done to it what it should not.
    """
    found = encoders(algorithm)
    if not found:
        raise VieError("the algorithm has no encoder: give VieEncoderFactory in its config, and build it")
    for encoder in found:
        encoder.verify(as_loaded=as_loaded)
