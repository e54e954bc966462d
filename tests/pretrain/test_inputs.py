import csv
import os
import tempfile
from pathlib import Path

import pytest

from pretrain.preparation.inputs import list_videos
from vie.errors import VieError


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def write_csv(path, header, *rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def brief(videos):
    return [(video.name, video.split, video.labels) for video in videos]


def test_kinetics_folders_have_splits_and_classes(tmp_path):
    touch(tmp_path, "train/golf/b.mp4", "train/ski jumping/a.mp4", "validate/golf/c.mkv", "train/golf/notes.txt")
    assert brief(list_videos(tmp_path)) == [
        ("train/golf/b.mp4", "train", {"label": "golf"}),
        ("train/ski jumping/a.mp4", "train", {"label": "ski jumping"}),
        ("validate/golf/c.mkv", "val", {"label": "golf"}),
    ]
    assert list_videos(tmp_path)[0].path == tmp_path / "train/golf/b.mp4"


def test_class_folders(tmp_path):
    touch(tmp_path, "ski/a.mp4", "golf/b.AVI", ".cache/c.mp4", "golf/.d.mp4")
    assert brief(list_videos(tmp_path)) == [
        ("golf/b.AVI", "train", {"label": "golf"}),
        ("ski/a.mp4", "train", {"label": "ski"}),
    ]


@pytest.mark.parametrize(
    "names",
    [["a.mp4", "b.mp4"], ["clips/a.mp4", "clips/b.mp4"], ["x/y/a.mp4", "x/z/b.mp4"], ["a.mp4", "x/b.mp4"]],
    ids=["flat", "one folder", "deep", "mixed"],
)
def test_other_folders_have_no_labels(tmp_path, names, caplog):
    touch(tmp_path, *names)
    assert brief(list_videos(tmp_path)) == [(name, "train", {}) for name in names]
    assert not caplog.records


def test_flat_splits_have_no_classes(tmp_path, caplog):
    touch(tmp_path, "train/a.mp4", "test/b.mp4")
    assert brief(list_videos(tmp_path)) == [("test/b.mp4", "test", {}), ("train/a.mp4", "train", {})]
    assert not caplog.records


@pytest.mark.parametrize(
    ("odd", "split"),
    [("val/x.JPEG", "val"), ("train/a/deeper/x.JPEG", "train"), ("x.JPEG", "")],
    ids=["flat val", "one level deeper", "outside the splits"],
)
def test_the_file_that_costs_a_corpus_its_classes_is_named(tmp_path, caplog, odd, split):
    touch(tmp_path, *(f"train/{label}/{i}.JPEG" for label in "ab" for i in range(4)), odd)
    videos = list_videos(tmp_path)
    assert all(not video.labels for video in videos)
    (record,) = caplog.records
    assert f"'{odd}' does not lie as 8 of 9 files do (such as 'train/a/0.JPEG')" in record.getMessage()
    assert "a flat val/ must be sorted into class folders" in record.getMessage()


def test_a_class_may_be_called_like_a_split(tmp_path, caplog):
    touch(tmp_path, "train/a.png", "train/b.png", "tulip/c.png")
    assert [video.labels["label"] for video in list_videos(tmp_path)] == ["train", "train", "tulip"]
    assert not caplog.records


def test_imagenet_folders(tmp_path):
    touch(tmp_path, "train/n01440764/n01440764_10026.JPEG", "train/n01443537/n01443537_2.JPEG", "train/n01440764/x.xml")
    touch(tmp_path, "val/n01440764/ILSVRC2012_val_00000293.JPEG")
    assert brief(list_videos(tmp_path)) == [
        ("train/n01440764/n01440764_10026.JPEG", "train", {"label": "n01440764"}),
        ("train/n01443537/n01443537_2.JPEG", "train", {"label": "n01443537"}),
        ("val/n01440764/ILSVRC2012_val_00000293.JPEG", "val", {"label": "n01440764"}),
    ]


def test_pictures_in_class_folders_and_csv(tmp_path):
    touch(tmp_path, "cat/a.png", "dog/b.webp", "dog/c.bmp", "dog/d.jpg")
    assert [video.labels["label"] for video in list_videos(tmp_path)] == ["cat", "dog", "dog", "dog"]
    listing = write_csv(tmp_path / "l.csv", ["path", "breed"], ["dog/d.jpg", "terrier"])
    assert brief(list_videos(listing)) == [("dog/d.jpg", "train", {"breed": "terrier"})]


def test_pictures_beside_videos_are_not_listed(tmp_path, caplog):
    touch(tmp_path, "cat/a.mp4", "cat/a.jpg", "dog/b.mp4", "folder.png")
    assert brief(list_videos(tmp_path)) == [
        ("cat/a.mp4", "train", {"label": "cat"}),
        ("dog/b.mp4", "train", {"label": "dog"}),
    ]
    assert "videos (2, first 'cat/a.mp4') and pictures (2, first 'cat/a.jpg')" in caplog.text


def test_a_stray_video_does_not_stand_for_the_pictures(tmp_path):
    touch(tmp_path, *(f"train/{label}/{i}.JPEG" for label in "ab" for i in range(60)), "train/a/readme.ts")
    with pytest.raises(VieError, match=r"videos \(1, first 'train/a/readme.ts'\) and pictures \(120, .*move") as caught:
        list_videos(tmp_path)
    assert "\n" not in str(caught.value)


KINETICS = ("label", "youtube_id", "time_start", "time_end", "split", "is_cc")


@pytest.mark.parametrize("place", ["", "train/", "ski jumping/", "train/ski jumping/"])
def test_kinetics_csv_finds_its_files(tmp_path, place):
    root = tmp_path / "videos"
    touch(root, f"{place}-abc_d_000007_000017.mp4")
    listing = write_csv(tmp_path / "k.csv", KINETICS, ["ski jumping", "-abc_d", "7", "17", "train", "0"])
    (video,) = list_videos(listing, root=root)
    assert video.path == root / f"{place}-abc_d_000007_000017.mp4"
    assert brief([video]) == [(f"{place}-abc_d_000007_000017.mp4", "train", {"label": "ski jumping"})]


def test_kinetics_csv_prefers_mp4_and_keeps_absent_files(tmp_path):
    touch(tmp_path, "a_000000_000010.webm", "deep/er/a_000000_000010.mp4")
    listing = write_csv(
        tmp_path / "k.csv", KINETICS[:5], ["golf", "a", "0", "10", "validate"], ["golf", "gone", "3.0", "13.0", "test"]
    )
    videos = list_videos(listing)
    assert [(video.name, video.split) for video in videos] == [
        ("deep/er/a_000000_000010.mp4", "val"),
        ("gone_000003_000013.mp4", "test"),
    ]
    assert not videos[1].path.exists()


def test_kinetics_test_list_without_labels(tmp_path):
    listing = write_csv(tmp_path / "k.csv", KINETICS[1:5], ["a", "0", "10", "test"])
    assert brief(list_videos(listing)) == [("a_000000_000010.mp4", "test", {})]


def test_kinetics_folder_of_lists(tmp_path):
    """As the official archive has them; the test list of earlier releases has neither labels nor splits."""
    videos, lists = tmp_path / "videos", tmp_path / "annotations"
    touch(videos, "train/golf/a_000000_000010.mp4", "val/b_000003_000013.mp4", "test/c_000000_000010.mp4")
    lists.mkdir()
    write_csv(lists / "train.csv", KINETICS, ["golf", "a", "0", "10", "train", "0"])
    write_csv(lists / "validate.csv", KINETICS, ["archery", "b", "3", "13", "validate", "0"])
    write_csv(lists / "test.csv", KINETICS[1:4], ["c", "0", "10"])
    assert brief(list_videos(lists, root=videos)) == [
        ("test/c_000000_000010.mp4", "test", {}),
        ("train/golf/a_000000_000010.mp4", "train", {"label": "golf"}),
        ("val/b_000003_000013.mp4", "val", {"label": "archery"}),
    ]
    write_csv(lists / "test.csv", KINETICS[1:4], ["a", "0", "10"])
    with pytest.raises(VieError, match=r"train/golf/a_000000_000010\.mp4 is listed twice"):
        list_videos(lists, root=videos)


def test_a_folder_of_lists_names_the_one_that_is_not_of_kinetics(tmp_path):
    write_csv(tmp_path / "train.csv", KINETICS, ["golf", "a", "0", "10", "train", "0"])
    write_csv(tmp_path / "val.csv", ["path", "label"], ["a.mp4", "golf"])
    with pytest.raises(VieError, match=r"val\.csv is no list of Kinetics', whose columns are youtube_id.*column path"):
        list_videos(tmp_path)


def test_kinetics_lists_beside_the_videos_leave_a_folder_of_videos(tmp_path):
    touch(tmp_path, "train/golf/a.mp4", "train/archery/b.mp4")
    write_csv(tmp_path / "train.csv", KINETICS, ["golf", "a", "0", "10", "train", "0"])
    assert [video.name for video in list_videos(tmp_path)] == ["train/archery/b.mp4", "train/golf/a.mp4"]


def test_other_lists_do_not_make_a_folder_kinetics(tmp_path):
    touch(tmp_path, "train/golf/a.mp4", "train/archery/b.mp4")
    write_csv(tmp_path / "train.csv", ["path", "label"], ["a.mp4", "golf"])
    (tmp_path / "val.csv").write_bytes(b"\xff\xfe\x00")
    assert [video.labels for video in list_videos(tmp_path)] == [{"label": "archery"}, {"label": "golf"}]


def test_kinetics_csv_with_broken_times_names_the_line(tmp_path):
    listing = write_csv(
        tmp_path / "k.csv", KINETICS[:5], ["golf", "a", "0", "10", "val"], ["golf", "b", "", "10", "val"]
    )
    with pytest.raises(VieError, match="line 3"):
        list_videos(listing)


def test_csv_with_paths(tmp_path):
    listing = write_csv(
        tmp_path / "l.csv",
        ["\ufeffpath", "task", "split", "success"],
        ["v/a.mp4", "door", "train", "1"],
        ["./v/b.mp4", "", "validation", "0"],
    )
    assert brief(list_videos(listing)) == [
        ("v/a.mp4", "train", {"task": "door", "success": "1"}),
        ("v/b.mp4", "val", {"success": "0"}),
    ]
    assert list_videos(listing)[1].path == tmp_path / "v/b.mp4"
    assert list_videos(listing, labels=["success"])[0].labels == {"success": "1"}
    assert list_videos(listing, labels=[])[0].labels == {}


def test_csv_with_another_root_and_absolute_paths(tmp_path):
    root = tmp_path / "elsewhere"
    root.mkdir()
    listing = write_csv(tmp_path / "l.csv", ["path"], ["a.mp4"], [str(root / "b.mp4")])
    videos = list_videos(listing, root=root)
    assert [(video.name, video.path) for video in videos] == [("a.mp4", root / "a.mp4"), ("b.mp4", root / "b.mp4")]


def test_text_list(tmp_path):
    (tmp_path / "l.txt").write_text("x/a b.mp4\n\ny/c.mp4\n")
    assert brief(list_videos(tmp_path / "l.txt")) == [("x/a b.mp4", "train", {}), ("y/c.mp4", "train", {})]


def test_a_wrong_label_column_names_those_there_are(tmp_path):
    listing = write_csv(tmp_path / "l.csv", ["path", "task", "success"], ["a.mp4", "door", "1"])
    with pytest.raises(VieError, match=r"'label'.*task, success"):
        list_videos(listing, labels=["label"])
    touch(tmp_path / "flat", "a.mp4")
    with pytest.raises(VieError, match="label columns are none"):
        list_videos(tmp_path / "flat", labels=["label"])


def test_held_out_videos_are_picked_by_name(tmp_path):
    names = [f"{i:03d}.mp4" for i in range(400)]
    touch(tmp_path, *names)
    split = {video.name: video.split for video in list_videos(tmp_path, val_fraction=0.25)}
    assert 70 < list(split.values()).count("val") < 130
    touch(tmp_path, "one more.mp4")
    later = {video.name: video.split for video in list_videos(tmp_path, val_fraction=0.25)}
    assert {name: later[name] for name in names} == split


def test_held_out_videos_come_only_from_those_without_a_split(tmp_path):
    listing = write_csv(
        tmp_path / "l.csv", ["path", "split"], *([f"{i}.mp4", "train"] for i in range(50)), ["x.mp4", ""]
    )
    splits = [video.split for video in list_videos(listing, val_fraction=0.999)]
    assert splits == ["train"] * 50 + ["val"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "nowhere", "no such file or folder"),
        (lambda p: p, "no video in it"),
        (lambda p: write_csv(p / "l.csv", ["path"]), "no video in it"),
        (lambda p: write_csv(p / "l.csv", ["file", "class"], ["a.mp4", "b"]), r"no column `path` .*file, class"),
        (lambda p: write_csv(p / "l.csv", ["path"], ["a.mp4"], ["./a.mp4"]), r"a\.mp4 is listed twice"),
        (lambda p: write_csv(p / "l.csv", ["path", "task"], ["", "door"]), "line 2 has no path"),
        (lambda p: write_csv(p / "l.json", ["path"], ["a.mp4"]), "not a listing"),
    ],
    ids=["missing", "empty folder", "empty csv", "no path column", "twice", "no path", "unknown kind"],
)
def test_bad_sources_say_what_is_wrong(tmp_path, make, message):
    source = make(tmp_path)
    with pytest.raises(VieError, match=message) as caught:
        list_videos(source)
    assert str(source) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["l.csv", "l.txt"])
