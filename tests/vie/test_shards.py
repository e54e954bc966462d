import io
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import webdataset as wds
from torchvision.io import ImageReadMode, decode_jpeg

from pretrain.preparation.inputs import Video
from pretrain.preparation.shard_writer import ShardWriter, source_key
from pretrain.preparation.transcode import transcode
from tests.conftest import rewrite_index
from tests.videos import write_video
from vie.errors import VieError
from vie.video.index import write_index
from vie.video.shards import Shards


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    videos = [
        Video(f"{i}.mp4", folder / f"{i}.mp4", "train" if i < 3 else "val", {"kind": "ab"[i % 2]} if i else {})
        for i in range(5)
    ]
    with ShardWriter(folder, 2, {"short_side": 64}, on_finish=lambda: None) as writer:
        for i, video in enumerate(videos):
            write_video(video.path, frames=5 + 4 * i, width=128 + 2 * i, seed=i)
            writer.add(video, source_key(video), transcode(video.path, short_side=64, quality=90))
    rows = [
        {"name": video.name, "split": video.split, **vars(writer.finished[source_key(video)])}
        | {f"label.{column}": label for column, label in video.labels.items()}
        for video in videos
    ]
    write_index(folder / "index.parquet", rows, ["kind"])
    return folder


def read_sequentially(folder):
    """Name and frames of every sample, as a plain webdataset reader sees them."""
    tars = sorted(map(str, folder.glob("shard-*.tar")))
    found = {}
    for sample in wds.WebDataset(tars, shardshuffle=False, empty_check=False):
        about = json.loads(sample["json"])
        stream = io.BytesIO(sample["mjpeg"])
        files = [torch.frombuffer(bytearray(stream.read(n)), dtype=torch.uint8) for n in about["frame_bytes"]]
        assert not stream.read()
        found[about["name"]] = (about, torch.stack(decode_jpeg(files, mode=ImageReadMode.RGB)).permute(0, 2, 3, 1))
    return found


def test_random_access_equals_a_sequential_decode(corpus):
    shards = Shards(corpus)
    sequential = read_sequentially(corpus)
    assert sorted(sequential) == sorted(shards.names)
    rng = np.random.default_rng(0)
    for video, name in enumerate(shards.names):
        about, frames = sequential[name]
        count = shards.num_frames[video]
        assert (about["height"], about["width"], len(frames)) == (shards.height[video], shards.width[video], count)
        assert about["fps"] == shards.fps[video] == 25
        for wanted in (np.arange(count), [count - 1, 0], [2, 2, 1], [0], rng.integers(count, size=9)):
            assert torch.equal(shards.read(video, wanted), frames[torch.as_tensor(np.asarray(wanted))])


def test_the_index_tells_splits_and_labels(corpus):
    shards = Shards(corpus)
    assert len(shards) == 5
    assert shards.split("val").tolist() == [3, 4]
    assert shards.label_columns == ["kind"]
    assert shards.classes("kind") == ["a", "b"]
    assert shards.labels("kind").tolist() == [-1, 1, 0, 1, 0]
    with pytest.raises(VieError, match="its label columns are kind"):
        shards.labels("colour")


def with_column(name, values):
    return lambda table: table.append_column(name, pa.array(values))


def damaged_copy(corpus, folder, harm):
    for file in corpus.glob("*.*"):
        if file.suffix in (".tar", ".parquet"):
            (folder / file.name).write_bytes(file.read_bytes())
    harm(folder / "shard-000001.tar")
    return Shards(folder)


@pytest.mark.parametrize(
    "harm",
    [
        lambda tar: tar.unlink(),
        lambda tar: tar.write_bytes(tar.read_bytes()[:3000]),
        lambda tar: tar.write_bytes(bytes(tar.stat().st_size)),
    ],
    ids=["missing", "cut", "zeroed"],
)
def test_a_damaged_shard_is_named_and_the_others_still_read(corpus, tmp_path, harm):
    shards = damaged_copy(corpus, tmp_path, harm)
    with pytest.raises(VieError, match=r"3\.mp4.*shard-000001\.tar.*prepare") as caught:
        shards.read(3, np.arange(17))
    assert "\n" not in str(caught.value)
    assert shards.read(0, [0]).shape == (1, 64, 85, 3)


