"""Features of the batches that were seen last: within one update, agents show the same ones to several networks."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

BUDGET = 2**28
"""Bytes of pixels and features that are remembered, of all encoders together; a larger batch is not."""

PER_KEY = 8
"""Batches that are remembered of one key, as every new one is compared with them: now and next of four cameras."""


@dataclass(frozen=True, eq=False)
class _Seen:
    key: object
    clips: Tensor
    features: Tensor

    @property
    def bytes(self) -> int:
        return self.clips.nbytes + self.features.nbytes


_SEEN: list[_Seen] = []
_LOCK = threading.Lock()


def encoded_once(key: object, clips: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
    """Features of clips, by one pass through the trunk for every one of the batches that were seen last.

    Actors, critics and their targets hold copies of one frozen encoder, so this is not kept by any of them. Clips that
    come several times in a row, as where many actions are sampled for each observation, are encoded once.

    Args:
        key: Tells what features depend on besides the clips, and where else they are kept.
        clips: (N, T, H, W, 3) uint8.
        encode: From some clips (M, T, H, W, 3) to their features (M, ...), without gradient.

    Returns:
        (N, ...), not to be written to: the next caller may be given the same tensor.
    """
    features = _find(key, clips)
    if features is not None:
        return features
    alone, number = (clips, None) if len(clips) == 1 else _without_repeats(clips)
    features = _find(key, alone) if number is not None else None
    if features is None:
        # Not as inference tensors, which could not be trained on later.
        with torch.inference_mode(False), torch.no_grad():
            features = encode(alone.clone() if alone.is_inference() else alone)
            # The caller may write over its own batch.
            _remember(_Seen(key, alone.clone() if number is None or alone.is_inference() else alone, features))
    return features if number is None else features[number]


def forget() -> None:
    """Frees the batches that are remembered."""
    with _LOCK:
        _SEEN.clear()


def _without_repeats(clips: Tensor) -> tuple[Tensor, Tensor | None]:
    """The clips that differ from the one before, and for every clip its number among them; None if all do."""
    new = torch.ones(len(clips), dtype=torch.bool, device=clips.device)
    new[1:] = (clips[1:] != clips[:-1]).flatten(1).any(dim=1)
    first = new.nonzero()[:, 0]
    return (clips, None) if len(first) == len(clips) else (clips[first], new.cumsum(0) - 1)


def _find(key: object, clips: Tensor) -> Tensor | None:
    with _LOCK:
        candidates = [seen for seen in _SEEN if seen.key == key and seen.clips.device == clips.device]
    found = next((seen for seen in candidates if torch.equal(seen.clips, clips)), None)
    if found is None:
        return None
    with _LOCK:
        if found in _SEEN:
            _SEEN.remove(found)
            _SEEN.append(found)
    return found.features


def _remember(seen: _Seen) -> None:
    if seen.bytes > BUDGET:
        return
    with _LOCK:
        _SEEN.append(seen)
        if len(alike := [each for each in _SEEN if each.key == seen.key]) > PER_KEY:
            _SEEN.remove(alike[0])
        while sum(each.bytes for each in _SEEN) > BUDGET:
            del _SEEN[0]
