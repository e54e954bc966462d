"""The arrays of an index against plain lists of the same rows."""

import gc
import hashlib
import os
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import vie.video.index as module
import vie.video.table as table_module
from pretrain.config import Config
from pretrain.data.corpus import open_corpus
from vie.errors import VieError
from vie.video import Sampling, Shards
from vie.video.index import INDEX_FIELDS

ROWS = 301


def rows_of(count=ROWS):
    rng = np.random.default_rng(0)
    letters = np.array(list("aeZé字-/ 'b"))
    return [
        {
            "name": f"{''.join(rng.choice(letters, 5))}/{number}.mp4",
            "split": str(rng.choice(["val", "train", "übrig"])),
            "shard": f"s{number // 50}.tar",
            "offset": int(rng.integers(2**40)),
            "frame_bytes": rng.integers(1, 5000, rng.integers(1, 20)).tolist(),
            "fps": 25.0 + number,
            "height": 10 + number,
            "width": 20 + number,
            "label.kind": [None, "zebra", "Ant", "ärmel", "ant"][rng.integers(5)],
            "label.own": f"{number * 7919 % ROWS}",
            "label.none": None,
            "split.1": [None, "train", "test"][rng.integers(3)],
        }
        for number in range(count)
    ]


def write(folder, rows, **options):
    extra = [pa.field(name, pa.string()) for name in ("label.kind", "label.own", "label.none", "split.1")]
    pq.write_table(
        pa.Table.from_pylist(rows, schema=pa.schema([*INDEX_FIELDS, *extra])), folder / "index.parquet", **options
    )
    return folder


@pytest.fixture(params=["in memory", "in the cache"])
def small_batches(request, monkeypatch):
    """Tables of several batches that do not begin where the groups of the file do."""
    monkeypatch.setattr(module, "ROWS", 64)
    monkeypatch.setattr(table_module, "ROWS", 64)
    if request.param == "in the cache":
        monkeypatch.setattr(module, "IN_MEMORY", 0)
    return request.param


@pytest.mark.parametrize(
    "options", [{}, {"row_group_size": 100}, {"use_dictionary": False, "compression": "none", "row_group_size": 37}]
)
def test_an_index_is_its_rows(small_batches, tmp_path, options):
    rows = rows_of()
    shards = Shards(write(tmp_path, rows, **options), tmp_path / "cache")
    assert len(list((tmp_path / "cache").glob("*.vie"))) == (small_batches == "in the cache")
    for opened in (shards, Shards(tmp_path, tmp_path / "cache"), pickle.loads(pickle.dumps(shards))):
        check(opened, rows)
    assert len(pickle.dumps(shards)) < 1000


def check(shards, rows):
    names = [row["name"] for row in rows]
    assert len(shards) == len(rows)
    assert list(shards.names) == names
    assert shards.names == names
    assert [shards.names[row] for row in range(len(rows))] == names
    assert shards.names[-1] == names[-1]
    assert shards.names[60:70] == names[60:70]
    assert shards.names.index(names[200]) == 200
    with pytest.raises(IndexError):
        shards.names[len(rows)]
    for column in ("fps", "height", "width"):
        assert getattr(shards, column).tolist() == [row[column] for row in rows]
    assert shards.num_frames.tolist() == [len(row["frame_bytes"]) for row in rows]
    assert shards.splits.tolist() == [row["split"] for row in rows]
    assert shards.split_names == sorted({row["split"] for row in rows})
    for word in ("train", "val", "nothing"):
        assert shards.split(word).tolist() == [i for i, row in enumerate(rows) if row["split"] == word]
        assert shards.split(word, "1").tolist() == [i for i, row in enumerate(rows) if row["split.1"] == word]
    assert shards.label_columns == ["kind", "own", "none"]
    for column in shards.label_columns:
        labels = [row[f"label.{column}"] for row in rows]
        classes = sorted({label for label in labels if label is not None})
        assert shards.classes(column) == classes
        assert shards.labels(column).tolist() == [-1 if label is None else classes.index(label) for label in labels]
    for number, row in enumerate(rows):
        place = shards.locate(number, range(len(row["frame_bytes"])))
        assert place.path == shards.path / row["shard"]
        assert place.lengths.tolist() == row["frame_bytes"]
        assert place.offsets.tolist() == [
            row["offset"] + sum(row["frame_bytes"][:i]) for i in range(len(place.lengths))
        ]


