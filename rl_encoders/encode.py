"""Filling a feature cache ahead of training."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from rl_encoders.clip_buffer import ClipBuffer
from rl_encoders.datasets import Dataset
from rl_encoders.encoder import VisualEncoder
from vie import VieError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EncodeReport:
    """What became of a dataset.

    Attributes:
        episodes, frames: That are encoded.
        found: Frames that had been encoded before.
        failed: Reasons by the names of episodes that could not be read.
    """

    episodes: int
    frames: int
    found: int
    failed: dict[str, str]


def encode(
    dataset: Dataset, encoder: VisualEncoder, cameras: Sequence[str], batch: int = 256, control_hz: float | None = None
) -> EncodeReport:
    """Puts what a frozen trunk makes of every frame into its cache; done again, it finds what is there.

    Args:
        dataset: Whose frames.
        encoder: With a cache.
        cameras: Of the dataset.
        batch: Frames that go through the trunk together.
        control_hz: For a trunk of clips, which then sees each frame with those before it, as it will while the agent
            acts; the dataset's rate unless given.

    Raises:
        VieError: The encoder has no cache or is not frozen, or there is no such camera.
    """
    if encoder.cache is None or encoder.trunk.is_trained:
        raise VieError("features of a trunk that is trained cannot be kept: load it with mode=frozen and a cache")
    for name in cameras:
        if name not in dataset.cameras:
            raise VieError(f"{dataset.name} has no camera {name!r}: it has {', '.join(dataset.cameras)}")
    rate = control_hz or dataset.fps
    if encoder.sampling.frames > 1 and not rate:
        raise VieError(f"{dataset.name} does not tell its frame rate, and the encoder sees clips: give control_hz")
    before = encoder.cache.statistics()
    frames, failed = 0, {}
    for episode in tqdm(dataset, unit="episode", desc=f"encode {dataset.name}"):
        try:
            seen = [episode.cameras[name]() for name in cameras]
        except VieError as error:
            failed[episode.name] = str(error)
            logger.warning("%s is left out: %s", episode.name, error)
            continue
        for pixels in seen:
            for clips in _clips(pixels, encoder, rate or 0.0, batch):
                encoder.cached(clips)
            frames += len(pixels)
    after = encoder.cache.statistics()
    if (gone := before.entries + after.misses - before.misses - after.entries) > 0:
        logger.warning(
            "%s holds %d bytes, too few: %d features were pushed out again; make one anew with a larger cache_bytes",
            *(encoder.cache.folder, encoder.cache.limit_bytes, gone),
        )
    return EncodeReport(len(dataset) - len(failed), frames, after.hits - before.hits, failed)


def _clips(pixels: Tensor, encoder: VisualEncoder, rate: float, batch: int) -> Iterator[Tensor]:
    """Batches of what the encoder sees at each frame of (T, H, W, 3)."""
    if encoder.sampling.frames == 1:
        for part in pixels.split(batch):
            yield part[:, None]
        return
    back = torch.from_numpy(ClipBuffer(encoder.sampling, rate).back)
    for newest in torch.arange(len(pixels)).split(batch):
        yield pixels[(newest[:, None] - back).clamp(min=0)]
