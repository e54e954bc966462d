"""A small video corpus: real digits, synthetic motion.

The digits are the 1,797 handwritten ones that scikit-learn ships (UCI optical recognition of handwritten digits,
scanned and reduced to 8x8 pixels). The motion is computed: each digit is enlarged smoothly and moves in one of eight
ways. Any frame shows the digit; the motion shows only over time, because all motions draw positions, sizes and angles
from the same ranges, and what a motion leaves alone is frozen at a random moment of another motion. No motion turns
into another when the video is mirrored.
"""

import csv
import json
import math
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from vie.errors import VieError

MOTIONS = ("slide", "rise", "fall", "grow", "shrink", "rotate", "orbit", "bounce")
SETTINGS_NAME = "moving_digits.json"
LISTING_NAME = "videos.csv"
VAL_FRACTION = 0.2
BACKGROUND, INK = 32.0, 224.0  # grey levels shared by all videos, so that no background names its video

# All lengths are shares of half the frame, so the corpus looks alike at every size.
DIGIT_SIDE = 1.05  # side of a digit of middle size; 2 would fill the frame
REACH = 0.5  # the centre of a digit stays within this distance of the frame's, in x and in y
SWAY = (0.35, 0.6)  # length of a slide, rise, fall or bounce
ORBIT = (0.18, 0.3)  # radius of an orbit
LOG_SIZE = 0.4  # sizes lie within exp(-0.4) and exp(0.4)
ZOOM = (0.3, 0.55)  # change of the logarithm of the size over a video
ANGLE = math.radians(40)  # angles lie within 40 degrees either side
TURN = (math.radians(30), math.radians(55))  # turn over a video
TURNS = (0.75, 1.25)  # orbits and bounces in a video


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
        workers: Encoding threads; as many as there are processors where left out.

    Returns:
        The listing, ``videos.csv``, with the columns path, digit, motion and split.

    Raises:
        VieError: The folder holds something else or cannot be written, or a setting is out of range.
    """
    settings = {"size": size, "frames": frames, "fps": fps, "videos_per_digit": videos_per_digit, "seed": seed}
    if size < 8 or size % 2 or frames < 2 or fps < 1 or videos_per_digit < 1 or seed < 0:
        given = ", ".join(f"{name}={value}" for name, value in settings.items())
        raise VieError(
            f"{given} is out of range: the size is even and at least 8, frames at least 2, the seed not negative, "
            "the others at least 1"
        )
    if workers is not None and workers < 1:
        raise VieError(f"workers={workers} is out of range: give at least 1, or none for one per processor")
    folder = Path(out)
    if _is_complete(folder, settings):
        return folder / LISTING_NAME
    place = Path(os.path.abspath(folder))
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name}-") as temporary:
            partial = Path(temporary) / "corpus"  # a folder within, as the temporary one is closed to other users
            partial.mkdir()
            _write(partial, size, frames, fps, videos_per_digit, seed, workers)
            (partial / SETTINGS_NAME).write_text(json.dumps(settings) + "\n")
            partial.rename(place)
    except (OSError, av.FFmpegError) as error:
        raise VieError(f"{folder}: cannot be written ({error.strerror or error}): choose another folder") from error
    return folder / LISTING_NAME


def render(glyphs: Tensor, paths: Tensor, size: int) -> Tensor:
    """Draws moving digits.

    Args:
        glyphs: (B, 8, 8), 0 for paper and 1 for ink.
        paths: (B, T, 4): centre x and y as shares of half the frame (y downwards), logarithm of the size, angle.
        size: Height and width, in pixels.

    Returns:
        uint8 (B, T, size, size), grey.
    """
    videos, frames = paths.shape[:2]
    x, y, log_size, angle = paths.flatten(0, 1).unbind(-1)
    # Where a pixel of the frame lies in the digit: shift, turn back, shrink.
    scale = 2 / (DIGIT_SIDE * log_size.exp())
    cos, sin = scale * angle.cos(), scale * angle.sin()
    inverse = torch.stack([cos, sin, -(cos * x + sin * y), -sin, cos, sin * x - cos * y], dim=-1).view(-1, 2, 3)
    grid = F.affine_grid(inverse, [videos * frames, 1, size, size], align_corners=False)
    # The enlargement is bicubic, as a digit of 8x8 looks like steps otherwise; the border keeps strokes from being cut.
    smooth = F.interpolate(F.pad(glyphs[:, None], (1, 1, 1, 1)), scale_factor=4, mode="bicubic").clamp(0, 1)
    grid = grid * (8 / 10)
    ink = F.grid_sample(smooth.repeat_interleave(frames, dim=0), grid, mode="bilinear", align_corners=False)
    return (BACKGROUND + (INK - BACKGROUND) * ink).round().to(torch.uint8).view(videos, frames, size, size)


def draw_path(motion: str, frames: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Draws one movement.

    Returns:
        (frames, 4): centre x, y, logarithm of the size, angle; see ``render``.
    """
    # Standing still looks like a moment of moving: the mixture of ranges is the same with and without motion.
    still_x, still_y, still_size, still_angle = (_ramp(reach, span, frames, rng) for reach, span in _RANGES)
    path = np.stack([np.full(frames, rng.choice(ramp)) for ramp in (still_x, still_y, still_size, still_angle)], axis=1)
    turns = rng.uniform(*TURNS) * np.arange(frames) / (frames - 1) + rng.uniform()
    sign = rng.choice([-1.0, 1.0])
    if motion == "slide":
        path[:, 0] = sign * _ramp(REACH, SWAY, frames, rng)
    elif motion in ("rise", "fall"):
        path[:, 1] = (-1 if motion == "rise" else 1) * _ramp(REACH, SWAY, frames, rng)
    elif motion in ("grow", "shrink"):
        path[:, 2] = (1 if motion == "grow" else -1) * _ramp(LOG_SIZE, ZOOM, frames, rng)
    elif motion == "rotate":
        path[:, 3] = sign * _ramp(ANGLE, TURN, frames, rng)
    elif motion == "orbit":
        radius = rng.uniform(*ORBIT)
        centre = rng.uniform(-(REACH - radius), REACH - radius, size=2)
        path[:, 0] = centre[0] + radius * np.cos(2 * np.pi * sign * turns)
        path[:, 1] = centre[1] + radius * np.sin(2 * np.pi * sign * turns)
    else:
        span = rng.uniform(*SWAY)
        middle = rng.uniform(-(REACH - span / 2), REACH - span / 2)
        path[:, 1] = middle + span * (2 * np.abs(turns % 1 - 0.5) - 0.5)
    return path.astype(np.float32)


