"""Device, precision and clip of a run, resolved from its config."""

import contextlib
import copy
import logging
import platform
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pretrain.config import Config, RuntimeConfig
from pretrain.objective import cluster_sizes
from vie import Sampling, VieError
from vie.distributed import Ranks
from vie.video.apply import Apply, apply_draw, compiled_apply_draw

Autocast = Callable[[], AbstractContextManager[object]]
Precision = Literal["fp32", "bf16"]
Forward = Callable[[Tensor], Tensor]

logger = logging.getLogger(__name__)

PLAIN_NORMS = {nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm}
"""Batch norms that do nothing else."""

TRUNK_STRIDE = 32
"""Pixels of the crop for each place of the last feature map."""


def resolve_device(name: str) -> torch.device:
    """The device of a name; "auto" is the GPU if there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise VieError(f"runtime.device={name!r} cannot be used ({reason}): set it to auto, cpu or cuda") from error


def resolve_precision(precision: str, device: torch.device, size: int) -> Precision:
    """The precision of a name for crops of a size; "auto" is bf16 where the device computes in it.

    Raises:
        VieError: bf16 is asked for where it goes wrong.
    """
    # oneDNN leaves weight gradients of a stride-2 convolution over 1x1 maps unwritten in bf16 (seen with torch 2.15).
    broken = device.type == "cpu" and size <= TRUNK_STRIDE // 2
    if precision == "auto":
        return "bf16" if computes_bf16(device) and not broken else "fp32"
    if precision == "bf16" and broken:
        raise VieError(
            f"runtime.precision=bf16 gives wrong gradients on the CPU for crops of {size} pixels: "
            f"set it to fp32, or data.size to more than {TRUNK_STRIDE // 2}"
        )
    return cast(Precision, precision)


def autocast_to(precision: str, device: torch.device, keep_casts: bool = True) -> Autocast:
    """The context that a forward pass runs in; a CUDA graph may not keep the weights that it casts."""
    if precision == "fp32":
        return contextlib.nullcontext
    return lambda: torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=keep_casts)


def computes_bf16(device: torch.device) -> bool:
    """Whether a device multiplies in bf16 in hardware (elsewhere it is emulated, and slower than fp32)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.cpu._is_amx_tile_supported()


def training_forward(
    model: nn.Module, runtime: RuntimeConfig, clip_shape: tuple[int, ...], device: torch.device
) -> Forward:
    """The forward pass of training steps: plain, compiled, replayed from a CUDA graph, or both.

    Args:
        model: In training mode; its state is left as it is.
        runtime: Says which of these, and the precision (resolved).
        clip_shape: (B, 3, T, H, W) of a whole batch; smaller batches take the plain way.
        device: Of the model.
    """
    # Training batches all have one shape, so the fastest convolution is worth a search.
    torch.backends.cudnn.benchmark = True
    if Ranks.of_job().size > 1:
        model = nn.parallel.DistributedDataParallel(model)
    compiles, replays = "compile" in runtime.mode, "cuda_graph" in runtime.mode
    plain = _UnderAutocast(model, autocast_to(runtime.precision, device, keep_casts=not replays))
    if runtime.mode == "eager":
        return plain
    # For this shape alone: one for any size of batch is slower, and torch 2.11 cannot generate it for 3-D networks.
    fast: Forward = torch.compile(plain, dynamic=False) if compiles else plain
    if replays:
        fast = _from_a_graph(plain, fast, torch.randn(clip_shape, device=device), runtime.mode)
    return lambda clip: fast(clip) if clip.shape == clip_shape else plain(clip)


def _from_a_graph(plain: "_UnderAutocast", fast: Forward, sample: Tensor, mode: str) -> Forward:
    if sample.device.type != "cuda":
        raise VieError(f"runtime.mode={mode} needs a GPU, and the device is {sample.device}: set it to eager")
    if Ranks.of_job().size > 1:
        raise VieError(f"runtime.mode={mode} works on one GPU, not on several ranks: set it to compile")
    before = copy.deepcopy(plain.state_dict())
    graphed = cast(Forward, torch.cuda.make_graphed_callables(_Called(plain, fast), (sample,)))
    # Capturing runs the model, which moves the statistics of batch norm.
    plain.load_state_dict(before)
    return graphed


class _Called(nn.Module):
    """A network and a way to call it: capturing asks for its parameters, which a compiled one does not show."""

    def __init__(self, network: nn.Module, call: Forward) -> None:
        super().__init__()
        self.network = network
        self.call = call

    def forward(self, clip: Tensor) -> Tensor:
        return self.call(clip)