def test_a_listing_that_cannot_be_read_is_named(tmp_path, name):
    (tmp_path / name).write_bytes("path\ngrün.mp4\n".encode("latin-1"))
    with pytest.raises(VieError, match=rf"{name}: not UTF-8 .*byte 7") as caught:
        list_videos(tmp_path / name)
    assert "\n" not in str(caught.value)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/proc/self/mem")  # its first page cannot be read, not even by root
    with pytest.raises(VieError, match=rf"{name}: cannot be read") as caught:
        list_videos(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_file_name_that_is_not_utf8_is_named(tmp_path):
    touch(tmp_path, "a.mp4", os.fsdecode(b"b\xff.mp4"))
    with pytest.raises(VieError, match=r"b\\udcff\.mp4.*not UTF-8") as caught:
        list_videos(tmp_path)
    str(caught.value).encode()


def test_links_are_followed_but_not_in_circles(tmp_path):
    touch(tmp_path, "corpus/golf/a.mp4", "elsewhere/b.mp4")
    (tmp_path / "corpus/ski").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "corpus/golf/up").symlink_to(tmp_path / "corpus")
    (tmp_path / "elsewhere/self").symlink_to(tmp_path / "elsewhere")
    assert [video.name for video in list_videos(tmp_path / "corpus")] == ["golf/a.mp4", "ski/b.mp4"]