_RANGES = ((REACH, SWAY), (REACH, SWAY), (LOG_SIZE, ZOOM), (ANGLE, TURN))


def _ramp(reach: float, span: tuple[float, float], frames: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """A steady rise, anywhere within [-reach, reach]."""
    length = rng.uniform(*span)
    middle = rng.uniform(-(reach - length / 2), reach - length / 2)
    return middle + length * (np.arange(frames) / (frames - 1) - 0.5)


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


def _write(
    folder: Path, size: int, frames: int, fps: int, videos_per_digit: int, seed: int, workers: int | None
) -> None:
    from sklearn.datasets import load_digits

    images, digits = load_digits(return_X_y=True)
    glyphs = torch.from_numpy(images.reshape(-1, 8, 8).astype(np.float32) / 16)
    rng = np.random.default_rng(seed)
    plan = _plan(digits, videos_per_digit, rng)
    paths = torch.from_numpy(np.stack([draw_path(MOTIONS[motion], frames, rng) for _, motion, _ in plan]))
    names = [f"{digits[image]}/{image:04d}_{i:06d}.mp4" for i, (image, _, _) in enumerate(plan)]
    for digit in range(10):
        (folder / str(digit)).mkdir()
    with (
        ThreadPoolExecutor(workers or os.cpu_count()) as pool,  # the encoder lets go of the interpreter
        tqdm(total=len(plan), desc="moving digits", unit="video", disable=None) as bar,  # on a terminal only
    ):
        for start in range(0, len(plan), 64):
            chosen = [image for image, _, _ in plan[start : start + 64]]
            videos = render(glyphs[chosen], paths[start : start + 64], size).numpy()
            targets = [folder / name for name in names[start : start + 64]]
            list(pool.map(_encode, targets, videos, [fps] * len(targets)))
            bar.update(len(targets))
    with (folder / LISTING_NAME).open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("path", "digit", "motion", "split"))
        for name, (image, motion, split) in zip(names, plan, strict=True):
            writer.writerow((name, digits[image], MOTIONS[motion], split))


def _encode(path: Path, video: npt.NDArray[np.uint8], fps: int) -> None:
    # Key frames only: a predicted frame keeps traces of the ones before it, and those give the motion away.
    options = {"crf": "18", "preset": "veryfast", "threads": "1", "g": "1"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.height, stream.width = video.shape[1:]
        stream.pix_fmt = "yuv420p"
        for image in video:
            frame = av.VideoFrame.from_ndarray(np.repeat(image[..., None], 3, axis=2), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _is_complete(folder: Path, settings: dict[str, int]) -> bool:
    """Whether the folder holds this corpus; raises ``VieError`` if it holds anything else."""
    try:
        if not os.path.lexists(folder) or (folder.is_dir() and not any(folder.iterdir())):
            return False
        found = json.loads((folder / SETTINGS_NAME).read_text())
    except (OSError, ValueError) as error:
        raise VieError(f"{folder}: holds something other than moving digits: choose another folder") from error
    if found != settings:
        raise VieError(f"{folder}: holds moving digits with {found}, not {settings}: choose another folder")
    return True
