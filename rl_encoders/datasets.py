"""Offline datasets with pictures, an episode at a time, whatever format they lie in."""

import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch
from torch import Tensor

from vie import VieError
from vie.video.picture import read_picture
from vie.video.shards import Shards
from vie.video.source import open_video

Numbers = npt.NDArray[Any]
INFO = Path("meta/info.json")
MINARI = "minari:"
COLLECTED = Path("data/metadata.json")


@dataclass(frozen=True)
class Episode:
    """What was seen and done from a start to an end.

    Attributes:
        name: Of the episode within its dataset.
        cameras: From the name of a camera to a function that reads its frames, uint8 (T, H, W, 3).
        numbers: Everything else that has a value for each frame: (T, ...) by name; actions may be one fewer.
    """

    name: str
    cameras: Mapping[str, Callable[[], Tensor]]
    numbers: Mapping[str, Numbers]


@dataclass(frozen=True)
class Dataset:
    """Some episodes.

    Attributes:
        name: As it was asked for.
        cameras: Names of the cameras; one without a name is ``"pixels"``.
        fps: Frames in a second; None where that differs or is not known.
        episodes: Gives them one after another, each time it is called.
        count: How many there are.
    """

    name: str
    cameras: tuple[str, ...]
    fps: float | None
    episodes: Callable[[], Iterator[Episode]]
    count: int

    def __iter__(self) -> Iterator[Episode]:
        return self.episodes()

    def __len__(self) -> int:
        return self.count


def open_dataset(path: str) -> Dataset:
    """Opens a dataset.

    Args:
        path: Folder of a LeRobot dataset (format 2 or 3), ``minari:ID`` of a Minari dataset on this machine (needs the
            extra ``minari``), folder that ``vie-rl collect`` wrote, or folder or URL of a corpus that
            ``vie-pretrain prepare`` made.

    Raises:
        VieError: It is none of these, or holds no pictures.
    """
    if path.startswith(MINARI) or (Path(path) / COLLECTED).is_file():
        dataset = _minari(path)
    elif (Path(path) / INFO).is_file():
        dataset = _lerobot(Path(path))
    else:
        dataset = _corpus(path)
    if not dataset.cameras:
        raise VieError(f"{path} holds no pictures: an encoder has nothing to see there")
    return dataset


def _corpus(path: str) -> Dataset:
    shards = Shards(path)

    def episodes() -> Iterator[Episode]:
        for row, name in enumerate(shards.names):
            count = int(shards.num_frames[row])
            yield Episode(name, {"pixels": partial(shards.read, row, range(count))}, {})

    return Dataset(path, ("pixels",), None, episodes, len(shards))


def _lerobot(folder: Path) -> Dataset:
    try:
        info = json.loads((folder / INFO).read_text())
        kinds = {name: feature["dtype"] for name, feature in info["features"].items()}
        version, fps, count = int(info["codebase_version"].strip("v")[0]), float(info["fps"]), info["total_episodes"]
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise VieError(f"{folder / INFO} does not describe a LeRobot dataset ({error!r}): copy it again") from error
    if version not in (2, 3):
        raise VieError(f"{folder} is a LeRobot dataset of version {info['codebase_version']}: 2 and 3 are known")
    cameras = tuple(name for name, kind in kinds.items() if kind in {"video", "image"})
    where = _places_of_files(folder, info) if version == 2 else _places_in_files(folder, info)

    def episodes() -> Iterator[Episode]:
        for number in range(count):
            yield _lerobot_episode(number, kinds, fps, where(number))

    return Dataset(str(folder), cameras, fps, episodes, count)


@dataclass(frozen=True)
class _Place:
    """Of an episode: its table and the rows in it, and of every camera the video and the second it begins at."""

    table: Path
    rows: slice
    videos: Mapping[str, tuple[Path, float]]


