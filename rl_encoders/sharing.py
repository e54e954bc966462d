"""Frozen tensors of a process: one of each content on each device, however many networks hold it."""

import weakref

from torch import Tensor, nn

_SHARED: "weakref.WeakValueDictionary[tuple[object, ...], nn.Parameter]" = weakref.WeakValueDictionary()


def shared(tensor: Tensor, content: bytes) -> nn.Parameter:
    """The one frozen tensor of this process with this content on this device.

    Args:
        tensor: One with that content; it is kept if it is the first, so nobody else may change it.
        content: Its ``vie.digests.digest``.
    """
    key = content, tensor.device
    found = _SHARED.get(key)
    # One that was written to is left to those who hold it, whose ``verify`` finds it.
    if found is None or found._version != found.version_when_shared:  # type: ignore[attr-defined]
        found = nn.Parameter(tensor.detach(), requires_grad=False)
        found.version_when_shared = found._version  # type: ignore[attr-defined]
        _SHARED[key] = found
    return found
