"""Digests of tensors: what a network is made of, told from any other."""

from collections.abc import Mapping
from hashlib import blake2b

import torch
from torch import Tensor


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