class _UnderAutocast(nn.Module):
    def __init__(self, model: nn.Module, autocast: Autocast) -> None:
        super().__init__()
        self.model = model
        self.autocast = autocast

    def forward(self, clip: Tensor) -> Tensor:
        with self.autocast():
            embedding: Tensor = self.model(clip)
        return embedding


def training_apply(runtime: RuntimeConfig) -> Apply:
    """How training steps augment pixels: compiled, unless everything runs eagerly."""
    return apply_draw if runtime.mode == "eager" else compiled_apply_draw()


def synchronise_batch_norm(network: nn.Module, device: torch.device) -> None:
    """Makes batch norm take its statistics over the clips of all ranks; raises ``VieError`` where it cannot."""
    if device.type != "cuda":
        raise VieError(f"runtime.sync_batch_norm needs GPUs, and the device is {device}: set it to false")
    own = {type(module) for module in network.modules() if isinstance(module, _BatchNorm)} - PLAIN_NORMS
    strange = sorted(kind.__name__ for kind in own if not kind.__module__.startswith("timm."))
    if strange:
        raise VieError(
            f"runtime.sync_batch_norm would replace {', '.join(strange)} by PyTorch's own batch norm: set it to false"
        )
    convert = nn.SyncBatchNorm.convert_sync_batchnorm
    if own:
        # timm's hold an activation, which PyTorch's conversion would drop.
        from timm.layers import convert_sync_batchnorm as convert
    convert(network)


def use_channels_last(model: nn.Module, device: torch.device) -> None:
    """Lays convolution weights out with channels last; activations follow the weights."""
    narrow = any(p.ndim > 2 and 3 < p.shape[1] < 16 for p in model.parameters())
    if device.type == "cpu" and narrow:
        return  # oneDNN's strided 1x1 convolution writes out of bounds there (seen with torch 2.15)
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in model.parameters():
        if parameter.ndim in layouts:
            parameter.data = parameter.data.contiguous(memory_format=layouts[parameter.ndim])


def warn_if_slow(network: nn.Module, precision: str, device: torch.device) -> None:
    """Says so where PyTorch keeps a network's 3-D convolutions in bf16 away from cuDNN, which is several times slower.

    From 2.9 on PyTorch does, unless they are laid out channels last, with cuDNN 9.8 to 9.14, whose kernels for them are
    faulty (pytorch/pytorch#166122, #166643).
    """
    cudnn = torch.backends.cudnn.version() or 0
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if device.type != "cuda" or precision != "bf16" or version < (2, 9) or not 90800 <= cudnn < 91500:
        return
    weights = [module.weight for module in network.modules() if isinstance(module, nn.Conv3d)]
    spread = [weight for weight in weights if any(side > 1 for side in weight.shape[2:])]
    if any(not weight.is_contiguous(memory_format=torch.channels_last_3d) for weight in spread):
        logger.warning(
            "torch %s with cuDNN %d.%d.%d computes 3-D convolutions in bf16 without cuDNN, several times slower: set "
            "runtime.channels_last=true, or install cuDNN 9.15 or later",
            torch.__version__,
            *(cudnn // 10000, cudnn // 100 % 100, cudnn % 100),
        )


def resolve_sampling(config: Config, default: Sampling) -> Sampling:
    """The clip of a run: the model's own, where the config does not say otherwise."""
    data = config.data
    return Sampling(
        frames=default.frames if data.frames is None else data.frames,
        stride=default.stride if data.stride is None else data.stride,
        fps=default.fps if data.fps is None else data.fps or None,
        size=default.size if data.size is None else data.size,
        binned=default.binned if data.binned is None else data.binned,
        short_side=default.short_side if data.short_side is None else data.short_side,
    )


def resolve(config: Config, sampling: Sampling, device: torch.device, instances: int) -> Config:
    """A config without "auto" and null: what a run is saved with, and compared with when it is continued."""
    aggregation = config.local_aggregation
    if config.method == "vie":
        clusters, neighbours = cluster_sizes(aggregation, instances)
        aggregation = replace(aggregation, clusters=clusters, neighbours=neighbours)
    clip = {**asdict(sampling), "fps": sampling.fps or 0.0}
    return replace(
        config,
        data=replace(config.data, **clip),
        local_aggregation=aggregation,
        runtime=replace(
            config.runtime,
            device=str(device),
            precision=resolve_precision(config.runtime.precision, device, sampling.size),
        ),
    )


def describe_machine(device: torch.device) -> str:
    """What the figures of a run were measured on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return f"{name}; torch {torch.__version__}; {platform.platform()}"
