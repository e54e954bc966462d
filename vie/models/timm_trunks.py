"""timm's image networks as static streams; the package is imported when one is built."""

import difflib
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vie.errors import VieError
from vie.models.registry import register_family, register_model
from vie.models.single import frame_taps
from vie.models.stream import TAPS, Stream, global_average
from vie.video.clips import Sampling
from vie.weights import one_line


@register_family("timm_")
class TimmImages(Stream):
    """An image network of timm on one random frame of the video, with random weights and without its classifier.

    Given T frames, it treats them alone and averages their pooled features, which are those that the network itself
    would classify: pooled tokens, a class token, or pooled maps, as the network has it.

    The taps are spread evenly over the stages or blocks that timm names, and ``conv5`` is the last of them; a network
    of fewer than five stages has the last taps only. Tokens become maps, normalised as the network's last are where
    timm can. ``head`` is the network's own pooled feature of every frame. ``mean`` and ``std`` are those of its weights
    in timm.
    """

    def __init__(self, name: str, /, embed_dim: int = 128, size: int | None = None) -> None:
        """Builds the network.

        Args:
            name: Of the network, in timm.
            embed_dim: Dimensions of the embedding.
            size: Side of the pictures in pixels, for networks that are built for one; None is the network's own size,
                and then a ViT still takes every size that its patch divides, by interpolating its positions.

        Raises:
            VieError: timm is missing, or knows no such network.
        """
        trunk = build(name, size)
        super().__init__(num_features=trunk.head_hidden_size, embed_dim=embed_dim)
        self.trunk = trunk
        self.mean, self.std = (tuple(trunk.pretrained_cfg[name]) for name in ("mean", "std"))
        self.sampling = Sampling(frames=1, stride=1, fps=25.0, size=size or trunk.pretrained_cfg["input_size"][-1])
        count = len(trunk.feature_info)
        self.taken = sorted({-(-count * part // len(TAPS)) - 1 for part in range(1, len(TAPS) + 1)})

    def forward_features(self, clip: Tensor) -> dict[str, Tensor]:
        return frame_taps(self._see, clip, (*TAPS[-len(self.taken) :], "head"))

    def pool(self, taps: dict[str, Tensor]) -> Tensor:
        """The network's own pooled feature, averaged over frames, in float32 at least: (B, num_features)."""
        return global_average(taps["head"])

    def _see(self, images: Tensor) -> list[Tensor]:
        try:
            last, maps = self._intermediates(images)
            return [*maps, self.trunk.forward_head(last, pre_logits=True)[:, :, None, None]]
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # every network of timm refuses pictures of a wrong size in its own words
            height, width = images.shape[-2:]
            raise VieError(
                f"{self.model_name} fails on pictures of {width}x{height} pixels ({one_line(error)}): give it its own "
                f"{self.trunk.pretrained_cfg['input_size'][-1]} (data.size in a run), build it for others by "
                "size=PIXELS, or take another network"
            ) from error

    def _intermediates(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        try:
            return self.trunk.forward_intermediates(images, indices=self.taken, norm=True)
        except AssertionError:  # Hiera's first word is that it cannot normalise what lies before its end
            return self.trunk.forward_intermediates(images, indices=self.taken)


def build(name: str, size: int | None) -> Any:
    """A network of timm with random weights and without classifier.

    Args:
        name: In timm.
        size: Side of its pictures in pixels; None is its own.

    Raises:
        VieError: timm is missing, or knows no such network.
    """
    try:
        import timm
    except ImportError as error:
        raise VieError(f"timm_{name} needs timm ({error}): pip install 'vie[timm]'") from error
    known = timm.list_models()
    if name not in known:
        near = ", ".join(difflib.get_close_matches(name, known, n=3))
        raise VieError(
            f"timm knows no network {name!r}: " + (f"did you mean {near}?" if near else "timm.list_models() names them")
        )
    fixed = getattr(timm.get_pretrained_cfg(name), "fixed_input_size", False)
    arguments: dict[str, Any] = {"img_size": size} if fixed and size else {}
    create = partial(timm.create_model, name, pretrained=False, num_classes=0, **arguments)
    try:
        return create(dynamic_img_size=True) if fixed else create()
    except TypeError:  # a network that cannot adapt does not know the word
        return create()


for name in ("resnet18", "convnext_tiny", "vit_tiny_patch16_224", "vit_small_patch16_224"):
    register_model(f"timm_{name}")(partial(TimmImages, name))
