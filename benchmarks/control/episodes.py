"""Episodes of pictures and actions, held in memory: of a LeRobot or Minari dataset, or of Meta-World's clips."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rl_encoders.clip_buffer import ClipBuffer
from rl_encoders.datasets import Dataset, Episode, open_dataset
from vie import Sampling, VieError
from vie.video.source import open_video

HELD_OUT = 0.2
"""Share of the episodes that are tested on, where the dataset says nothing of it: every fifth one."""


@dataclass(frozen=True)
class Frames:
    """All frames of some episodes, one after another.

    Attributes:
        pixels: (N, H, W, 3) uint8.
        actions: (N, A) float32: what was done at each.
        first: (N,) number of the first frame of each one's episode.
        last: (N,) whether the episode ends with it.
        held_out: (N,) whether its episode is tested on.
        fps: Frames in a second.
        episodes: How many there are.
        success: (N, 1) float32: 1 where the task is done by then, 0 elsewhere; None where nobody says.
    """

    pixels: Tensor
    actions: Tensor
    first: Tensor
    last: Tensor
    held_out: Tensor
    fps: float
    episodes: int
    success: Tensor | None = None

    def clips(self, which: Tensor, sampling: Sampling) -> Tensor:
        """What an encoder sees at some frames, (B, T, H, W, 3): the frame, or those before it too."""
        if sampling.frames == 1:
            return self.pixels[which][:, None]
        back = torch.from_numpy(ClipBuffer(sampling, self.fps).back)
        return self.pixels[torch.maximum(which[:, None] - back, self.first[which][:, None])]


def read_frames(path: str, camera: str | None = None, episodes: int | None = None) -> Frames:
    """Reads a dataset into memory.

    Args:
        path: As ``rl_encoders.datasets.open_dataset`` takes it; or a folder with ``labels.csv`` (columns path, split),
            video files, and for each ``episodes/TASK/NAME.npz`` with ``action``, ``success`` and ``frame_step``.
        camera: Of the dataset; its first unless given.
        episodes: To read at most, spread evenly over the dataset.

    Raises:
        VieError: There are no actions, or no such camera.
    """
    dataset, splits = _listed(Path(path)) if (Path(path) / "labels.csv").is_file() else (open_dataset(path), None)
    name = camera or dataset.cameras[0]
    if name not in dataset.cameras:
        raise VieError(f"{path} has no camera {name!r}: it has {', '.join(dataset.cameras)}")
    kept = np.linspace(0, len(dataset) - 1, min(episodes or len(dataset), len(dataset))).round().astype(int).tolist()
    pixels, actions, success, lengths, held_out = [], [], [], [], []
    for number, episode in enumerate(dataset):
        if number not in kept:
            continue
        if "action" not in episode.numbers:
            raise VieError(f"{episode.name} of {path} has no actions: there is nothing to read out")
        seen, done = episode.cameras[name](), np.asarray(episode.numbers["action"], dtype=np.float32)
        length = min(len(seen), len(done))
        pixels.append(seen[:length])
        actions.append(torch.from_numpy(done[:length]))
        if "success" in episode.numbers:
            success.append(torch.from_numpy(np.asarray(episode.numbers["success"], dtype=np.float32)[:length, None]))
        lengths.append(length)
        held_out.append(splits[number] != "train" if splits else len(lengths) % round(1 / HELD_OUT) == 0)
    if len({tuple(each.shape[1:]) for each in pixels}) != 1:
        raise VieError(f"pictures of {path} differ in size: give one camera of one size")
    counts = torch.tensor(lengths)
    ends = counts.cumsum(0)
    last = torch.zeros(int(ends[-1]), dtype=torch.bool)
    last[ends - 1] = True
    return Frames(
        torch.cat(pixels),
        torch.cat(actions),
        torch.repeat_interleave(ends - counts, counts),
        last,
        torch.repeat_interleave(torch.tensor(held_out), counts),
        dataset.fps or 25.0,
        len(lengths),
        torch.cat(success) if len(success) == len(lengths) else None,
    )


def _listed(folder: Path) -> tuple[Dataset, list[str]]:
    with (folder / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))

    def read() -> Iterator[Episode]:
        for row in rows:
            task, name = Path(row["path"]).parts[-2:]
            with np.load(folder / "episodes" / task / Path(name).with_suffix(".npz")) as numbers:
                at = numbers["frame_step"]
                done: dict[str, npt.NDArray[Any]] = {name: numbers[name][at] for name in ("action", "success")}
            yield Episode(row["path"], {"pixels": partial(_video, folder / row["path"])}, done)

    return Dataset(str(folder), ("pixels",), 25.0, read, len(rows)), [row["split"] for row in rows]


def _video(path: Path) -> Tensor:
    source = open_video(path)
    return source.get_batch(np.arange(len(source)))
