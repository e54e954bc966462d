"""From video files to clips on the training device."""

from typing import TYPE_CHECKING, Any

from vie.video.apply import augment
from vie.video.augment import Augmentation, Draw, draw
from vie.video.clips import Sampling, clip_frames, even_positions

if TYPE_CHECKING:
    from vie.video.shards import Shards

__all__ = ["Augmentation", "Draw", "Sampling", "Shards", "augment", "clip_frames", "draw", "even_positions"]


def __getattr__(name: str) -> Any:
    # The shards' index needs pyarrow, which whoever only runs an encoder should not have to load.
    if name == "Shards":
        from vie.video.shards import Shards

        return Shards
    raise AttributeError(name)
