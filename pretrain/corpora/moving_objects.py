"""A video corpus of any size: real pictures in synthetic motion, over backgrounds that they share.

Each labelled picture becomes one video, in which it moves in one of eight ways over a background that stands still. Any
frame shows the object; the motion shows only over time. The backgrounds are smooth fields of colour; a few views of
them serve all videos, drawn independently of object and motion, so that a background tells neither, nor which video it
belongs to.
"""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.corpora.motions import MOTIONS, draw_path, placement
from pretrain.corpora.pictures import Picture, Pictures
from pretrain.corpora.prepared import write_prepared
from pretrain.corpora.video_files import write_videos
from pretrain.corpora.writing import CHUNK, Chunk, Rendered, check_settings, write_once

KIND = "moving objects"
FPS = 25
OBJECT_SIDE = 1.0  # side of an object of middle size, as a share of half the frame
CELLS = 6  # independent colours along one side of a background
COLOURS = (0.2, 0.8)  # range of each channel: paler than most objects
OFFSETS = 4  # places of a view in a background, in x and in y: each view must serve many videos
OFFSET_STEP = 0.2  # distance of these places, as a share of the frame


class Scenes(NamedTuple):
    """What happens in every video, one row for each.

    Attributes:
        motion: Numbers of ``MOTIONS``, int64 (N,).
        paths: float32 (N, T, 4), from ``draw_path``.
        background: Numbers of the backgrounds, int64 (N,).
        offset: Place of the view in the background, in steps right and down, int64 (N, 2).
    """

    motion: npt.NDArray[np.int64]
    paths: npt.NDArray[np.float32]
    background: npt.NDArray[np.int64]
    offset: npt.NDArray[np.int64]


def write_moving_objects(
    out: str | os.PathLike[str],
    pictures: str | os.PathLike[str],
    size: int = 64,
    frames: int = 16,
    backgrounds: int = 16,
    seed: int = 0,
    prepared: bool = False,
    workers: int | None = None,
) -> Path:
    """Writes one video for each picture; a complete corpus of the same settings is left as it is.

    Within each split, every class has every motion equally often, give or take one.

    Args:
        out: Folder to create.
        pictures: A folder ``{train,val,test}/{class}/*`` or ``{class}/*``, or a zip of one. What is not for training
            becomes the split ``val``, or a fifth of the pictures where the source has no splits.
        size: Height and width of the videos, in pixels; even.
        frames: Frames of each video.
        backgrounds: Number of backgrounds.
        seed: Not negative; the same seed gives the same files, byte for byte.
        prepared: Writes the corpus straight into shards, as JPEG frames, rather than as H.264 files with the listing
            ``videos.csv``; this needs no video encoder. Labels are ``object`` and ``motion`` either way.
        workers: Processes; as many as there are processors where left out.

    Returns:
        The folder.

    Raises:
        VieError: The folder holds something else or cannot be written, a setting is out of range, or the pictures are
            missing, unlabelled or damaged.
    """
    numbers = {"size": size, "frames": frames, "backgrounds": backgrounds, "seed": seed}
    check_settings(numbers, workers)
    folder = Path(out)
    with Pictures(pictures) as source:
        digest = source.digest()

        def write(partial: Path) -> None:
            chunks = object_chunks(source, size, frames, backgrounds, seed)
            if prepared:
                write_prepared(partial, KIND, chunks, FPS, size, workers)
            else:
                write_videos(partial, KIND, chunks, FPS, workers)

        write_once(folder, KIND, {**numbers, "prepared": prepared, "pictures": digest}, write)
    return folder


def object_chunks(
    source: Pictures, size: int = 64, frames: int = 16, backgrounds: int = 16, seed: int = 0
) -> list[Chunk]:
    """The videos without encoding them, some at a time, in the order of the pictures.

    Args:
        source: The pictures; open until the last video is there.
        size: Height and width of the videos, in pixels.
        frames: Frames of each video.
        backgrounds: Number of backgrounds.
        seed: Not negative.

    Returns:
        Functions that render some videos each, named ``{class}/{picture}_{number}.mp4`` and with the labels ``object``
        and ``motion``; they raise ``VieError`` for a picture that cannot be decoded.
    """
    scenes = draw_scenes(source.pictures, frames, backgrounds, seed)
    fields = draw_backgrounds(backgrounds, size, seed)
    side = round(size * OBJECT_SIDE / 2)  # so that an object of middle size is neither shrunk nor enlarged again

    def chunk(start: int) -> list[Rendered]:
        part = slice(start, start + CHUNK)
        chosen = source.pictures[part]
        pixels = torch.stack([source.read(picture, side) for picture in chosen])
        views = background_views(fields, scenes.background[part], scenes.offset[part], size)
        videos = render_objects(pixels.float() / 255, views, torch.from_numpy(scenes.paths[part]), size)
        return [
            Rendered(
                name=f"{picture.label}/{Path(picture.name).stem}_{number:06d}.mp4",
                frames=video,
                labels={"object": picture.label, "motion": MOTIONS[motion]},
                split=picture.split,
            )
            for number, (picture, motion, video) in enumerate(
                zip(chosen, scenes.motion[part], videos, strict=True), start
            )
        ]

    return [partial(chunk, start) for start in range(0, len(source.pictures), CHUNK)]


