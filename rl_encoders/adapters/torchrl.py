"""TorchRL: an encoder as a transform of environments and replay buffers, or as a module of actors and critics.

A frozen encoder belongs into the environment, and the buffer holds its vectors: ``TransformedEnv(env,
EncodeTransform(encoder, ["pixels"], channels_first=False))``. One that learns belongs into the networks, by
``encoder_module(encoder, ["pixels"], channels_first=False)``, and the buffer holds pixels.
"""

import math
from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from rl_encoders.adapters.pixels import arranged, frames
from rl_encoders.encoder import VisualEncoder
from vie import VieError

try:
    from tensordict import NestedKey, TensorDictBase
    from tensordict.nn import TensorDictModule
    from torchrl.data import Composite, TensorSpec, Unbounded
    from torchrl.envs import Transform

    from rl_encoders.adapters.torchrl_clips import ClipTransform
    from rl_encoders.adapters.torchrl_losses import encoders, reload, verify
except ImportError as error:
    raise VieError(f"the adapter needs TorchRL ({error}): pip install 'vie[torchrl]'") from error

__all__ = ["EncodeTransform", "ClipTransform", "encoder_module", "encoders", "reload", "verify"]  # noqa: RUF022

EMBEDDING = "embedding"


class Read(nn.Module):
    """Parts of observations with any leading dimensions, as TorchRL has them, to vectors."""

    def __init__(
        self, encoder: VisualEncoder, keys: Sequence[NestedKey], channels_first: bool, scaled: bool, clips: bool
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.cameras, self.names = encoder.heads.cameras, encoder.heads.parts
        self.channels_first, self.scaled = channels_first, scaled
        self.picture_dims = 4 if clips else 3
        if len(keys) != len(self.names):
            raise VieError(f"in_keys has {len(keys)} keys: the encoder takes {', '.join(self.names)}, in order")

    def forward(self, *parts: Tensor) -> Tensor:
        """Vectors (..., output_dim), where the first picture is."""
        lead = self.lead(parts[0].shape)
        taken = {name: self._flat(name, part, lead) for name, part in zip(self.names, parts, strict=True)}
        several = self.encoder.heads.views or self.encoder.heads.proprio
        vectors: Tensor = self.encoder(taken if several else taken["pixels"])
        return vectors.to(parts[0].device).reshape(*lead, self.encoder.output_dim)

    def lead(self, picture: torch.Size) -> torch.Size:
        """Of the shape of a picture, the dimensions of environments and time."""
        return picture[: -self.picture_dims]

    def _flat(self, name: str, part: Tensor, lead: torch.Size) -> Tensor:
        camera = name in self.cameras
        shape = part.shape[-self.picture_dims if camera else -1 :]
        if part.shape[: -len(shape)] != lead or len(shape) < (self.picture_dims if camera else 1):
            raise VieError(
                f"{name} has the shape {tuple(part.shape)}: {'pictures' if camera else 'numbers'} of "
                f"{self.picture_dims if camera else 1} dimensions behind {tuple(lead)} were declared"
            )
        flat = part.reshape(math.prod(lead), *shape)
        return self._pixels(name, flat) if camera else flat

    def _pixels(self, name: str, flat: Tensor) -> Tensor:
        channels = flat.shape[-3 if self.channels_first else -1]
        clips = self.picture_dims == 4
        if channels != 3 and (clips or channels % 3):
            first = "first" if self.channels_first else "last"
            raise VieError(
                f"{name} has the shape {tuple(flat.shape)}, with {channels} channels {first}: say by channels_first "
                "where they are, and by clips whether the dimension before a picture's is time"
            )
        pictures = flat.flatten(0, 1) if clips else flat
        if self.scaled:
            cure = "say by scaled=True that ToTensorImage divides them by 255, or by scaled=False that nothing does"
            found = frames(pictures, name, True, self.channels_first, cure)
        elif pictures.dtype == torch.uint8:
            found = arranged(pictures, self.channels_first)
        else:
            raise VieError(f"{name} is {pictures.dtype}: give the camera's uint8 pixels, or scaled=True")
        return found.unflatten(0, (len(flat), -1)) if clips else found


def encoder_module(
    encoder: VisualEncoder,
    in_keys: Sequence[NestedKey],
    out_key: NestedKey = EMBEDDING,
    *,
    channels_first: bool,
    scaled: bool = False,
    clips: bool = False,
) -> TensorDictModule:
    """An encoder for the networks of losses: alone, in a ``TensorDictSequential``, or as a common operator.

    A frozen trunk is held once by all networks and sees every picture once in an update. A trained one is swapped in
    and out by losses as any module is.

    Args:
        encoder: Goes into the module, uncopied.
        in_keys: Of the cameras in the order of its ``views``, then of its ``proprio``; one for an encoder without.
        out_key: Of the vectors (..., output_dim) float32; they are put where the first picture is.
        channels_first: Whether pictures are (..., 3, H, W); otherwise (..., H, W, 3). With 3k channels, as
            ``CatFrames`` makes them, a picture is k frames.
        scaled: Whether ``ToTensorImage`` has divided pixels by 255; this is undone, exactly. uint8 otherwise.
        clips: Whether the dimension before a picture's own is time: (..., T, H, W, 3). Dimensions before are any.

    Raises:
        VieError: The number of keys is not the encoder's; in use, the pixels are not what was declared.
    """
    keys = list(in_keys)
    return TensorDictModule(Read(encoder, keys, channels_first, scaled, clips), in_keys=keys, out_keys=[out_key])


class EncodeTransform(Transform):
    """Pictures and proprioception become vectors, in an environment or on the way out of a replay buffer.

    In an environment there is no gradient. In a replay buffer there is, if the encoder learns and the buffer does not
    prefetch; ``"next"`` is encoded as well, where a sample has it. The encoder computes where it was loaded, whatever
    environment or buffer is moved elsewhere; vectors go where the pictures are.
    """

    def __init__(
        self,
        encoder: VisualEncoder,
        in_keys: Sequence[NestedKey],
        out_key: NestedKey = EMBEDDING,
        *,
        channels_first: bool,
        scaled: bool = False,
        clips: bool = False,
        del_keys: bool = True,
    ) -> None:
        """Takes an encoder.

        Args:
            encoder: One that sees clips in an environment needs a ``ClipTransform`` before this, and ``clips=True``;
                it sees stills otherwise.
            in_keys: See ``encoder_module``, as for all that follows but the last.
            out_key: Of the vectors.
            channels_first: Where pictures have their channels.
            scaled: Whether pixels were divided by 255.
            clips: Whether pictures have a dimension of time.
            del_keys: Takes what was encoded out of the observations. An encoder that learns needs it kept.
        """
        keys = list(in_keys)
        super().__init__(in_keys=keys, out_keys=[out_key])
        self.read = Read(encoder, keys, channels_first, scaled, clips)
        self.del_keys = del_keys

    @property
    def encoder(self) -> VisualEncoder:
        """That was given."""
        return self.read.encoder

    def _call(self, next_tensordict: TensorDictBase) -> TensorDictBase:
        with torch.no_grad():
            return self._encode(next_tensordict)

    def _reset(self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase) -> TensorDictBase:
        return self._call(tensordict_reset)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Of a sample: its observations, and those of ``"next"``."""
        following = tensordict.get("next", None)
        if following is not None and self.in_keys[0] in following.keys(True, True):
            self._encode(following)
        return self._encode(tensordict)

    def _encode(self, tensordict: TensorDictBase) -> TensorDictBase:
        parts = [tensordict.get(key, None) for key in self.in_keys]
        for key, part in zip(self.in_keys, parts, strict=True):
            if part is None and not self.missing_tolerance:
                found = ", ".join(map(str, tensordict.keys()))
                raise VieError(f"the observations have no {key!r}: they have {found}")
        if all(part is not None for part in parts):
            tensordict.set(self.out_keys[0], self.read(*parts))
            if self.del_keys:
                tensordict.exclude(*self.in_keys, inplace=True)
        return tensordict

    def transform_observation_spec(self, observation_spec: TensorSpec) -> TensorSpec:
        """Without what is encoded, unless it is kept; with vectors (..., output_dim)."""
        learned = [name for name, value in self.encoder.named_parameters() if value.requires_grad]
        if learned and self.del_keys:
            raise VieError(
                f"the encoder learns ({learned[0]} and {len(learned) - 1} more), and an environment's vectors give no "
                "gradient: keep the pixels (del_keys=False) and encode them in the networks, by encoder_module"
            )
        if not isinstance(observation_spec, Composite):
            raise VieError("the environment's observations have no names: wrap it so that they are a Composite")
        changed = observation_spec.clone()
        for key in self.in_keys:
            if key not in changed.keys(True, True):
                raise VieError(f"the environment's observations have no {key!r}: they have {_names(changed)}")
        picture = changed[self.in_keys[0]]
        shape = (*self.read.lead(picture.shape), self.encoder.output_dim)
        if self.del_keys:
            for key in self.in_keys:
                del changed[key]
        changed[self.out_keys[0]] = Unbounded(shape, device=picture.device, dtype=torch.float32)
        return changed

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # An environment or a buffer that is given a transform moves it to where it is itself.
        return self


def _names(spec: Composite) -> str:
    return ", ".join(map(str, spec.keys(True, True))) or "nothing"
