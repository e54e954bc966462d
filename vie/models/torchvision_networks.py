"""torchvision's image networks as static streams."""

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vie.errors import VieError
from vie.models.places import numbered, within
from vie.models.registry import register_family, register_model
from vie.models.single import frame_taps
from vie.models.stream import TAPS, Stages, Stream, global_average
from vie.models.torchvision_build import build, licence, origin
from vie.models.torchvision_chain import as_map, stages_of_chain
from vie.video.clips import Sampling
from vie.video.resize import Resize
from vie.weights import one_line

CENTRED = (0.5, 0.5, 0.5)
"""Mean and std of GoogLeNet and Inception, which turn ImageNet's into these themselves where they have weights."""


class TorchvisionImages(Stream):
    """An image network of torchvision on one random frame of the video, without its classifier.

    Given T frames, it treats them alone and averages their pooled features. The taps are the last maps of every
    resolution, or are spread evenly over the blocks of a ViT, normalised as the last ones are; a network of fewer than
    five has the last taps only. ``head`` is what the network makes of its last map: its mean, of ConvNeXt normalised;
    of a ViT it is the class token, which is also the tap ``cls``, (B, C, T, 1, 1). ``mean`` and ``std`` are those of
    its weights in torchvision; with these weights, so are the crop and the interpolation.
    """

    def __init__(
        self,
        name: str,
        /,
        embed_dim: int = 128,
        size: int | None = None,
        weights: str | None = None,
    ) -> None:
        """Builds the network.

        Args:
            name: Of the network, in torchvision.
            embed_dim: Dimensions of the embedding.
            size: Side of the pictures in pixels; None is the network's own. A ViT takes no other than this.
            weights: "default", a name such as "IMAGENET1K_V1", or a file of torchvision's; None begins at random.

        Raises:
            VieError: torchvision knows no such network or weights; or these cannot be had.
        """
        trunk, entry = build(name, weights, size)
        shown = entry.transforms()
        side = size or shown.crop_size[0]
        trunk, channels = _strip(trunk)
        super().__init__(num_features=channels, embed_dim=embed_dim)
        self.mean, self.std = (CENTRED, CENTRED) if hasattr(trunk, "transform_input") else (shown.mean, shown.std)
        self.mean, self.std = tuple(self.mean), tuple(self.std)
        self.sampling = Sampling(frames=1, stride=1, fps=25.0, size=side)
        if weights is not None:
            self.resize = Resize("crop", shown.interpolation.value)
            # To whole pixels, as torchvision's own pictures are.
            short = round(shown.resize_size[0] * side / shown.crop_size[0]) / side
            self.sampling = Sampling(frames=1, stride=1, fps=25.0, size=side, short_side=max(1.0, short))
            self.rebuilt = {"weights": None, "size": side}
            self.origin, self.licence = origin(weights, entry), licence(weights, entry)
        self.trunk = trunk
        self.is_vit = hasattr(trunk, "class_token")
        if self.is_vit:
            blocks = [f"encoder.layers.{at}" for at, _ in trunk.encoder.layers.named_children()]
            self.parts = [["conv_proj", "class_token", "encoder.pos_embedding"], *([block] for block in blocks)]
            self.parts[-1].append("encoder.ln")
            count = len(blocks)
            self.taken = sorted({-(-count * part // len(TAPS)) for part in range(1, len(TAPS) + 1)})
        else:
            self.parts = stages_of_chain(trunk.eval(), shown.crop_size[0])
            self.taken = list(range(len(self.parts)))
            trunk.train()

    def forward_features(self, clip: Tensor) -> dict[str, Tensor]:
        names = (*TAPS[-len(self.taken) :], "head", *(["cls"] if self.is_vit else []))
        return frame_taps(self._see, clip, names)

    def pool(self, taps: dict[str, Tensor]) -> Tensor:
        """The network's own pooled feature, averaged over frames, in float32 at least: (B, num_features)."""
        return global_average(taps["head"])

    def stages(self) -> Stages:
        parts = [list(part) for part in self.parts]
        if type(self.trunk).__name__ in ("ConvNeXt", "SwinTransformer"):
            # Their stem has the resolution of the first stage, but is a stage of its own to whoever freezes it.
            parts = [parts[0][:1], parts[0][1:], *parts[1:]]
        if hasattr(self.trunk, "classifier"):
            parts[-1].append("classifier")
        return within("trunk", numbered(parts))

    def _see(self, images: Tensor) -> list[Tensor]:
        try:
            return self._tokens(images) if self.is_vit else self._maps(images)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # networks for one size refuse others in words of their own
            height, width = images.shape[-2:]
            raise VieError(
                f"{self.model_name} fails on pictures of {width}x{height} pixels ({one_line(error)}): give it its own "
                f"{self.sampling.size} (data.size in a run), or take another network"
            ) from error

    def _maps(self, images: Tensor) -> list[Tensor]:
        trunk: Any = self.trunk
        maps: list[Tensor] = []
        for part in self.parts:
            for name in part:
                images = trunk.get_submodule(name)(images)
            maps.append(as_map(trunk, images))
        if type(trunk).__name__ == "DenseNet":
            maps[-1] = F.relu(maps[-1])
        pooled = maps[-1].mean(dim=(2, 3), keepdim=True)
        if type(trunk).__name__ == "ConvNeXt":
            pooled = trunk.classifier(pooled)
        return [*maps, pooled]

    def _tokens(self, images: Tensor) -> list[Tensor]:
        trunk: Any = self.trunk
        tokens = trunk._process_input(images)
        tokens = torch.cat([trunk.class_token.expand(len(tokens), -1, -1), tokens], dim=1)
        tokens = trunk.encoder.dropout(tokens + trunk.encoder.pos_embedding)
        taken: list[Tensor] = []
        for number, block in enumerate(trunk.encoder.layers, start=1):
            tokens = block(tokens)
            if number in self.taken:
                taken.append(trunk.encoder.ln(tokens))
        rows = math.isqrt(tokens.shape[1])
        maps = [given[:, 1:].transpose(1, 2).unflatten(2, (rows, -1)) for given in taken]
        own = taken[-1][:, 0, :, None, None]
        return [*maps, own, own]


def _strip(trunk: Any) -> tuple[Any, int]:
    """A network without its classifiers, and the channels of what they were given."""
    kind = type(trunk).__name__
    ends = {"ResNet": "fc", "RegNet": "fc", "ShuffleNetV2": "fc", "GoogLeNet": "fc", "Inception3": "fc"}
    end = ends.get(kind) or next(name for name in ("classifier", "head", "heads") if hasattr(trunk, name))
    linear = [part for part in getattr(trunk, end).modules() if isinstance(part, nn.Linear | nn.Conv2d)]
    channels = int(linear[0].weight.shape[1])
    if kind == "ConvNeXt":
        trunk.classifier = trunk.classifier[:1]
    else:
        delattr(trunk, end)
    for aside in ("aux1", "aux2", "AuxLogits"):
        if hasattr(trunk, aside):
            delattr(trunk, aside)
    if kind in ("VGG", "AlexNet"):  # their classifiers take a grid of features
        channels //= 6 * 6 if kind == "AlexNet" else 7 * 7
    if kind == "MNASNet":  # which loads no weights but those that tell their version, as safetensors do not
        layers, trunk = trunk.layers, nn.Module()
        trunk.layers = layers
    return trunk, channels


register_family("torchvision_")(TorchvisionImages)
for name in ("resnet18", "resnet50", "convnext_tiny", "vit_b_16", "swin_t"):
    register_model(f"torchvision_{name}")(partial(TorchvisionImages, name))
