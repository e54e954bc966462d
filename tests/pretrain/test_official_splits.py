"""Split files written as the official ones are, with a few of their real names."""

import pyarrow.parquet as pq
import pytest

from pretrain.preparation.inputs import list_videos
from pretrain.preparation.prepare import PrepareConfig, prepare
from tests.videos import write_video
from vie.errors import VieError
from vie.video.shards import Shards

UCF101 = {
    "classInd.txt": "1 ApplyEyeMakeup\r\n2 Archery\r\n",
    "trainlist01.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\r\nArchery/v_Archery_g08_c01.avi 2\r\n",
    "testlist01.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi\nArchery/v_Archery_g01_c01.avi\n",
    "trainlist02.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi 1\nArchery/v_Archery_g01_c01.avi 2\n",
    "testlist02.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi\nArchery/v_Archery_g08_c01.avi\n\n",
}
HMDB51 = {
    "brush_hair_test_split1.txt": "April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1 \nb#1.avi 0 \nc.avi 2 \n",
    "brush_hair_test_split2.txt": "April_09_brush_hair_u_nm_np1_ba_goo_0.avi 2 \nb#1.avi 1 \nc.avi 0 \n",
    "wave_test_split1.txt": "c.avi 1 \nd.avi 2 \n",
    "wave_test_split2.txt": "c.avi 1 \nd.avi 2 \n",
}


def write(folder, files):
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def test_ucf101(tmp_path):
    videos = list_videos(write(tmp_path / "lists", UCF101), root=tmp_path)
    assert [(v.name, v.split, v.labels["label"], v.splits) for v in videos] == [
        ("ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi", "test", "ApplyEyeMakeup", {"1": "test", "2": "train"}),
        ("ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi", "train", "ApplyEyeMakeup", {"1": "train", "2": "test"}),
        ("Archery/v_Archery_g01_c01.avi", "test", "Archery", {"1": "test", "2": "train"}),
        ("Archery/v_Archery_g08_c01.avi", "train", "Archery", {"1": "train", "2": "test"}),
    ]
    assert videos[0].path == tmp_path / videos[0].name


def test_hmdb51(tmp_path):
    root = tmp_path / "videos"
    for name in ("brush_hair/c.mp4", "wave/c.avi", "elsewhere/b#1.mkv"):  # the same name in two classes, other formats
        (root / name).parent.mkdir(parents=True)
        (root / name).touch()
    videos = list_videos(write(tmp_path / "lists", HMDB51), root=root)
    assert [(v.name, v.split, v.labels["label"], v.splits) for v in videos] == [
        (
            "brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi",
            "train",
            "brush_hair",
            {"1": "train", "2": "test"},
        ),
        ("elsewhere/b#1.mkv", "unused", "brush_hair", {"1": "unused", "2": "train"}),
        ("brush_hair/c.mp4", "test", "brush_hair", {"1": "test", "2": "unused"}),
        ("wave/c.avi", "train", "wave", {"1": "train", "2": "train"}),
        ("wave/d.avi", "test", "wave", {"1": "test", "2": "test"}),
    ]


@pytest.mark.parametrize("place", ["brush_hair/c.avi", "videos/brush_hair/brush_hair/c.avi"])
def test_a_file_of_another_class_is_not_taken(tmp_path, place):
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).touch()
    videos = list_videos(write(tmp_path / "lists", HMDB51), root=tmp_path)
    assert [(v.name, v.labels["label"]) for v in videos if v.path.stem == "c"] == [
        (place, "brush_hair"),
        ("wave/c.avi", "wave"),
    ]


@pytest.mark.parametrize(
    ("files", "name", "text", "message"),
    [
        (UCF101, "classInd.txt", None, "classInd.txt is missing"),
        (UCF101, "testlist02.txt", None, "split 2 has no test video of ApplyEyeMakeup"),
        (UCF101, "trainlist02.txt", "Archery/v_Archery_g01_c01.avi 2\n", "split 2 has no train video of ApplyEyeMak"),
        (HMDB51, "wave_test_split2.txt", None, "split 2 has no train video of wave"),
        (HMDB51, "wave_test_split1.txt", "c.avi 1\nd.avi 0\n", "split 1 has no test video of wave"),
        (UCF101, "trainlist01.txt", "Archery/a.avi 1\n", r"trainlist01\.txt: line 1 does not fit classInd"),
        (UCF101, "trainlist01.txt", "Archery/a.avi 2\nKnitting/a.avi\n", r"line 2 does not fit"),
        (UCF101, "testlist01.txt", "Archery/v_Archery_g08_c01.avi\n", "in both train and test"),
        (UCF101, "testlist01.txt", "a b c\n", r"testlist01\.txt: line 1 is not as in the official"),
        (HMDB51, "wave_test_split2.txt", "c.avi 3\n", r"wave_test_split2\.txt: line 1 ends in '3'"),
    ],
)
def test_split_files_that_do_not_fit_are_refused(tmp_path, files, name, text, message):
    write(tmp_path / "lists", files)
    if text is None:
        (tmp_path / "lists" / name).unlink()
    else:
        (tmp_path / "lists" / name).write_text(text)
    with pytest.raises(VieError, match=message) as caught:
        list_videos(tmp_path / "lists", root=tmp_path)
    assert "\n" not in str(caught.value)


def test_all_splits_are_in_one_corpus(tmp_path):
    for seed, name in enumerate(UCF101["trainlist01.txt"].split()[::2] + UCF101["testlist01.txt"].split()[:1]):
        write_video(tmp_path / "videos" / name, frames=4, height=32, width=32, seed=seed, codec="mpeg4")
    videos = list_videos(write(tmp_path / "lists", UCF101), root=tmp_path / "videos")
    report = prepare(videos, tmp_path / "out", PrepareConfig(workers=2), progress=False)
    assert report.failed == {"Archery/v_Archery_g01_c01.avi": "no such file"}
    shards = Shards(tmp_path / "out")
    assert shards.label_columns == ["label"]
    assert shards.split_columns == ["1", "2"]
    assert shards.split("train").tolist() == shards.split("train", of="1").tolist() == [1, 2]
    assert shards.split("test", of="2").tolist() == [1, 2]
    assert shards.split("train", of="2").tolist() == [0]
    assert shards.split("val", of="2").tolist() == []
    with pytest.raises(VieError, match=r"no split column .3.: set data\.split to one of its split columns, 1, 2"):
        shards.split("train", of="3")
    index = tmp_path / "out/index.parquet"
    pq.write_table(pq.read_table(index).drop_columns(["split.1", "split.2"]), index)  # as written in former times
    old = Shards(tmp_path / "out")
    assert (old.split_columns, old.split("train").tolist()) == ([], [1, 2])
    with pytest.raises(VieError, match=r"it has none: leave data\.split out"):
        old.split("train", of="1")
