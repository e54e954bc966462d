"""Frozen tensors of a process: one of each content on each device, however many networks hold it."""

import weakref
from collections.abc import Mapping
from hashlib import blake2b

import torch
from torch import Tensor, nn

_SHARED: "weakref.WeakValueDictionary[tuple[object, ...], nn.Parameter]" = weakref.WeakValueDictionary()


def digest(tensor: Tensor) -> bytes:
    """16 bytes that tell a tensor's content, shape and type from any other's, on whatever device it lies."""
    content = blake2b(f"{tensor.dtype} {tuple(tensor.shape)}".encode(), digest_size=16)
    content.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return content.digest()


def summary(digests: Mapping[str, bytes]) -> bytes:
    """16 bytes that tell tensors by name from any others."""
    content = blake2b(digest_size=16)
    for name in sorted(digests):
        content.update(name.encode() + b"\0" + digests[name])
    return content.digest()


def shared(tensor: Tensor, content: bytes) -> nn.Parameter:
    """The one frozen tensor of this process with this content on this device.

    Args:
        tensor: One with that content; it is kept if it is the first, so nobody else may change it.
        content: Its ``digest``.
    """
    key = content, tensor.device
    found = _SHARED.get(key)
    # One that was written to is left to those who hold it, whose ``verify`` finds it.
    if found is None or found._version != found.version_when_shared:  # type: ignore[attr-defined]
        found = nn.Parameter(tensor.detach(), requires_grad=False)
        found.version_when_shared = found._version  # type: ignore[attr-defined]
        _SHARED[key] = found
    return found
