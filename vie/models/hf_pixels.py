"""How pictures become the pixels of a network of transformers: what its image processor says."""

from dataclasses import dataclass
from typing import Any

from vie.errors import VieError
from vie.video.pixels import Channels
from vie.video.resize import Resize
from vie.weights import one_line

NAMES = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Interpolations by Pillow's numbers, which image processors write down."""

WHOLE = 384
"""From this size on, ConvNeXt's image processor squashes pictures rather than crop them."""


@dataclass(frozen=True)
class Pixels:
    """What an image processor does.

    Attributes:
        size: Side of the squares in pixels.
        short_side: That of the picture, or of both sides where it is squashed, before the middle is taken.
        resize: How it gets there.
        mean, std: Of the channels, for pixels in [0, 1].
    """

    size: int
    short_side: int
    resize: Resize
    mean: Channels
    std: Channels


def read_pixels(transformers: Any, source: str) -> Pixels:
    """What the image processor that is saved in a folder or a repository does.

    Raises:
        VieError: There is none, or it does something else than resize, crop and normalise squares.
    """
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # of the hub's client, of JSON and of transformers
        raise VieError(
            f"hf:{source} does not tell how its pixels are prepared ({one_line(error)}): save the image processor "
            "(preprocessor_config.json) beside the network"
        ) from error
    try:
        return _pixels(processor)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise VieError(
            f"hf:{source} has an image processor that is not known here ({one_line(error)}): take a network of square "
            "pictures with one mean and std for each channel"
        ) from error


def _pixels(processor: Any) -> Pixels:
    told = {name: value for name, value in processor.to_dict().items() if value is not None}
    mode, size, short = _square(told)
    resample = told.get("resample", 2)
    interpolation = NAMES.get(int(resample), "bilinear")
    factor = 255 * (told.get("rescale_factor", 1 / 255) if told.get("do_rescale", True) else 1.0)
    normalises = told.get("do_normalize", True)
    mean, std = (told["image_mean"], told["image_std"]) if normalises else ([0.0] * 3, [1.0] * 3)
    return Pixels(size, short, Resize(mode, interpolation), _channels(mean, factor), _channels(std, factor))


def _square(told: dict[str, Any]) -> tuple[str, int, int]:
    """How the square is made, its side, and the side before the crop."""
    size = dict(told["size"])
    crop = dict(told.get("crop_size") or {}) if told.get("do_center_crop") else {}
    if crop:
        size_of_crop = _side(crop)
    if "height" in size:
        return "squash", size_of_crop if crop else _side(size), _side(size)
    short = int(size["shortest_edge"])
    if "crop_pct" in told and not crop:  # ConvNeXt's, which ResNets have too
        return ("crop", short, int(short / told["crop_pct"])) if short < WHOLE else ("squash", short, short)
    return "crop", size_of_crop if crop else short, short


def _side(size: dict[str, Any]) -> int:
    height, width = size["height"], size["width"]
    if height != width:
        raise ValueError(f"pictures of {width}x{height}")
    return int(height)


def _channels(values: Any, factor: float) -> Channels:
    """Of pixels in [0, 1], where the processor's own are ``factor`` times as large."""
    red, green, blue = (float(value) / factor for value in values)
    return red, green, blue
