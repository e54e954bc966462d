"""Batches whose last clips reach the training process as JPEG files, to be decoded on its device."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from pretrain.data.clips import Shown, TrainBatch, TrainClips, frame_bytes
from pretrain.data.readers import Pixels, reach, repeat_border
from pretrain.data.room import Room, fresh
from vie.errors import UnreachableError, VieError


@dataclass(frozen=True)
class Files:
    """The frames of some clips as JPEG files, in one vector: a worker hands over few tensors cheaply.

    Attributes:
        content: All files, one after another.
        lengths: Of each, in bytes.
        places: For each clip, which of its distinct files each of its frames is.
        clips: Which clips of the step these are.
        failures: What was wrong with clips that have no files, by their number in the step.
    """

    content: Tensor
    lengths: list[int]
    places: list[npt.NDArray[np.int64]]
    clips: list[int]
    failures: dict[int, str]


@dataclass(frozen=True)
class LateBatch:
    """The clips of a step: the first as pixels, the others as files."""

    shown: Shown
    early: Pixels
    late: Files

    @property
    def frames(self) -> Tensor:
        """The pixels that there are."""
        return self.early.frames

    def with_frames(self, frames: Tensor) -> "LateBatch":
        """The same with its pixels elsewhere."""
        return replace(self, early=replace(self.early, frames=frames))


class LateClips:
    """The same steps as those of ``TrainClips``, with a share of every batch still to be decoded."""

    def __init__(self, clips: TrainClips, share: float) -> None:
        """Leaves a share (0 to 1) of the clips of a batch undecoded, the last ones."""
        self.clips = clips
        self.share = share

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, step: int) -> LateBatch:
        return self.make(step)

    def make(self, step: int, room: Room = fresh) -> LateBatch:
        """What the workers do for a step, with the pixels in memory that ``room`` gives."""
        shown = self.clips.show(step)
        count = len(shown.videos)
        early = self._early(count)
        pixels = self.clips.reader.read(shown.videos[:early], shown.frames[:early], shown.drawn.boxes[:early], room)
        return LateBatch(shown, pixels, self._read_files(shown, range(early, count)))

    def frame_bytes(self, step: int) -> int:
        """Bytes of the pixels of a step, if all clips are as large as the largest of them."""
        shown = self.clips.show(step)
        return frame_bytes(shown, self._early(len(shown.videos)))

    def _early(self, count: int) -> int:
        return count - round(self.share * count)

    def finish(self, batch: LateBatch, device: torch.device) -> TrainBatch:
        """Decodes what is left on a device, and puts all clips of the step together there.

        On the CPU the batch equals the one that ``TrainClips`` makes, bit for bit; a GPU's decoder may round otherwise.
        """
        early, shown = batch.early, batch.shown
        decoded, failures = self._decode(batch.late, shown, device)
        cuts: list[Tensor] = []
        moved: list[npt.NDArray[np.float32]] = []
        for clip, pictures in decoded.items():
            box = shown.drawn.boxes[clip]
            top, left, bottom, right = reach(box)
            cuts.append(torch.stack(pictures)[:, :, top:bottom, left:right].permute(0, 2, 3, 1))
            moved.append(box - np.array([top, left, 0, 0], dtype=np.float32))
        pixels = Pixels(
            _join(early.frames.to(device, non_blocking=True), cuts, device),
            np.concatenate([early.boxes, np.asarray(moved, dtype=np.float32).reshape(-1, 4)]),
            np.concatenate([early.kept, np.asarray(list(decoded), dtype=np.int64)]),
            early.failures | failures,
        )
        return self.clips.batch(shown, pixels).to(device)

    def _read_files(self, shown: Shown, clips: range) -> Files:
        files: list[Tensor] = []
        places: list[npt.NDArray[np.int64]] = []
        kept: list[int] = []
        failures: dict[int, str] = {}
        for clip in clips:
            distinct, inverse = np.unique(shown.frames[clip], return_inverse=True)
            try:
                files += self.clips.shards.jpegs(int(shown.videos[clip]), distinct)
            except UnreachableError:
                raise
            except VieError as error:
                failures[clip] = str(error)
                continue
            places.append(inverse)
            kept.append(clip)
        content = torch.cat(files) if files else torch.empty(0, dtype=torch.uint8)
        return Files(content, [len(file) for file in files], places, kept, failures)

    def _decode(
        self, late: Files, shown: Shown, device: torch.device
    ) -> tuple[dict[int, list[Tensor]], dict[int, str]]:
        """Pictures (3, H, W) of every frame by clip, and what was wrong with the other clips."""
        files = list(late.content.split(late.lengths))
        ends = np.cumsum([place.max() + 1 for place in late.places], dtype=np.int64).tolist()
        pictures = _decode_all(files, device)
        decoded: dict[int, list[Tensor]] = {}
        failures = dict(late.failures)
        for clip, place, begin, end in zip(late.clips, late.places, [0, *ends], ends, strict=False):
            video = int(shown.videos[clip])
            try:
                own = decode_files(files[begin:end], device) if pictures is None else pictures[begin:end]
                self._check(video, own)
            except (RuntimeError, ValueError) as error:
                cause = str(error).split("\n")[0]  # torch appends a trace of its own
                name = self.clips.shards.names[video]
                failures[clip] = f"{name}: its frames cannot be decoded ({cause}): prepare the corpus again"
                continue
            decoded[clip] = [own[number] for number in place.tolist()]
        return decoded, failures

    def _check(self, video: int, pictures: list[Tensor]) -> None:
        size = int(self.clips.shards.height[video]), int(self.clips.shards.width[video])
        for picture in pictures:
            if tuple(picture.shape[1:]) != size:
                raise ValueError(f"a picture is {tuple(picture.shape[1:])}, not {size} as the index says")


def decode_files(files: list[Tensor], device: torch.device) -> list[Tensor]:
    """Decodes JPEG files on a device: uint8 (3, H, W) each; raises ``RuntimeError`` if any is damaged."""
    pictures: list[Tensor] = decode_jpeg(files, mode=ImageReadMode.RGB, device=device)
    return pictures


def _decode_all(files: list[Tensor], device: torch.device) -> list[Tensor] | None:
    """All pictures at once, or None where any is damaged: then clips are decoded one by one, to name the bad ones."""
    try:
        return decode_files(files, device) if files else []
    except RuntimeError:
        return None


def _join(early: Tensor, cuts: list[Tensor], device: torch.device) -> Tensor:
    """Clips (B, T, H, W, 3) and further ones (T, h, w, 3), each padded to the largest by repeating its border."""
    if not cuts:
        return early
    sizes = [tuple(cut.shape[1:3]) for cut in cuts] + ([tuple(early.shape[2:4])] if len(early) else [])
    height, width = (max(size[axis] for size in sizes) for axis in (0, 1))
    count = len(early)
    joined = torch.empty((count + len(cuts), len(cuts[0]), height, width, 3), dtype=torch.uint8, device=device)
    if count:
        rows, columns = early.shape[2:4]
        joined[:count, :, :rows, :columns] = early
        repeat_border(joined[:count], rows, columns)
    for target, cut in zip(joined[count:], cuts, strict=True):
        rows, columns = cut.shape[1:3]
        target[:, :rows, :columns] = cut
        repeat_border(target, rows, columns)
    return joined
