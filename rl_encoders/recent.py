"""Features of the batches that were seen last: within one update, agents show the same ones to several networks."""

from collections import OrderedDict, deque
from collections.abc import Callable

import torch
from torch import Tensor

BATCHES = 4
"""Remembered of each encoder: an update sees observations and next observations, one batch each or in two halves."""

ENCODERS = 8
"""Of which batches are remembered; those used last."""

_SEEN: OrderedDict[str, deque[tuple[Tensor, Tensor]]] = OrderedDict()


def encoded_once(fingerprint: str, clips: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
    """Features of clips, by one pass through the trunk for every one of the batches that were seen last.

    Actors, critics and their targets hold copies of one frozen encoder, so this is not kept by any of them. Clips that
    come several times in a row, as where many actions are sampled for each observation, are encoded once.

    Args:
        fingerprint: Tells what features depend on besides the clips.
        clips: (N, T, H, W, 3) uint8.
        encode: From some clips (M, T, H, W, 3) to their features (M, ...), without gradient.

    Returns:
        (N, ...).
    """
    seen = _SEEN.setdefault(fingerprint, deque(maxlen=BATCHES))
    _SEEN.move_to_end(fingerprint)
    while len(_SEEN) > ENCODERS:
        _SEEN.popitem(last=False)
    new = torch.ones(len(clips), dtype=torch.bool, device=clips.device)
    new[1:] = (clips[1:] != clips[:-1]).flatten(1).any(dim=1)
    first = new.nonzero()[:, 0]
    alone = clips if len(first) == len(clips) else clips[first]
    known = (found for batch, found in seen if batch.device == alone.device and torch.equal(batch, alone))
    features = next(known, None)
    if features is None:
        features = encode(alone)
        # The caller may write over its own batch.
        seen.appendleft((alone.clone() if alone is clips else alone, features))
    return features if alone is clips else features[new.cumsum(0) - 1]


def forget() -> None:
    """Frees the batches that are remembered."""
    _SEEN.clear()
