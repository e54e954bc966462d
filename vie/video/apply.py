"""Applies a draw of the augmentation to pixels, in whole batches on the device."""

import functools
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vie.video.augment import Draw
from vie.video.colours import HUE_TURN, Jitter, Parts, jitter, jitter_by_means, per_clip, to_grey
from vie.video.pixels import MEAN, STD, Boxes, Channels, channels, crop_resize


class Apply(Protocol):
    """What applies a draw: ``apply_draw``, plain or compiled."""

    def __call__(
        self, frames: Tensor, numbers: Tensor, size: int, mean: Tensor, std: Tensor, parts: Parts
    ) -> Tensor: ...


def apply_draw(frames: Tensor, numbers: Tensor, size: int, mean: Tensor, std: Tensor, parts: Parts) -> Tensor:
    """Crops, flips, jitters the colours and normalises.

    Args:
        frames: (B, T, H, W, 3) uint8.
        numbers: (B, 25) float: box, flip, grey, hue, then the weights a, b, c of six turns.
        size: Side of the result.
        mean: (3, 1, 1, 1), for the normalisation.
        std: (3, 1, 1, 1), for the normalisation.
        parts: What is not left out.

    Returns:
        (B, 3, T, size, size) float32.
    """
    return _apply(frames, numbers, size, mean, std, parts, jitter)


def _apply(
    frames: Tensor, numbers: Tensor, size: int, mean: Tensor, std: Tensor, parts: Parts, jitter: Jitter
) -> Tensor:
    clip = crop_resize(frames, numbers[:, :4], size, numbers[:, 4] > 0)
    planes = jitter(clip.unbind(1), numbers[:, 6], numbers[:, 7:].unflatten(1, (2 * HUE_TURN, 3)), parts)
    if parts.grey:
        is_grey, grey = per_clip(numbers[:, 5] > 0), to_grey(planes)
        planes = [torch.where(is_grey, grey, plane) for plane in planes]
    return torch.stack([(plane - mean[channel]) / std[channel] for channel, plane in enumerate(planes)], dim=1)


@functools.cache
def compiled_apply_draw(backend: str = "inductor", fullgraph: bool = False) -> Apply:
    """``apply_draw`` through torch.compile: on a GPU a few passes over the pixels in place of a hundred."""
    whole = functools.partial(_apply, jitter=jitter_by_means)
    compiled: Apply = torch.compile(whole, backend=backend, fullgraph=fullgraph)

    def apply(frames: Tensor, numbers: Tensor, size: int, mean: Tensor, std: Tensor, parts: Parts) -> Tensor:
        # All turns or none: a small batch may leave any of them out, and each combination would be compiled.
        turns = (any(parts.turns),) * len(parts.turns)
        return compiled(frames, numbers, size, mean, std, parts._replace(turns=turns))

    return apply


def augment(
    frames: Tensor,
    drawn: Draw,
    size: int,
    boxes: Boxes | None = None,
    mean: Channels = MEAN,
    std: Channels = STD,
    apply: Apply = apply_draw,
) -> Tensor:
    """Applies a draw.

    Args:
        frames: (B, T, H, W, 3) uint8, on the device to work on.
        drawn: For these B clips.
        size: Side of the result.
        boxes: Crops in pixels of ``frames`` where these are not whole pictures; None takes the draw's own.
        mean: Of the stream, for the normalisation.
        std: Of the stream, for the normalisation.
        apply: ``compiled_apply_draw()`` is faster on a GPU.

    Returns:
        (B, 3, T, size, size) float32, normalised.
    """
    factors, device = drawn.factors, frames.device
    columns = [
        drawn.boxes if boxes is None else boxes,
        np.stack([drawn.flip, drawn.grey, factors[:, 3]], axis=1),
        _blend_weights(factors, drawn.order).reshape(len(factors), -1),
    ]
    # All numbers of the batch travel in one transfer.
    numbers = torch.from_numpy(np.concatenate(columns, axis=1, dtype=np.float32)).to(device, non_blocking=True)
    turns = tuple(_active_turns(factors, drawn.order).tolist())
    parts = Parts(turns, hue=bool(factors[:, 3].any()), grey=bool(drawn.grey.any()))
    return apply(frames, numbers, size, channels(mean, device), channels(std, device), parts)


def _turns(order: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """In which of the six turns each clip has its brightness, contrast and saturation: (B, 3)."""
    place = np.argsort(order, axis=1)
    before = place[:, :3] < place[:, 3:]
    return np.where(before, place[:, :3], place[:, :3] - 1 + HUE_TURN)


def _active_turns(factors: npt.NDArray[np.float32], order: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    turns = _turns(order)[factors[:, :3] != 1]
    return np.isin(np.arange(2 * HUE_TURN), turns)


def _blend_weights(factors: npt.NDArray[np.float32], order: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """The weights a, b, c of every clip and turn: (B, 6, 3)."""
    clips = np.arange(len(factors))
    weights = np.tile(np.array([1, 0, 0], dtype=np.float32), (len(factors), 2 * HUE_TURN, 1))
    brightness, contrast, saturation = _turns(order).T
    weights[clips, brightness, 0] = factors[:, 0]
    weights[clips, contrast, 0] = factors[:, 1]
    weights[clips, contrast, 2] = 1 - factors[:, 1]
    weights[clips, saturation, 0] = factors[:, 2]
    weights[clips, saturation, 1] = 1 - factors[:, 2]
    return weights
