"""Labelled pictures, from a folder or from a zip of one that is read where it lies."""

import io
import os
import zlib
from collections.abc import Sequence
from contextlib import ExitStack
from hashlib import blake2b
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import NamedTuple, Self
from zipfile import BadZipFile, ZipFile, is_zipfile

from torch import Tensor
from torchvision.transforms.v2.functional import InterpolationMode, center_crop, resize

from pretrain.preparation.folders import is_hidden, misplaced, places, walk
from pretrain.preparation.listed import held_out
from vie.errors import VieError
from vie.video.picture import PICTURE_EXTENSIONS, is_picture, read_picture

# What zipfile raises for a damaged archive; RuntimeError is for an encrypted one, or for a feature that it lacks.
ZIP_ERRORS = (BadZipFile, OSError, EOFError, ValueError, RuntimeError, zlib.error, LZMAError)


class Picture(NamedTuple):
    """A picture of a source.

    Attributes:
        name: Path relative to the source, with forward slashes.
        label: Its class, never empty.
        split: ``train`` or ``val``.
    """

    name: str
    label: str
    split: str


class Pictures:
    """The pictures of a folder ``{train,val,test}/{class}/*`` or ``{class}/*``, or of a zip of one; a context manager.

    What is not for training is held out as ``val``; of pictures without splits, a fixed share picked by name.

    Attributes:
        pictures: All pictures, sorted by name.
    """

    def __init__(self, source: str | os.PathLike[str], val_fraction: float = 0.2) -> None:
        """Lists the pictures.

        Args:
            source: The folder or zip.
            val_fraction: Share that is held out where the source has no splits.

        Raises:
            VieError: The source is missing, unreadable or has no labelled pictures, or a name in the zip points out of
                it.
        """
        self._source = Path(source)
        self._open = ExitStack()
        self._zip: ZipFile | None = None
        self._opened_by = os.getpid()
        if self._source.is_dir():
            names = sorted(walk(self._source, PICTURE_EXTENSIONS))
        elif is_zipfile(self._source):
            try:
                self._zip = self._open.enter_context(ZipFile(self._source))
            except ZIP_ERRORS as error:
                raise VieError(f"{source}: cannot be read ({error}): fetch the zip again") from error
            names = _members(self._source, self._zip.namelist())
        else:
            raise VieError(f"{source}: neither a folder nor a zip: give the pictures as {{class}}/* in one of these")
        found = places(names)
        if not found or not all(place.label for place in found):
            fault = misplaced(names) or "its files must lie as train/{class}/* or {class}/*"
            raise VieError(f"{source}: no labelled pictures in it: {fault}")
        self.pictures = [
            Picture(name, place.label, _split(place.split or held_out(name, val_fraction)))
            for name, place in zip(names, found, strict=True)
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def digest(self) -> str:
        """A hash of the names and contents of all pictures: the same for a folder and a zip of it.

        Raises:
            VieError: A file of the folder cannot be read.
        """
        try:
            lines = [f"{picture.name} {self._checksum(picture.name)}\n" for picture in self.pictures]
        except OSError as error:
            raise VieError(f"{error.filename}: cannot be read ({error.strerror}): check its permissions") from error
        return blake2b("".join(lines).encode(), digest_size=8).hexdigest()

    def read(self, picture: Picture, side: int) -> Tensor:
        """Decodes the middle square of a picture and brings it to a common size; forked processes may share this.

        Returns:
            uint8 (3, side, side).

        Raises:
            VieError: The picture cannot be decoded.
        """
        name = f"{self._source}: {picture.name}"
        try:
            if self._zip and self._opened_by != os.getpid():  # forks share the place in a file that one is reading at
                self._zip, self._opened_by = ZipFile(self._source), os.getpid()
            file = io.BytesIO(self._zip.read(picture.name)) if self._zip else self._source / picture.name
        except ZIP_ERRORS as error:
            raise VieError(f"{name}: cannot be read ({error}): fetch the zip again") from error
        pixels = read_picture(file, name).permute(2, 0, 1)
        square = center_crop(pixels, [min(pixels.shape[1:])])
        sized: Tensor = resize(square, [side, side], InterpolationMode.BICUBIC, antialias=True)
        return sized

    def _checksum(self, name: str) -> int:
        return self._zip.getinfo(name).CRC if self._zip else zlib.crc32((self._source / name).read_bytes())


def _members(source: Path, names: Sequence[str]) -> list[str]:
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name.split("/")[0]:
            raise VieError(f"{source}: its member {name!a} points out of the zip: do not trust this file")
    return sorted(name for name in names if is_picture(name) and not any(map(is_hidden, name.split("/"))))


def _split(word: str) -> str:
    return "train" if word == "train" else "val"
