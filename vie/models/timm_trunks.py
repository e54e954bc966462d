"""timm's image networks as static streams; the package is imported when one is built."""

import inspect
import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vie.errors import VieError
from vie.models.fetched import is_file
from vie.models.places import within
from vie.models.registry import register_family, register_model
from vie.models.single import frame_taps
from vie.models.stream import TAPS, Stages, Stream, global_average
from vie.models.timm_build import build
from vie.models.timm_stages import stages_of
from vie.video.clips import Sampling
from vie.video.resize import Resize
from vie.weights import one_line


@register_family("timm_")
class TimmImages(Stream):
    """An image network of timm on one random frame of the video, without its classifier.

    Given T frames, it treats them alone and averages their pooled features, which are those that the network itself
    would classify: pooled tokens, a class token, or pooled maps, as the network has it.

    The taps are spread evenly over the stages or blocks that timm names, and ``conv5`` is the last of them; a network
    of fewer than five stages has the last taps only. Tokens become maps, normalised as the network's last are where
    timm can. ``head`` is the network's own pooled feature of every frame, and ``cls`` (B, C, T, 1, 1), where there is
    one, its last class token, whether it pools that or not. ``mean`` and ``std`` are those of its weights in timm; with
    these weights, so are the crop and the interpolation.
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
            name: Of the network, in timm.
            embed_dim: Dimensions of the embedding.
            size: Side of the pictures in pixels, for networks that are built for one; None is the network's own size,
                and then a ViT still takes every size that its patch divides, by interpolating its positions.
            weights: "default", a tag of timm's such as "a1_in1k", or a file of weights in a form that timm knows; None
                begins at random.

        Raises:
            VieError: timm is missing, or knows no such network or weights; or these cannot be had.
        """
        trunk = build(name, size, weights)
        super().__init__(num_features=trunk.head_hidden_size, embed_dim=embed_dim)
        self.trunk = trunk
        known = trunk.pretrained_cfg
        self.mean, self.std = (tuple(known[what]) for what in ("mean", "std"))
        side = size or known["input_size"][-1]
        self.sampling = Sampling(frames=1, stride=1, fps=25.0, size=side)
        if weights is not None:
            self.resize = Resize("squash" if known["crop_mode"] == "squash" else "crop", known["interpolation"])
            # To whole pixels, and downwards, as timm's own pictures are.
            short = max(1.0, math.floor(side / known["crop_pct"]) / side)
            self.sampling = Sampling(frames=1, stride=1, fps=25.0, size=side, short_side=short)
        if weights is not None:
            self.origin = weights if is_file(weights) else f"timm {name}.{known['tag']}"
            self.rebuilt = {"weights": None, "size": side}
            self.licence = "" if is_file(weights) else known.get("license") or ""
        count = len(trunk.feature_info)
        self.taken = sorted({-(-count * part // len(TAPS)) - 1 for part in range(1, len(TAPS) + 1)})
        tells = "return_prefix_tokens" in inspect.signature(trunk.forward_intermediates).parameters
        self.has_class_token = tells and getattr(trunk, "cls_token", None) is not None

    def forward_features(self, clip: Tensor) -> dict[str, Tensor]:
        names = (*TAPS[-len(self.taken) :], "head", *(["cls"] if self.has_class_token else []))
        return frame_taps(self._see, clip, names)

    def pool(self, taps: dict[str, Tensor]) -> Tensor:
        """The network's own pooled feature, averaged over frames, in float32 at least: (B, num_features)."""
        return global_average(taps["head"])

    def stages(self) -> Stages:
        return within("trunk", stages_of(self.trunk))

    def _see(self, images: Tensor) -> list[Tensor]:
        try:
            last, maps, tokens = self._intermediates(images)
            pooled = self.trunk.forward_head(last, pre_logits=True)
            return [*maps, *(one[:, :, None, None] for one in (pooled, *tokens))]
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # every network of timm refuses pictures of a wrong size in its own words
            height, width = images.shape[-2:]
            raise VieError(
                f"{self.model_name} fails on pictures of {width}x{height} pixels ({one_line(error)}): give it its own "
                f"{self.trunk.pretrained_cfg['input_size'][-1]} (data.size in a run), build it for others by "
                "size=PIXELS, or take another network"
            ) from error

    def _intermediates(self, images: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """What the head is given, the maps, and the last class token (B, C) if there is one."""
        see: Any = partial(self.trunk.forward_intermediates, images, indices=self.taken)
        if self.has_class_token:
            last, both = see(norm=True, return_prefix_tokens=True)
            return last, [maps for maps, _ in both], [both[-1][1][:, 0]]
        try:
            return *see(norm=True), []
        except AssertionError:  # Hiera's first word is that it cannot normalise what lies before its end
            return *see(), []


for name in ("resnet18", "convnext_tiny", "vit_tiny_patch16_224", "vit_small_patch16_224"):
    register_model(f"timm_{name}")(partial(TimmImages, name))
