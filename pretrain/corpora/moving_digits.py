"""A small video corpus: real digits, synthetic motion.

The digits are the 1,797 handwritten ones that scikit-learn ships (UCI optical recognition of handwritten digits,
scanned and reduced to 8x8 pixels). The motion is computed: each digit is enlarged smoothly and moves in one of eight
ways. Any frame shows the digit; the motion shows only over time.
"""

import os
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.corpora.motions import MOTIONS, draw_path, placement
from pretrain.corpora.video_files import LISTING_NAME, write_videos
from pretrain.corpora.writing import CHUNK, Chunk, Rendered, check_settings, write_once

KIND = "moving digits"
VAL_FRACTION = 0.2
BACKGROUND, INK = 32.0, 224.0  # grey levels shared by all videos, so that no background names its video
DIGIT_SIDE = 1.05  # side of a digit of middle size, as a share of half the frame


def write_moving_digits(
    out: str | os.PathLike[str],
    size: int = 40,
    frames: int = 16,
    fps: int = 25,
    videos_per_digit: int = 1,
    seed: int = 0,
    workers: int | None = None,
) -> Path:
    """Writes the moving digits as H.264 files; a complete corpus of the same settings is left as it is.

    One digit in five is held out: all its videos are in the split ``val``. Within each split, every digit class has
    every motion equally often, give or take one.

    Args:
        out: Folder to create.
        size: Height and width of the videos, in pixels; even.
        frames: Frames of each video.
        fps: Frames per second.
        videos_per_digit: Videos of each of the 1,797 digits; up to 8 of them differ in motion.
        seed: Not negative; the same seed gives the same files, byte for byte.
        workers: Processes; as many as there are processors where left out.

    Returns:
        The listing, ``videos.csv``, with the columns path, digit, motion and split.

    Raises:
        VieError: The folder holds something else or cannot be written, or a setting is out of range.
    """
    settings = {"size": size, "frames": frames, "fps": fps, "videos_per_digit": videos_per_digit, "seed": seed}
    check_settings(settings, workers)
    folder = Path(out)

    def write(folder: Path) -> None:
        from sklearn.datasets import load_digits

        images, digits = load_digits(return_X_y=True)
        glyphs = torch.from_numpy(images.reshape(-1, 8, 8).astype(np.float32) / 16)
        chunks = _chunks(glyphs, digits, size, frames, videos_per_digit, seed)
        write_videos(folder, KIND, chunks, fps, workers)

    write_once(folder, KIND, settings, write)
    return folder / LISTING_NAME


def render(glyphs: Tensor, paths: Tensor, size: int) -> Tensor:
    """Draws moving digits.

    Args:
        glyphs: (B, 8, 8), 0 for paper and 1 for ink.
        paths: (B, T, 4), from ``draw_path``.
        size: Height and width, in pixels.

    Returns:
        uint8 (B, T, size, size), grey.
    """
    videos, frames = paths.shape[:2]
    inverse = placement(paths.flatten(0, 1), DIGIT_SIDE)
    grid = F.affine_grid(inverse, [videos * frames, 1, size, size], align_corners=False)
    # The enlargement is bicubic, as a digit of 8x8 looks like steps otherwise; the border keeps strokes from being cut.
    smooth = F.interpolate(F.pad(glyphs[:, None], (1, 1, 1, 1)), scale_factor=4, mode="bicubic").clamp(0, 1)
    grid = grid * (8 / 10)
    ink = F.grid_sample(smooth.repeat_interleave(frames, dim=0), grid, mode="bilinear", align_corners=False)
    return (BACKGROUND + (INK - BACKGROUND) * ink).round().to(torch.uint8).view(videos, frames, size, size)


def _plan(digits: npt.NDArray[np.int64], videos_per_digit: int, rng: np.random.Generator) -> list[tuple[int, int, str]]:
    """Image number, motion number and split of every video."""
    plan: list[tuple[int, int, str]] = []
    for digit in range(10):
        images = rng.permutation(np.flatnonzero(digits == digit))
        held_out = round(VAL_FRACTION * len(images))
        for split, members in (("val", images[:held_out]), ("train", images[held_out:])):
            first = int(rng.integers(len(MOTIONS)))
            numbers = ((int(image), first + i) for i, image in enumerate(np.repeat(members, videos_per_digit)))
            plan.extend((image, number % len(MOTIONS), split) for image, number in numbers)
    return sorted(plan)


def _chunks(
    glyphs: Tensor, digits: npt.NDArray[np.int64], size: int, frames: int, videos_per_digit: int, seed: int
) -> list[Chunk]:
    rng = np.random.default_rng(seed)
    plan = _plan(digits, videos_per_digit, rng)
    paths = torch.from_numpy(np.stack([draw_path(MOTIONS[motion], frames, rng) for _, motion, _ in plan]))

    def chunk(start: int) -> list[Rendered]:
        part = plan[start : start + CHUNK]
        videos = render(glyphs[[image for image, _, _ in part]], paths[start : start + CHUNK], size)
        return [
            Rendered(
                name=f"{digits[image]}/{image:04d}_{number:06d}.mp4",
                frames=video[..., None].expand(-1, -1, -1, 3).contiguous(),
                labels={"digit": str(digits[image]), "motion": MOTIONS[motion]},
                split=split,
            )
            for number, (video, (image, motion, split)) in enumerate(zip(videos, part, strict=True), start)
        ]

    return [partial(chunk, start) for start in range(0, len(plan), CHUNK)]
