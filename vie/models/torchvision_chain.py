"""The way through torchvision's convolutional and hierarchical networks: a chain of modules, cut where maps shrink."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

UNROLLED = ("features", "layers", "trunk_output", "blocks")
"""Children of torchvision's networks that are chains themselves."""

ENDS = ("avgpool", "classifier", "fc", "head", "dropout", "flatten", "permute", "aux1", "aux2", "AuxLogits")
"""Children that come after the maps, or beside them."""

SHRINKS = 0.75
"""A map whose side is less than this share of those before belongs to the next stage."""


def stages_of_chain(network: Any, size: int) -> list[list[str]]:
    """Names of the modules of each stage, in their order; the last module of a stage gives its map.

    There are five at most, all with parameters: a pool joins the stage before, if it is not followed by a layer of its
    own resolution.

    Args:
        network: Of torchvision, in eval mode.
        size: Side of its pictures in pixels.
    """
    pictures = torch.empty(1, 3, size, size, device="meta")
    stages: list[list[str]] = []
    side = float("inf")
    for name in _chain(network):
        module = network.get_submodule(name)
        # Only shapes are computed, without the weights.
        tensors = {at: tensor.to("meta") for at, tensor in [*module.named_parameters(), *module.named_buffers()]}
        pictures = functional_call(module, tensors, (pictures,))
        now = float(as_map(network, pictures).shape[-1])
        if now < SHRINKS * side:
            stages.append([])
            side = now
        stages[-1].append(name)
    return _five([stage for stage in _with_parameters(network, stages)])


def as_map(network: Any, given: Tensor) -> Tensor:
    """The output of a module as (B, C, H, W); Swin's have their channels last."""
    return given.movedim(-1, 1) if type(network).__name__ == "SwinTransformer" else given


def _chain(network: nn.Module) -> list[str]:
    names: list[str] = []
    for name, child in network.named_children():
        if name in UNROLLED:
            names += [f"{name}.{inner}" for inner, _ in child.named_children()]
        elif name not in ENDS:
            names.append(name)
    return names


def _with_parameters(network: nn.Module, stages: list[list[str]]) -> list[list[str]]:
    joined: list[list[str]] = []
    for stage in stages:
        if joined and not any(any(True for _ in network.get_submodule(name).parameters()) for name in stage):
            joined[-1] += stage
        else:
            joined.append(list(stage))
    return joined


def _five(stages: list[list[str]]) -> list[list[str]]:
    while len(stages) > 5:
        stages = [stages[0] + stages[1], *stages[2:]]
    return stages