def test_a_folder_without_an_index_says_what_to_do(tmp_path):
    with pytest.raises(VieError, match="vie-pretrain prepare"):
        Shards(tmp_path)


@pytest.mark.parametrize("harm", [lambda data: data[:-9], lambda data: b"", lambda data: bytes(len(data))])
def test_a_damaged_index_is_named(corpus, tmp_path, harm):
    (tmp_path / "index.parquet").write_bytes(harm((corpus / "index.parquet").read_bytes()))
    with pytest.raises(VieError, match=r"index\.parquet: damaged .*prepare") as caught:
        Shards(tmp_path)
    assert "\n" not in str(caught.value)


def replaced(name, values):
    def change(table):
        field = table.schema.field(name)
        return table.set_column(table.column_names.index(name), field, pa.array(values, field.type))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop_columns("offset"), "no column `offset`"),
        (lambda table: table.set_column(0, "name", pa.array(range(5))), "no column `name` of type string"),
        (replaced("shard", ["s.tar", None, "s.tar", "s.tar", "s.tar"]), "`shard` has gaps"),
        (replaced("frame_bytes", [[1, 2], [3, None], [4], [5], [6]]), "`frame_bytes` has gaps"),
        (with_column("label.kind", ["a"] * 5), "no column `label.kind` of type string, or several"),
        (with_column("label.more", [["a"]] * 5), "no column `label.more` of type string"),
        (with_column("split.1", [["a"]] * 5), "no column `split.1` of type string"),
        *((replaced("fps", [25, fps, 25, 25, 25]), r"'1\.mp4' has no frame rate") for fps in (0, -1, np.nan, np.inf)),
        (replaced("frame_bytes", [[1, 2], [3], [], [5], [6]]), r"'2\.mp4' has no frames"),
        (replaced("offset", [512, -1, 512, 512, 512]), "negative value -1"),
        (replaced("frame_bytes", [[1, 2], [3, -7], [4], [5], [6]]), "negative value -7"),
        *(
            (replaced("shard", ["s.tar"] * 4 + [path]), "not a file in the corpus")
            for path in ("/etc/passwd", "../s.tar", "a/s.tar", "..", "")
        ),
    ],
)
def test_an_index_that_does_not_fit_is_refused(corpus, tmp_path, change, message):
    pq.write_table(change(pq.read_table(corpus / "index.parquet")), tmp_path / "index.parquet")
    with pytest.raises(VieError, match=message) as caught:
        Shards(tmp_path)
    assert "\n" not in str(caught.value)


def test_more_shards_than_open_files(corpus, tmp_path):
    """Files that the cache drops are closed."""
    import os

    import vie.video.shards as module

    tar = (corpus / "shard-000000.tar").read_bytes()
    before = len(os.listdir("/proc/self/fd"))
    for i in range(300):
        path = tmp_path / f"{i}.tar"
        path.write_bytes(tar[:600])
        assert module._open(path).read(512, 8) == tar[512:520]
    assert len(os.listdir("/proc/self/fd")) <= before + 256


def test_pictures_one_by_one_are_those_of_the_stack(tiny_corpus):
    shards = Shards(tiny_corpus)
    pictures = shards.decode(3, [5, 0, 5])
    assert pictures[0].is_contiguous()  # a cut copies whole rows
    assert torch.equal(torch.stack(pictures), shards.read(3, [5, 0, 5]))


def test_pictures_of_another_size_than_the_index_says(tiny_corpus, tmp_path):
    corpus = shutil.copytree(tiny_corpus, tmp_path / "corpus")
    heights = Shards(corpus).height.tolist()
    rewrite_index(corpus, {"height": [99, *heights[1:]]})
    shards = Shards(corpus)
    with pytest.raises(VieError, match=r"a picture is \(24, 28\), not \(99, 28\) as the index says"):
        shards.decode(0, [0, 1])
    assert shards.read(1, [0]).shape == (1, 24, 28, 3)
