"""Small datasets in LeRobot's layouts, of version 2 and 3."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.videos import pictures, write_video

LENGTHS = (9, 12, 7)
FPS = 10
CAMERA = "observation.images.front"
FEATURES = {
    CAMERA: {"dtype": "video", "shape": [96, 128, 3], "names": ["height", "width", "channels"]},
    "observation.state": {"dtype": "float32", "shape": [4], "names": None},
    "action": {"dtype": "float32", "shape": [2], "names": None},
    "timestamp": {"dtype": "float32", "shape": [1], "names": None},
}


def write_version_2(folder):
    """An episode in each file; returns the frames of every episode as they were drawn."""
    data_path = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
    video_path = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
    info(folder, "v2.1", data_path, video_path)
    for number, length in enumerate(LENGTHS):
        place = {"episode_chunk": 0, "episode_index": number, "video_key": CAMERA}
        write_table(folder / data_path.format(**place), numbers(number, length))
        write_video(folder / video_path.format(**place), length, fps=FPS, seed=number)
    return [pictures(length, seed=number) for number, length in enumerate(LENGTHS)]


def write_version_3(folder):
    """Two episodes in the first file, one in the second."""
    data_path = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
    video_path = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    info(folder, "v3.0", data_path, video_path)
    both = sum(LENGTHS[:2])
    for file, count in enumerate((both, LENGTHS[2])):
        write_video(
            folder / video_path.format(video_key=CAMERA, chunk_index=0, file_index=file), count, fps=FPS, seed=file
        )
    rows, first = [], 0
    for number, length in enumerate(LENGTHS):
        file = number // 2
        rows.append(
            {
                "episode_index": number,
                "data/chunk_index": 0,
                "data/file_index": file,
                "dataset_from_index": first,
                "dataset_to_index": first + length,
                f"videos/{CAMERA}/chunk_index": 0,
                f"videos/{CAMERA}/file_index": file,
                f"videos/{CAMERA}/from_timestamp": LENGTHS[0] / FPS if number == 1 else 0.0,
                f"videos/{CAMERA}/to_timestamp": 0.0,
                "length": length,
            }
        )
        first += length
    write_table(folder / "meta/episodes/chunk-000/file-000.parquet", rows)
    tables = [numbers(number, length) for number, length in enumerate(LENGTHS)]
    write_table(folder / data_path.format(chunk_index=0, file_index=0), [*tables[0], *tables[1]])
    write_table(folder / data_path.format(chunk_index=0, file_index=1), tables[2])
    frames = pictures(both)
    return [frames[: LENGTHS[0]], frames[LENGTHS[0] :], pictures(LENGTHS[2], seed=1)]


def numbers(episode, length):
    """What an episode has beside its pictures."""
    chance = np.random.default_rng(episode)
    return [
        {
            "observation.state": chance.normal(size=4).astype(np.float32).tolist(),
            "action": chance.uniform(-1, 1, size=2).astype(np.float32).tolist(),
            "timestamp": frame / FPS,
            "episode_index": episode,
        }
        for frame in range(length)
    ]


def info(folder, version, data_path, video_path):
    """Writes ``meta/info.json``."""
    (folder / "meta").mkdir(parents=True)
    content = {
        "codebase_version": version,
        "total_episodes": len(LENGTHS),
        "chunks_size": 1000,
        "fps": FPS,
        "data_path": data_path,
        "video_path": video_path,
        "features": FEATURES,
    }
    (folder / "meta/info.json").write_text(json.dumps(content))


def write_table(path, rows):
    """Writes a Parquet file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