@pytest.fixture
def partly_locked():
    """A folder with another in it that must not be listed, not even where the tests run as root."""
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        os.mkdir(os.path.join(folder, "locked"), 0)
        if user == 0:
            os.seteuid(65534)
        yield Path(folder)
        os.seteuid(user)


@pytest.mark.parametrize("place", ["locked", "."])
def test_a_locked_folder_is_named(partly_locked, place):
    with pytest.raises(VieError, match=r"/locked: cannot be read \(Permission denied\): check its permissions"):
        list_videos(partly_locked / place)


def test_a_missing_root_is_named(tmp_path):
    listing = write_csv(tmp_path / "l.csv", ["path"], ["a.mp4"])
    with pytest.raises(VieError, match="no such folder"):
        list_videos(listing, root=tmp_path / "gone")


def test_csv_with_several_ways_to_split(tmp_path):
    listing = tmp_path / "videos.csv"
    listing.write_text(
        "path,split,letter,split.talkers1,split.talkers2\na.mp4,train,A,validation,train\nb.mp4,val,B,train,\n"
    )
    first, second = list_videos(listing)
    assert (first.split, first.splits, first.labels) == (
        "train",
        {"talkers1": "val", "talkers2": "train"},
        {"letter": "A"},
    )
    assert second.splits == {"talkers1": "train"}
