"""Picture files as frames, whatever way their colours are stored."""

import os
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from vie.errors import VieError

PICTURE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def is_picture(path: str | os.PathLike[str]) -> bool:
    """Whether a file is named like a picture."""
    return Path(path).suffix.lower() in PICTURE_EXTENSIONS


def read_picture(file: Path | IO[bytes], name: str | None = None) -> Tensor:
    """Decodes a picture with Pillow: upright as its EXIF data say, in RGB, transparent parts over white.

    Args:
        file: A file or its open content, in any format and colour mode that Pillow reads; of an animation, the first
            picture.
        name: What an error calls the file; its path where left out.

    Returns:
        uint8 (H, W, 3).

    Raises:
        VieError: The file is missing, no picture, damaged or truncated.
    """
    try:
        with Image.open(file) as image:
            return torch.from_numpy(np.array(_flat(ImageOps.exif_transpose(image)), dtype=np.uint8))
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error and more
        cause = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, Image.UnidentifiedImageError):
            cause = "not a picture"  # Pillow's message names the file or the place of its content in memory
        raise VieError(f"{name or file}: cannot be decoded ({cause}): replace the file or leave it out") from error


def _flat(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # Pillow would clip 16 bits at 255
        return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    # What colour a transparent pixel has is left over from the drawing and was never meant to be seen.
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