def test_fingerprints_are_those_of_the_joined_names(small_batches, tmp_path):
    """Runs that began before names lay in arrays go on."""
    rows = rows_of()
    config = Config()
    config.data.path, config.data.cache_dir = str(write(tmp_path, rows)), str(tmp_path / "cache")
    for fraction in (1.0, 0.4):
        config.data.fraction = fraction
        corpus = open_corpus(config, Sampling(1, 1, None, 16))
        joined = "\n".join(rows[video]["name"] for video in corpus.train_videos)
        assert corpus.fingerprint() == hashlib.blake2b(joined.encode(), digest_size=16).hexdigest()
        train = [i for i, row in enumerate(rows) if row["split"] == "train"]
        drawn = np.random.default_rng(0).permutation(train)[: round(fraction * len(train))]
        assert corpus.train_videos.tolist() == sorted(drawn.tolist())
    names = b"".join(corpus.shards.names.joined(np.array([250, 3, 3, 100]), ", "))
    assert names.decode() == ", ".join(rows[video]["name"] for video in (250, 3, 3, 100))


def test_an_empty_index_opens(tmp_path):
    shards = Shards(write(tmp_path, []))
    assert len(shards) == 0
    assert shards.split("train").tolist() == []
    assert (shards.classes("kind"), shards.labels("kind").tolist(), shards.split_names) == ([], [], [])


def test_words_that_a_file_keeps_twice_or_for_no_row(tmp_path):
    """A dictionary page may say what it likes."""
    rows = rows_of(4)
    table = pa.Table.from_pylist(rows, schema=pa.schema(INDEX_FIELDS))
    words = pa.DictionaryArray.from_arrays(pa.array([1, 3, 2, 3]), pa.array(["unused", "b", "a", "b"]))
    pq.write_table(table.append_column("label.kind", words), tmp_path / "index.parquet", store_schema=False)
    shards = Shards(tmp_path)
    assert shards.classes("kind") == ["a", "b"]
    assert shards.labels("kind").tolist() == [1, 1, 0, 1]


def test_a_table_in_the_cache_is_of_one_state_of_the_index(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "IN_MEMORY", 0)
    rows = rows_of(5)
    before = Shards(write(tmp_path, rows), tmp_path / "cache")
    rows[2]["name"], rows[2]["frame_bytes"] = "other", [7, 8, 9]
    after = Shards(write(tmp_path, rows), tmp_path / "cache")
    assert (after.names[2], after.locate(2, [1]).lengths.tolist()) == ("other", [8])
    for table in (tmp_path / "cache").glob("*.vie"):
        table.unlink()  # as the cache itself may: who has it mapped keeps it
    assert before.names[2] != "other"
    assert len(before.locate(4, [0]).lengths) == 1


def test_a_table_that_is_larger_than_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "IN_MEMORY", 0)
    with pytest.raises(VieError, match=r"may hold 1000 bytes, less than the \d+ of a single file.*data.cache_bytes"):
        Shards(write(tmp_path, rows_of()), tmp_path / "cache", 1000)
    assert not list((tmp_path / "cache").glob("*.vie"))


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "IN_MEMORY", 0)
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(VieError, match=r"cannot be used .*data\.cache_dir"):
        Shards(write(tmp_path, rows_of(3)), tmp_path / "cache")


def test_workers_share_the_arrays(tmp_path):
    """Reading names and places in a forked process copies next to nothing of them."""
    count = 200_000
    rows = {
        "name": [f"{number:060d}" for number in range(count)],
        "split": ["train"] * count,
        "shard": ["s.tar"] * count,
        "offset": range(count),
        "frame_bytes": [[5] * 10] * count,
        "fps": [25.0] * count,
        "height": [9] * count,
        "width": [9] * count,
    }
    pq.write_table(pa.table(rows, schema=pa.schema(INDEX_FIELDS)), tmp_path / "index.parquet")
    shards = Shards(tmp_path)
    receive, send = os.pipe()
    gc.collect()
    if (child := os.fork()) == 0:
        gc.disable()  # whose marks are written into every object that other tests have left
        before = private_bytes()
        for video in range(0, count, 20):
            shards.locate(video, [0])
            len(shards.names[video])
        os.write(send, str(private_bytes() - before).encode())
        os._exit(0)
    os.waitpid(child, 0)
    # The arrays are 26 MB; lists of Python strings were 30 more. What other threads of the parent write to meanwhile
    # counts as the child's own.
    assert int(os.read(receive, 100)) < 22 * 2**20


def private_bytes():
    with open("/proc/self/smaps_rollup") as file:
        return sum(int(line.split()[1]) * 1024 for line in file if line.startswith(("Private_Dirty", "Private_Clean")))
