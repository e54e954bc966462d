"""Device, precision and clip of a run, resolved from its config."""

import contextlib
import copy
import platform
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import cast

import torch
from torch import Tensor, nn

from pretrain.config import Config, RuntimeConfig
from vie import Sampling, VieError

Autocast = Callable[[], AbstractContextManager[object]]
Forward = Callable[[Tensor], Tensor]


def resolve_device(name: str) -> torch.device:
    """The device of a name; "auto" is the GPU if there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise VieError(f"runtime.device={name!r} cannot be used ({reason}): set it to auto, cpu or cuda") from error


def resolve_autocast(precision: str, device: torch.device) -> Autocast:
    """The context that a forward pass runs in."""
    if precision == "auto":
        precision = "bf16" if computes_bf16(device) else "fp32"
    if precision == "fp32":
        return contextlib.nullcontext
    return lambda: torch.autocast(device.type, dtype=torch.bfloat16)


def computes_bf16(device: torch.device) -> bool:
    """Whether a device multiplies in bf16 in hardware (elsewhere it is emulated, and slower than fp32)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.cpu._is_amx_tile_supported()


def training_forward(
    model: nn.Module, runtime: RuntimeConfig, clip_shape: tuple[int, ...], device: torch.device, autocast: Autocast
) -> Forward:
    """The forward pass of training steps: plain, compiled, or replayed from a CUDA graph.

    Args:
        model: In training mode; its state is left as it is.
        runtime: Says which of the three.
        clip_shape: (B, 3, T, H, W) of a whole batch; smaller batches take the plain way past a graph.
        device: Of the model.
        autocast: The context of the pass.
    """

    def plain(clip: Tensor) -> Tensor:
        with autocast():
            embedding: Tensor = model(clip)
        return embedding

    # Every batch has one shape, so the fastest convolution is worth a search.
    torch.backends.cudnn.benchmark = device.type == "cuda"
    if runtime.compile:
        return torch.compile(plain)
    if not runtime.cuda_graph or device.type != "cuda":
        return plain
    before = copy.deepcopy(model.state_dict())
    wrapped = _WithoutCastCache(model, autocast)
    sample = torch.randn(clip_shape, device=device)
    graphed = cast(Forward, torch.cuda.make_graphed_callables(wrapped, (sample,)))
    # Capturing runs the model, which moves the statistics of batch norm.
    model.load_state_dict(before)
    return lambda clip: graphed(clip) if clip.shape == clip_shape else plain(clip)


class _WithoutCastCache(nn.Module):
    """A graph may not refer to weights that autocast has cast before."""

    def __init__(self, model: nn.Module, autocast: Autocast) -> None:
        super().__init__()
        self.model = model
        self.autocast = autocast

    def forward(self, clip: Tensor) -> Tensor:
        with self.autocast():
            torch.set_autocast_cache_enabled(False)
            embedding: Tensor = self.model(clip)
            torch.set_autocast_cache_enabled(True)
        return embedding


def use_channels_last(model: nn.Module, device: torch.device) -> None:
    """Lays convolution weights out with channels last; activations follow the weights."""
    narrowest = min(p.shape[1] for p in model.parameters() if p.ndim > 2 and p.shape[1] > 3)
    if device.type == "cpu" and narrowest < 16:
        return  # oneDNN's strided 1x1 convolution writes out of bounds there (seen with torch 2.15)
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in model.parameters():
        if parameter.ndim in layouts:
            parameter.data = parameter.data.contiguous(memory_format=layouts[parameter.ndim])


def resolve_sampling(config: Config, default: Sampling) -> Sampling:
    """The clip of a run: the model's own, where the config does not say otherwise."""
    data = config.data
    return Sampling(
        frames=data.frames or default.frames,
        stride=data.stride or default.stride,
        fps=default.fps if data.fps is None else data.fps or None,
        size=data.size or default.size,
    )


def describe_machine(device: torch.device) -> str:
    """What the figures of a run were measured on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return f"{name}; torch {torch.__version__}; {platform.platform()}"