def render_objects(pictures: Tensor, backgrounds: Tensor, paths: Tensor, size: int) -> Tensor:
    """Draws moving pictures, on whichever device they are.

    Args:
        pictures: float (B, 3, h, w) in [0, 1]; each is drawn as a square.
        backgrounds: float (B, 3, size, size) in [0, 1].
        paths: float (B, T, 4), from ``draw_path``.
        size: Height and width, in pixels.

    Returns:
        uint8 (B, T, size, size, 3).
    """
    videos, frames = paths.shape[:2]
    inverse = placement(paths.flatten(0, 1), OBJECT_SIDE)
    grid = F.affine_grid(inverse, [videos * frames, 1, size, size], align_corners=False)
    # Outside the picture, colour and opacity are both 0, so its edges are smooth below a pixel and never dark.
    opaque = torch.cat([pictures, torch.ones_like(pictures[:, :1])], dim=1)
    drawn = F.grid_sample(opaque, grid.view(videos, frames * size, size, 2), mode="bilinear", align_corners=False)
    drawn = drawn.view(videos, 4, frames, size, size)
    mixed = drawn[:, :3] + (1 - drawn[:, 3:]) * backgrounds[:, :, None]
    return (255 * mixed).round().to(torch.uint8).permute(0, 2, 3, 4, 1).contiguous()


def draw_scenes(pictures: Sequence[Picture], frames: int, backgrounds: int, seed: int) -> Scenes:
    """Draws what happens in every video; the backgrounds are drawn apart, so they know nothing of the rest."""
    rng = np.random.default_rng([seed, 0])
    motion = np.zeros(len(pictures), dtype=np.int64)
    groups: dict[tuple[str, str], list[int]] = {}
    for number, picture in enumerate(pictures):
        groups.setdefault((picture.split, picture.label), []).append(number)
    for members in groups.values():
        motion[rng.permutation(members)] = (rng.integers(len(MOTIONS)) + np.arange(len(members))) % len(MOTIONS)
    paths = np.stack([draw_path(MOTIONS[number], frames, rng) for number in motion])
    apart = np.random.default_rng([seed, 1])
    background = apart.integers(backgrounds, size=len(pictures))
    return Scenes(motion, paths, background, apart.integers(OFFSETS, size=(len(pictures), 2)))


def draw_backgrounds(count: int, size: int, seed: int) -> Tensor:
    """Draws smooth fields of colour, somewhat larger than a frame: float (count, 3, S, S) in [0, 1]."""
    rng = np.random.default_rng([seed, 2])
    colours = torch.from_numpy(rng.uniform(*COLOURS, size=(count, 3, CELLS, CELLS)).astype(np.float32))
    side = size + (OFFSETS - 1) * _step(size)
    return F.interpolate(colours, size=(side, side), mode="bicubic", align_corners=True).clamp(0, 1)


def background_views(
    fields: Tensor, numbers: npt.NDArray[np.int64], offsets: npt.NDArray[np.int64], size: int
) -> Tensor:
    """The part of a background that each video shows.

    Args:
        fields: float (P, 3, S, S), from ``draw_backgrounds``.
        numbers: The background of each video, (B,).
        offsets: Its place in there, in steps right and down, (B, 2).
        size: Height and width of the part, in pixels.

    Returns:
        float (B, 3, size, size).
    """
    corners = (offsets * _step(size)).tolist()
    parts = [fields[number, :, y : y + size, x : x + size] for number, (x, y) in zip(numbers, corners, strict=True)]
    return torch.stack(parts)


def _step(size: int) -> int:
    return round(OFFSET_STEP * size)
