"""The feature cache: with a frozen trunk, an image is encoded once in its life."""

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rl_encoders.cache_store import KEY, Bytes, Mask, RecordStore, hashes, size_of
from vie.errors import VieError

DEFAULT_BYTES = 16 * 2**30
STORED = (torch.float16, torch.float32)

Images = TypeVar("Images", NDArray[np.uint8], Tensor)


class GoneError(VieError):
    """Features that were asked for by key are not in the cache.

    Attributes:
        gone: (N,) bool, which of the keys.
    """

    def __init__(self, message: str, gone: Mask) -> None:
        super().__init__(message)
        self.gone = gone


@dataclass(frozen=True)
class CacheStatistics:
    """What a cache has done and holds.

    Attributes:
        hits: Features that this process found.
        misses: Images that it had to encode, and keys whose features were gone.
        entries: Features in the folder, whoever wrote them.
        bytes_held: What these and the index take; never more than the limit.
    """

    hits: int
    misses: int
    entries: int
    bytes_held: int


class FeatureCache:
    """Features of images in a folder of bounded size, by weights, preprocessing and pixels.

    Any number of processes of a machine, of threads and of encoders may use a folder at once; a cache may be forked or
    pickled after it was opened. What was written longest ago goes first, but features that are used in the last
    sixteenth of their life are written anew: those of an encoder that is no longer used go by themselves.
    """

    def __init__(self, folder: str | os.PathLike[str], limit_bytes: int | None = None) -> None:
        """Opens a cache, or makes a new one.

        Args:
            folder: On a local disk. Its one file can be deleted at any time; whoever has it open keeps it.
            limit_bytes: Size of the file, of which the disk's room is taken as it fills up. Every process gives the
                same, or None, which takes that of the file, and 16 GiB for a new one. Features of an image take their
                own size and 32 bytes, rounded up to 64.

        Raises:
            VieError: The cache was made with another limit, is damaged or cannot be written.
        """
        self.folder = Path(folder)
        if limit_bytes is None:
            limit_bytes = size_of(self.folder) or DEFAULT_BYTES
        self.limit_bytes = limit_bytes
        self._store = RecordStore(self.folder, limit_bytes)
        self._hits = self._misses = 0

    def __deepcopy__(self, memo: dict[int, object]) -> "FeatureCache":
        return self

    def __reduce__(self) -> tuple[type["FeatureCache"], tuple[Path, int]]:
        return type(self), (self.folder.absolute(), self.limit_bytes)

    def through(
        self,
        fingerprint: str,
        images: Images,
        encode: Callable[[Images], Tensor],
        shape: tuple[int, ...],
        dtype: torch.dtype,
    ) -> Tensor:
        """Features of images, of which those that are not there yet are encoded and kept.

        The values are those that are stored, wherever they come from: results do not depend on what was found. Where
        two processes encode the same image at once, both go on with what was written first.

        Args:
            fingerprint: Of the encoder's weights and preprocessing: whatever changes a feature must change it.
            images: uint8 (N, ..., H, W, 3), an array or a tensor on the CPU.
            encode: Makes (M, ...) images, of the same kind as ``images``, into (M, *shape) features on any device.
                Called at most once, with the images that are missing, each once, in the order in which they first
                occur.
            shape: Of the features of one image.
            dtype: ``torch.float16`` or ``torch.float32``, in which they are stored.

        Returns:
            (N, *shape) of ``dtype``, on the CPU.

        Raises:
            VieError: The images or features are of another type or shape; a feature is not finite, or too large for
                float16; the cache cannot be written.
        """
        places = self.keys(fingerprint, images) ^ _form(shape, dtype)
        content, found = self._store.read(places, _size(shape, dtype))
        missing = first = np.flatnonzero(~found)
        if len(missing):
            order: dict[bytes, int] = {}
            number = [order.setdefault(place.tobytes(), len(order)) for place in places[missing]]
            first = missing[np.unique(number, return_index=True)[1]]
            features = _stored(encode(images[first]), (len(first), *shape), dtype)
            content[missing] = self._store.keep(places[first], features)[number]
            self._misses += len(first)
        self._hits += len(places) - len(first)
        return _features(content, shape, dtype)

    def keys(self, fingerprint: str, images: NDArray[np.uint8] | Tensor) -> Bytes:
        """What ``get`` wants in place of images: 16 bytes for each, worth keeping beside or instead of its pixels.

        Args:
            fingerprint: As for ``through``.
            images: uint8 (N, ..., H, W, 3), an array or a tensor on the CPU.

        Returns:
            (N, 16) uint8.

        Raises:
            VieError: The images are of another type or shape.
        """
        rows, shape = _rows(images)
        return hashes(rows) ^ _hash_of(fingerprint, "uint8", shape)

    def get(self, keys: Bytes, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Features that ``through`` has stored.

        Args:
            keys: (N, 16) uint8, from ``keys``.
            shape: As ``through`` was given it.
            dtype: Likewise.

        Returns:
            (N, *shape) of ``dtype``, on the CPU.

        Raises:
            GoneError: Some are not there (any more); it says which.
            VieError: These are no keys, or the cache is damaged.
        """
        if keys.dtype != np.uint8 or keys.ndim != 2 or keys.shape[1] != KEY:
            raise VieError(
                f"keys are {keys.dtype} {keys.shape}, not uint8 (N, {KEY}): take them from FeatureCache.keys"
            )
        content, found = self._store.read(keys ^ _form(shape, dtype), _size(shape, dtype))
        hits = int(found.sum())
        self._hits += hits
        self._misses += len(keys) - hits
        if hits < len(keys):
            raise GoneError(
                f"{len(keys) - hits} of {len(keys)} features, {tuple(shape)} of {dtype}, are not in the cache "
                f"{self.folder}: encode their images again by through, or begin a cache with a larger limit_bytes",
                ~found,
            )
        return _features(content, shape, dtype)

    def statistics(self) -> CacheStatistics:
        """Counts; looks through the whole index, a thirty-third of the limit."""
        return CacheStatistics(self._hits, self._misses, *self._store.count())


def _rows(images: NDArray[np.uint8] | Tensor) -> tuple[Bytes, list[int]]:
    """The bytes of every image (N, bytes), and the shape of one."""
    if isinstance(images, Tensor):
        if images.device.type != "cpu":
            raise VieError(
                f"images are on {images.device}: the feature cache takes them from the CPU, before they go there"
            )
        if images.dtype != torch.uint8:
            raise VieError(f"images are {images.dtype}, not uint8: give the pixels, which the encoder normalises")
        images = images.numpy()
    if images.dtype != np.uint8 or images.ndim < 4 or images.shape[-1] != 3:
        raise VieError(f"images are {images.dtype} {images.shape}: give the pixels, uint8 (N, ..., H, W, 3)")
    return np.ascontiguousarray(images).reshape(len(images), math.prod(images.shape[1:])), list(images.shape[1:])


def _form(shape: tuple[int, ...], dtype: torch.dtype) -> Bytes:
    """What sets features of one shape and type apart from others of the same image (16,)."""
    if dtype not in STORED:
        raise VieError(f"features cannot be stored as {dtype}: give torch.float16 or torch.float32")
    return _hash_of([int(length) for length in shape], str(dtype))


def _hash_of(*facts: object) -> Bytes:
    return hashes([json.dumps(facts).encode()])[0]


def _size(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    return math.prod(shape) * dtype.itemsize


def _features(content: Bytes, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(content).reshape(-1).view(dtype).reshape(len(content), *shape)


def _stored(features: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Bytes:
    """The bytes of features, each a row."""
    if tuple(features.shape) != shape:
        raise VieError(
            f"the encoder made {tuple(features.shape)} of {shape[0]} images, not {shape}: correct the given shape"
        )
    if not features.isfinite().all():
        raise VieError(
            "the encoder made features that are not finite, which are not kept: look at its weights and precision"
        )
    stored = features.detach().to("cpu", dtype).contiguous()
    if not stored.isfinite().all():
        raise VieError(
            f"features reach {features.abs().max().item():.3g}, beyond the largest number of {dtype}: store them as "
            "torch.float32"
        )
    return stored.reshape(shape[0], -1).view(torch.uint8).numpy()
