"""From one line of a config to an encoder."""

import difflib
import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import Any

import torch

from rl_encoders.cache import FeatureCache
from rl_encoders.encoder import VisualEncoder
from rl_encoders.heads import Heads
from rl_encoders.schedule import ALL, LAST, NONE, Schedule
from rl_encoders.sources import open_source
from rl_encoders.stages import stages
from rl_encoders.trunk import Trunk
from vie import VieError

MODES = ("frozen", "partial", "finetune")
CACHED = {"float32": torch.float32, "float16": torch.float16}

SIZED = ("timm:", "timm_", "torchvision:", "hf:", "hf_")
"""Sources whose networks may be built for pictures of one size, and have to be told."""


@torch.inference_mode(False)  # or nothing of it could ever be trained
def load(
    source: str | os.PathLike[str],
    mode: str = "frozen",
    *,
    train_from: str | Mapping[int, str] | None = None,
    layer_decay: float = 1.0,
    update_statistics: bool = False,
    pool: str = "mean",
    pool_arguments: Mapping[str, int] | None = None,
    views: Sequence[str] = (),
    share_views: bool = True,
    history: int = 1,
    project: int | None = None,
    proprio: Mapping[str, int] | None = None,
    proprio_project: int | None = None,
    size: int | None = None,
    precision: str = "fp32",
    device: str | torch.device = "cpu",
    compile: bool = False,
    cache: FeatureCache | str | os.PathLike[str] | None = None,
    cache_bytes: int | None = None,
    cache_dtype: str = "float32",
    **model: Any,
) -> VisualEncoder:
    """Loads an encoder for an agent.

    Args:
        source: A saved VIE encoder (a folder or an id on the hub), the name of a model with random weights
            (``vie.list_models()``), or ``timm:NAME``, ``torchvision:NAME``, ``hf:ID`` with the weights that are given
            out there; see ``rl_encoders.open_source``.
        mode: ``"frozen"``, ``"finetune"``, or ``"partial"``, which trains the stages from ``train_from`` on.
        train_from: For partial: the name of a stage (``encoder.trunk.stages`` has them), the last unless given; or a
            schedule, as ``{0: "none", 10_000: "conv5", 50_000: "all"}``, which ``encoder.advance(step)`` follows.
        layer_decay: Factor of the learning rate from each stage to the one below, in ``encoder.param_groups``.
        update_statistics: Whether batch norms of trained stages update their running statistics.
        pool: ``mean``, ``cls``, ``spatial_softmax``, ``spatial_embeddings`` or ``attention``.
        pool_arguments: See ``rl_encoders.pooling.create_pool``.
        views: Names of the cameras in an observation; empty where the observation is the pixels themselves.
        share_views: Whether all cameras go through one pool.
        history: Clips in an observation; their vectors are put side by side.
        project: Length that a linear layer, LayerNorm and tanh bring the pictures' vectors to.
        proprio: Parts of the proprioception in an observation, and their lengths.
        proprio_project: The same for the proprioception.
        size: Side in pixels of the pictures that the trunk sees, in place of those it was trained on.
        precision: ``fp32``, ``bf16`` or ``fp16`` of the trunk's arithmetic; its results are float32.
        device: Where the encoder computes.
        compile: Whether the trunk runs through torch.compile, which takes its time at the first batch of each size.
        cache: Of what a frozen trunk makes: a folder or a ``FeatureCache``.
        cache_bytes: Size of a new cache in a folder; see ``FeatureCache``.
        cache_dtype: ``float32``, or ``float16``, which halves what features take and rounds them.
        model: Arguments of ``rl_encoders.open_source``, such as ``width`` or ``weights``.

    Raises:
        VieError: There is no such source, its package is missing, or the arguments contradict each other.
    """
    heads = Heads(pool, pool_arguments, views, share_views, history, project, proprio, proprio_project)
    if size is not None and (not isinstance(size, Integral) or isinstance(size, bool) or size < 1):
        raise VieError(f"size={size!r}: give the side of the pictures in pixels, at least 1")
    schedule = Schedule(_trained(mode, train_from), layer_decay)
    if size is not None and str(source).startswith(SIZED) and not Path(source).is_dir():
        model["size"] = size
    if model.get("pretrained", ...) is None:  # as jsonargparse fills in, who finds it in the networks' own arguments
        del model["pretrained"]
    opened = open_source(source, **model)
    sampling = opened.sampling if size is None else replace(opened.sampling, size=size)
    trunk = Trunk(opened.stream, stages(opened.stream), update_statistics)
    schedule.check(trunk)
    if cache_dtype not in CACHED:
        raise VieError(f"cache_dtype={cache_dtype}: give one of {', '.join(CACHED)}")
    if cache is not None and schedule.first_trained(trunk, 0) < len(trunk.stages):
        raise VieError(
            f"a cache keeps what a frozen trunk makes, and mode={mode} trains it from the first step: leave cache out, "
            "or begin frozen, as by train_from={0: 'none', ...}"
        )
    if isinstance(cache, str | os.PathLike):
        cache = FeatureCache(Path(cache), cache_bytes)
    elif cache_bytes is not None:
        raise VieError("cache_bytes is for a cache that is given as a folder: leave it out, or give the folder")
    card = {"source": opened.name, "weights": opened.weights, "licence": opened.licence}
    encoder = VisualEncoder(trunk, sampling, card, heads, schedule, precision, cache, CACHED[cache_dtype], compile).to(
        device
    )
    encoder.advance(0)
    return encoder


def from_config(config: Mapping[str, Any]) -> VisualEncoder:
    """An encoder out of any config system's mapping.

    Args:
        config: Arguments of ``load``; or these as ``init_args`` beside a ``class_path``. Keys that begin with an
            underscore (Hydra's ``_target_``) are left to whoever put them there.

    Raises:
        VieError: As ``load``, or a key is misspelt.
    """
    given = dict(config.get("init_args", {}) if "class_path" in config else config)
    given = {name: value for name, value in given.items() if not name.startswith("_")}
    if "source" not in given:
        raise VieError(f"the encoder's config has no source: it has {', '.join(given) or 'nothing'}")
    known = [name for name in inspect.signature(load).parameters if name != "model"]
    for name in given:
        near = difflib.get_close_matches(name, known, n=1)
        if name not in known and near:
            raise VieError(f"the encoder's config has no {name!r}: did you mean {near[0]!r}?")
    return load(**given)


def _trained(mode: str, train_from: str | Mapping[int, str] | None) -> Mapping[int, str]:
    if mode not in MODES:
        raise VieError(f"there is no mode {mode!r}: give one of {', '.join(MODES)}")
    if mode != "partial":
        if train_from is not None:
            raise VieError(f"train_from={train_from} is for mode=partial, and mode={mode} trains all or nothing")
        return {0: NONE if mode == "frozen" else ALL}
    if isinstance(train_from, Mapping):
        return {int(step): stage for step, stage in train_from.items()}  # keys of YAML and JSON may be words
    return {0: train_from or LAST}