def _places_of_files(folder: Path, info: Mapping[str, Any]) -> Callable[[int], _Place]:
    """Version 2: an episode is a file."""

    def place(number: int) -> _Place:
        chunk = {"episode_chunk": number // info["chunks_size"], "episode_index": number}
        videos = {
            name: (folder / info["video_path"].format(video_key=name, **chunk), 0.0)
            for name, feature in info["features"].items()
            if feature["dtype"] == "video"
        }
        return _Place(folder / info["data_path"].format(**chunk), slice(None), videos)

    return place


def _places_in_files(folder: Path, info: Mapping[str, Any]) -> Callable[[int], _Place]:
    """Version 3: many episodes in a file."""
    tables = sorted((folder / "meta/episodes").rglob("*.parquet"))
    about = {row["episode_index"]: row for table in tables for row in pq.read_table(table).to_pylist()}
    firsts: dict[tuple[int, int], int] = {}
    for row in about.values():
        file = row["data/chunk_index"], row["data/file_index"]
        firsts[file] = min(firsts.get(file, row["dataset_from_index"]), row["dataset_from_index"])

    def place(number: int) -> _Place:
        row = about[number]
        file = row["data/chunk_index"], row["data/file_index"]
        begin, end = (row[f"dataset_{side}_index"] - firsts[file] for side in ("from", "to"))
        videos = {
            name: (
                folder
                / info["video_path"].format(
                    video_key=name,
                    chunk_index=row[f"videos/{name}/chunk_index"],
                    file_index=row[f"videos/{name}/file_index"],
                ),
                float(row[f"videos/{name}/from_timestamp"]),
            )
            for name, feature in info["features"].items()
            if feature["dtype"] == "video"
        }
        table = folder / info["data_path"].format(chunk_index=file[0], file_index=file[1])
        return _Place(table, slice(begin, end), videos)

    return place


def _lerobot_episode(number: int, kinds: Mapping[str, str], fps: float, place: _Place) -> Episode:
    try:
        table = pq.read_table(place.table)
    except OSError as error:
        raise VieError(f"{place.table} cannot be read ({error}): fetch the dataset whole") from error
    begin, end, _ = place.rows.indices(table.num_rows)
    table = table.slice(begin, end - begin)
    numbers = {
        name: np.asarray(table[name].to_pylist())
        for name, kind in kinds.items()
        if kind not in {"video", "image", "string"} and name in table.column_names
    }
    length = table.num_rows

    def video(path: Path, begin: float) -> Tensor:
        source = open_video(path)
        first = round(begin * fps)
        return source.get_batch(np.arange(first, first + length))

    def images(name: str) -> Tensor:
        return torch.stack([read_picture(io.BytesIO(cell["bytes"]), name) for cell in table[name].to_pylist()])

    cameras: dict[str, Callable[[], Tensor]] = {}
    for name, kind in kinds.items():
        if kind == "video":
            cameras[name] = partial(video, *place.videos[name])
        elif kind == "image":
            cameras[name] = partial(images, name)
    return Episode(f"episode {number}", cameras, numbers)


def _minari(path: str) -> Dataset:
    # Its module needs Gymnasium, which other datasets do not.
    from rl_encoders.trajectories.minari import load

    data = load(path)

    def split(observations: Any) -> tuple[dict[str, Numbers], dict[str, Numbers]]:
        named = observations if isinstance(observations, Mapping) else {"pixels": observations}
        pictures = {name: value for name, value in named.items() if _is_picture(value)}
        return pictures, {name: value for name, value in named.items() if name not in pictures}

    def episodes() -> Iterator[Episode]:
        for episode in data.iterate_episodes():
            pictures, rest = split(episode.observations)
            yield Episode(
                f"episode {episode.id}",
                {name: partial(torch.from_numpy, value) for name, value in pictures.items()},
                {**rest, "action": episode.actions, "reward": episode.rewards},
            )

    first = next(iter(data.iterate_episodes()), None)
    cameras = tuple(split(first.observations)[0]) if first is not None else ()
    return Dataset(path, cameras, None, episodes, data.total_episodes)


def _is_picture(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 4 and value.shape[-1] == 3
