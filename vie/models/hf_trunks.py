"""Vision networks of Hugging Face transformers as static streams; the package is imported when one is built.

Only safetensors are read, and no code of a repository is ever run.
"""

import inspect
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vie.errors import VieError
from vie.models.fetched import DEFAULT, not_loaded
from vie.models.hf_card import licence_of
from vie.models.hf_pixels import Pixels, read_pixels
from vie.models.places import around_blocks, within
from vie.models.registry import register_family
from vie.models.single import frame_taps
from vie.models.stream import TAPS, Stages, Stream, global_average
from vie.video.clips import Sampling
from vie.weights import list_names, one_line

FINAL_NORMS = ("layernorm", "post_layernorm", "norm")
"""What transformers calls the norm behind the last block."""

UNSAID = ("model_type", "transformers_version", "architectures", "dtype", "torch_dtype", "_name_or_path")
"""What a configuration holds beside the arguments that build it."""


@register_family("hf_")
class HuggingFaceImages(Stream):
    """A vision network of transformers on one random frame of the video, without a classifier.

    Given T frames, it treats them alone and averages their pooled features. The taps are spread evenly over the stages
    or blocks, and ``conv5`` is the last of them; tokens become maps, normalised by the norm behind the last block.
    ``head`` is the network's own pooled feature of every frame: its pooler's where that was trained with it (CLIP,
    SigLIP, DINOv2, ResNet, ConvNeXt), and else the class token or the mean of all tokens. ``cls`` (B, C, T, 1, 1),
    where there is one, is the last class token.
    """

    def __init__(
        self,
        kind: str,
        /,
        embed_dim: int = 128,
        config: Mapping[str, Any] | None = None,
        size: int | None = None,
        trunk: Any = None,
    ) -> None:
        """Builds the network, with random weights if none is given; ``from_hugging_face`` brings weights along.

        Args:
            kind: Its kind of configuration, such as "vit" or "dinov2" (``model_type`` in its config.json).
            embed_dim: Dimensions of the embedding.
            config: The arguments of the configuration; None takes transformers' defaults.
            size: Side of the pictures in pixels; None is the configuration's own. A ViT interpolates its positions.
            trunk: A finished network of this configuration.

        Raises:
            VieError: transformers is missing, or the configuration describes no vision network that can be tapped.
        """
        if trunk is None:
            transformers = _package(f"hf_{kind}")
            try:
                described = transformers.AutoConfig.for_model(kind, **(config or {}))
                trunk = transformers.AutoModel.from_config(described, trust_remote_code=False)
            except Exception as error:  # of configurations of many hands
                raise VieError(
                    f"transformers builds no network of kind {kind!r} ({one_line(error)}): give the model_type of a "
                    "vision network, and arguments of its configuration"
                ) from error
        told = trunk.config
        if getattr(told, "mask_ratio", None):
            raise VieError(f"hf_{kind} hides patches from itself: take its weights by from_hugging_face, into a hf_vit")
        wide = getattr(told, "hidden_size", None) or next(iter(getattr(told, "hidden_sizes", [])[-1:]), None)
        if not wide or trunk.main_input_name != "pixel_values":
            raise VieError(f"hf_{kind} is no vision network of one width: give one such as vit, dinov2, clip or resnet")
        super().__init__(num_features=wide, embed_dim=embed_dim)
        if hasattr(getattr(trunk, "pooler", None), "dense"):
            trunk.pooler = None  # that of BERT, which no vision network was trained with
        self.trunk = trunk
        self.side = int(getattr(told, "image_size", None) or 224)
        self.sampling = Sampling(frames=1, stride=1, fps=25.0, size=size or self.side)
        self.adapts = "interpolate_pos_encoding" in inspect.signature(trunk.forward).parameters
        self.blocks = len(around_blocks(trunk)) - 1
        self.taken = sorted({-(-self.blocks * part // len(TAPS)) - 1 for part in range(1, len(TAPS) + 1)})
        self.prefix, self.has_class_token = _prefix(trunk)

    def forward_features(self, clip: Tensor) -> dict[str, Tensor]:
        names = (*TAPS[-len(self.taken) :], "head", *(["cls"] if self.has_class_token else []))
        return frame_taps(self._see, clip, names)

    def pool(self, taps: dict[str, Tensor]) -> Tensor:
        """The network's own pooled feature, averaged over frames, in float32 at least: (B, num_features)."""
        return global_average(taps["head"])

    def stages(self) -> Stages:
        return within("trunk", around_blocks(self.trunk))

    def _see(self, images: Tensor) -> list[Tensor]:
        trunk: Any = self.trunk
        height, width = images.shape[-2:]
        more = {"interpolate_pos_encoding": True} if self.adapts and (height, width) != (self.side, self.side) else {}
        try:
            seen = trunk(pixel_values=images, output_hidden_states=True, **more)
            states = getattr(seen, "reshaped_hidden_states", None) or seen.hidden_states
            # The embeddings come first, if at all.
            taken = [states[-self.blocks :][number] for number in self.taken]
            maps = [self._map(state, height / width) for state in taken]
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # networks refuse pictures of a wrong size in words of their own
            raise VieError(
                f"{self.model_name} fails on pictures of {width}x{height} pixels ({one_line(error)}): give it its own "
                f"{self.side}, or others that its patch divides"
            ) from error
        token = [self._normalised(taken[-1])[:, 0]] if self.has_class_token else []
        pooled = getattr(seen, "pooler_output", None)
        if pooled is None:
            pooled = token[0] if token else maps[-1].mean(dim=(2, 3))
        return [*maps, *(one.flatten(1)[:, :, None, None] for one in (pooled, *token))]

    def _map(self, state: Tensor, aspect: float) -> Tensor:
        if state.ndim == 4:
            return state
        tokens = self._normalised(state)[:, self.prefix :]
        rows = round((tokens.shape[1] * aspect) ** 0.5)
        return tokens.transpose(1, 2).unflatten(2, (rows, -1))

    def _normalised(self, state: Tensor) -> Tensor:
        for name in FINAL_NORMS:
            if hasattr(self.trunk, name):
                return self.trunk.get_submodule(name)(state)
        return state


def from_hugging_face(
    source: str, embed_dim: int = 128, size: int | None = None, weights: str | None = DEFAULT
) -> HuggingFaceImages:
    """A stream of a saved network of transformers, with the preprocessing that was saved beside it.

    Args:
        source: A folder written by ``save_pretrained`` of a network and of its image processor, or the id of such a
            repository. Of a network of pictures and words, such as CLIP, the part that sees is taken.
        embed_dim: Dimensions of the embedding.
        size: Side of the pictures in pixels; None is that of the image processor.
        weights: "default" loads those of the source, from safetensors alone; None begins at random.

    Raises:
        VieError: transformers is missing; the source cannot be had, is no vision network, has no safetensors or not all
            of the weights, needs code of its own, or has no image processor.
    """
    transformers = _package(f"hf:{source}")
    if weights not in (None, DEFAULT):
        raise VieError(f"hf:{source} has the weights of its folder alone, not {weights!r}: give {DEFAULT!r} or None")
    try:
        config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # of the hub's client, of JSON and of transformers
        raise _unreadable(source, error) from error
    if config.model_type == "timm_wrapper":
        raise VieError(f"hf:{source} is a network of timm: give it as timm:{Path(source).name}")
    config = getattr(config, "vision_config", config)
    if config.model_type == "vit_mae":
        # The same network, but for the patches that it hides and shuffles, for pretraining alone.
        known = transformers.AutoConfig.for_model("vit").to_dict()
        config = transformers.AutoConfig.for_model("vit", **{at: it for at, it in _told(config).items() if at in known})
    pixels = read_pixels(transformers, source)
    trunk = None if weights is None else _load(transformers, source, config)
    arguments: dict[str, Any] = {"embed_dim": embed_dim, "config": _told(config), "size": size or pixels.size}
    stream = HuggingFaceImages(config.model_type, trunk=trunk, **arguments)
    stream.model_name, stream.arguments = f"hf_{config.model_type}", arguments
    _show(stream, pixels)
    if trunk is not None:
        stream.origin, stream.licence = f"hf {source}", licence_of(source)
    return stream


def _told(config: Any) -> dict[str, Any]:
    return {name: value for name, value in config.to_diff_dict().items() if name not in UNSAID}


def _show(stream: Stream, pixels: Pixels) -> None:
    stream.mean, stream.std, stream.resize = pixels.mean, pixels.std, pixels.resize
    size = stream.sampling.size
    short = round(size * pixels.short_side / pixels.size) / size
    stream.sampling = Sampling(frames=1, stride=1, fps=25.0, size=size, short_side=max(1.0, short))


def _package(what: str) -> Any:
    try:
        import transformers
    except ImportError as error:
        raise VieError(f"{what} needs transformers ({error}): pip install 'vie[hf]'") from error
    return transformers


def _load(transformers: Any, source: str, config: Any) -> Any:
    load = partial(
        transformers.AutoModel.from_pretrained,
        source,
        config=config,
        use_safetensors=True,
        trust_remote_code=False,
        dtype=torch.float32,
        output_loading_info=True,
    )
    try:
        trunk, told = load()
    except Exception as error:  # of the hub's client, of safetensors and of transformers
        raise not_loaded(f"hf:{source}", DEFAULT, error) from error
    missing = sorted(name for name in told["missing_keys"] if not name.startswith("pooler.dense"))
    if missing:
        raise VieError(
            f"hf:{source} lacks {len(missing)} tensors of a {config.model_type} ({list_names(missing)}): give a "
            "complete one, or weights=None for random ones"
        )
    return trunk


def _prefix(trunk: nn.Module) -> tuple[int, bool]:
    """How many tokens stand before those of the patches, and whether the first of them is a class token."""
    tokens = {"cls_token": 1, "class_embedding": 1, "distillation_token": 1, "register_tokens": 0}
    count, first = 0, False
    for name, parameter in trunk.named_parameters():
        kind = name.rpartition(".")[2]
        if kind in tokens:
            count += tokens[kind] or parameter.shape[1]
            first = first or kind in ("cls_token", "class_embedding")
    return count, first


def _unreadable(source: str, error: Exception) -> VieError:
    return VieError(
        f"hf:{source} cannot be read ({one_line(error)}): give a folder written by save_pretrained, or the id of a "
        "repository in transformers' format that needs no code of its own"
    )
