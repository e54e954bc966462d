"""Random access to the frames of a video file, behind one protocol for every decoder."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vie.errors import VieError

if TYPE_CHECKING:
    from torchcodec.decoders._video_decoder import VideoDecoder

Decoder = Literal["decord", "torchcodec"]


class FrameSource(Protocol):
    """The frames of one video.

    Attributes:
        fps: Average frame rate, in frames per second.
        height, width: Size of the frames, in pixels.
    """

    fps: float
    height: int
    width: int

    def __len__(self) -> int:
        """Number of frames that the file announces; a damaged file may hold fewer."""
        ...

    def get_batch(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> Tensor:
        """Decodes frames.

        Args:
            indices: Frame numbers in [0, len(self)), in any order; repeats are allowed.

        Returns:
            uint8 RGB (T, height, width, 3).

        Raises:
            VieError: A frame cannot be decoded, or a number is out of range.
        """
        ...


def open_video(path: str | os.PathLike[str], decoder: Decoder = "decord") -> FrameSource:
    """Opens a video file.

    Args:
        path: Any file that FFmpeg reads.
        decoder: ``"decord"``, or ``"torchcodec"`` (an extra, which needs FFmpeg's shared libraries).

    Raises:
        VieError: The decoder is missing, or the file is missing, unreadable or without a video stream.
    """
    path = Path(path)
    if not path.is_file():
        raise VieError(f"{path}: no such file: check the path")
    if decoder == "torchcodec":
        return TorchcodecSource(path)
    require_decoder(decoder)
    return DecordSource(path)


def require_decoder(decoder: str) -> None:
    """Raises ``VieError`` if a decoder is unknown, not installed or cannot load."""
    if decoder == "torchcodec":
        _import_torchcodec()
    elif decoder != "decord":
        raise VieError(f"decoder {decoder!r} is unknown: choose 'decord' or 'torchcodec'")


class DecordSource:
    """Frames by decord, on the CPU with one thread."""

    def __init__(self, path: Path) -> None:
        """Opens ``path``; raises ``VieError`` if decord cannot."""
        import decord

        # FFmpeg prints its complaints about a damaged file on stderr; they reach the caller as VieError instead.
        # DECORD_EOF_RETRY_MAX keeps its default: a retry is counted for every packet read ahead of the first frame, so
        # a low limit rejects healthy videos on a busy machine, while the default ends on a damaged one in milliseconds.
        decord.logging.set_level(decord.logging.QUIET)
        self._path = path
        self._process = os.getpid()
        try:
            if _is_transport_stream(path):  # its first seek ends at the second key frame, and the last frame fills up
                raise ValueError("decord loses the beginning of MPEG-TS")
            self._reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
            self._length = len(self._reader)
            self.fps = float(self._reader.get_avg_fps())
            # The reader tells no size before it has decoded a frame.
            self.height, self.width, channels = (int(side) for side in self._reader[0].shape)
        except Exception as error:  # decord raises RuntimeError, DECORDError, IndexError and more
            raise _unreadable(path, error) from error
        # FFmpeg pads the rows of a picture. Where a padded row happens to be a multiple of the width (16, 24, 32, 48,
        # 96 and 144 pixels), decord takes the padding for further channels, and its get_batch refuses the video.
        self._padded = channels != 3

    def __len__(self) -> int:
        return self._length

    def get_batch(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> Tensor:
        """Decodes frames; see ``FrameSource.get_batch``."""
        if os.getpid() != self._process:
            # decord's decoding thread stays behind in the parent, and the child would wait for it for ever
            raise VieError(f"{self._path}: opened before a fork: open the video in the process that reads it")
        _check_range(self._path, indices, self._length)
        distinct, inverse = np.unique(np.asarray(indices, dtype=np.int64), return_inverse=True)
        try:
            if self._padded:
                frames = torch.stack([self._unpadded(number) for number in distinct.tolist()])
            else:
                frames = torch.from_numpy(self._reader.get_batch(distinct.tolist()).asnumpy())
        except Exception as error:
            raise _unreadable(self._path, error) from error
        return frames if np.array_equal(inverse, np.arange(len(distinct))) else frames[torch.from_numpy(inverse)]

    def _unpadded(self, number: int) -> Tensor:
        rows = self._reader[number].asnumpy().reshape(self.height, -1)[:, : 3 * self.width]
        return torch.from_numpy(rows.reshape(self.height, self.width, 3))


class TorchcodecSource:
    """Frames by torchcodec, on the CPU with one thread."""

    def __init__(self, path: Path) -> None:
        """Opens ``path``; raises ``VieError`` if torchcodec is missing or cannot open it."""
        video_decoder = _import_torchcodec()
        self._path = path
        try:
            self._decoder = video_decoder(str(path), dimension_order="NHWC", num_ffmpeg_threads=1)
            metadata = self._decoder.metadata
            self._length = len(self._decoder)
            self.fps = float(cast(float, metadata.average_fps))
            self.height, self.width = int(cast(int, metadata.height)), int(cast(int, metadata.width))
        except Exception as error:  # torchcodec raises RuntimeError, ValueError, TypeError and more
            raise _unreadable(path, error) from error

    def __len__(self) -> int:
        return self._length

    def get_batch(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> Tensor:
        """Decodes frames; see ``FrameSource.get_batch``."""
        _check_range(self._path, indices, self._length)
        try:
            return self._decoder.get_frames_at(np.asarray(indices, dtype=np.int64).tolist()).data
        except Exception as error:
            raise _unreadable(self._path, error) from error


def _import_torchcodec() -> type["VideoDecoder"]:
    try:
        from torchcodec.decoders import VideoDecoder
    except ModuleNotFoundError as error:
        raise VieError("decoder 'torchcodec' is not installed: pip install 'vie[torchcodec]'") from error
    except (ImportError, OSError, RuntimeError) as error:
        raise VieError(
            f"decoder 'torchcodec' cannot load ({_cause(error)}): install FFmpeg's shared libraries, "
            "and the torchcodec release that fits this torch"
        ) from error
    return VideoDecoder


def _is_transport_stream(path: Path) -> bool:
    """Whether a file is MPEG-TS: a mark begins each of its packets, whose length is one of three."""
    with path.open("rb") as file:
        head = file.read(5 * 204)
    return len(head) == 5 * 204 and any(
        set(head[first::length]) == {0x47} for length in (188, 192, 204) for first in range(length)
    )


def _check_range(path: Path, indices: Sequence[int] | npt.NDArray[np.int64], length: int) -> None:
    numbers = np.asarray(indices)
    if numbers.size == 0:
        raise VieError(f"{path}: no frame was asked for: give at least one frame number")
    if numbers.min() < 0 or numbers.max() >= length:
        wrong = int(numbers.min() if numbers.min() < 0 else numbers.max())
        raise VieError(f"{path}: frame {wrong} is out of range: the video has frames 0 to {length - 1}")


def _unreadable(path: Path, error: Exception) -> VieError:
    return VieError(f"{path}: cannot be decoded ({_cause(error)}): replace the file or leave it out")


def _cause(error: Exception) -> str:
    """The first telling line of a backend's message, without the places in its source code."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = lines[0] if lines else type(error).__name__
    line = re.sub(r"\[\d\d:\d\d:\d\d\] \S+:\d+: ", "", line)
    line = re.sub(r"Check failed: .*? \(-?\d+ vs\. -?\d+\)\s*", "", line)
    line = re.sub(r"^\w+, \S+:\d+, ", "", line)
    return line[:200].rstrip(". ")
