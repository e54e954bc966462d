"""Files laid out byte for byte like the official binary version, with few records."""

import csv

import numpy as np
import pytest
from PIL import Image

from pretrain.cli import main
from pretrain.corpora.cifar import write_cifar
from pretrain.preparation.inputs import list_videos
from vie.errors import VieError

NAMES = ["airplane", "automobile", "bird"]


def write_records(path, labels, seed):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (len(labels), 32, 32, 3), dtype=np.uint8)
    with path.open("wb") as file:
        for label, picture in zip(labels, pixels, strict=True):
            file.write(bytes(np.atleast_1d(label).tolist()))
            for channel in range(3):
                for row in range(32):
                    file.write(picture[row, :, channel].tobytes())
    return pixels


@pytest.fixture
def cifar10(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    (folder / "batches.meta.txt").write_text("\n".join(NAMES) + "\n\n")
    pixels = [write_records(folder / f"data_batch_{i}.bin", [i % 3, 2], seed=i) for i in range(1, 6)]
    write_records(folder / "test_batch.bin", [1, 0], seed=9)
    return folder, np.concatenate(pixels)


def test_cifar10(cifar10, tmp_path):
    folder, pixels = cifar10
    main(["corpus", "cifar10", str(tmp_path / "out"), "--source", str(folder)])
    videos = list_videos(tmp_path / "out")
    assert {(v.name, v.split, v.labels["label"]) for v in videos} == {
        ("train/automobile/00000.png", "train", "automobile"),
        ("train/bird/00001.png", "train", "bird"),
        ("train/bird/00002.png", "train", "bird"),
        ("train/bird/00003.png", "train", "bird"),
        ("train/airplane/00004.png", "train", "airplane"),
        ("train/bird/00005.png", "train", "bird"),
        ("train/automobile/00006.png", "train", "automobile"),
        ("train/bird/00007.png", "train", "bird"),
        ("train/bird/00008.png", "train", "bird"),
        ("train/bird/00009.png", "train", "bird"),
        ("test/automobile/00000.png", "test", "automobile"),
        ("test/airplane/00001.png", "test", "airplane"),
    }
    for number, name in enumerate(("automobile", "bird", "bird", "bird", "airplane", "bird", "automobile")):
        written = np.asarray(Image.open(tmp_path / f"out/train/{name}/{number:05d}.png"))
        assert np.array_equal(written, pixels[number])
    assert [v.name for v in list_videos(tmp_path / "out/pictures.csv")][:2] == [
        "train/automobile/00000.png",
        "train/bird/00001.png",
    ]


def test_cifar100_has_coarse_classes_too(tmp_path):
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    (folder / "coarse_label_names.txt").write_text("aquatic_mammals\nfish\n")
    (folder / "fine_label_names.txt").write_text("beaver\ndolphin\nray\n")
    pixels = write_records(folder / "train.bin", [(0, 1), (1, 2)], seed=0)
    write_records(folder / "test.bin", [(0, 0)], seed=1)
    listing = write_cifar("cifar100", tmp_path / "out", folder)
    with listing.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["path"], row["label"], row["coarse"], row["split"]) for row in rows] == [
        ("train/dolphin/00000.png", "dolphin", "aquatic_mammals", "train"),
        ("train/ray/00001.png", "ray", "fish", "train"),
        ("test/beaver/00000.png", "beaver", "aquatic_mammals", "test"),
    ]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out/train/ray/00001.png")), pixels[1])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("test_batch.bin", None, "test_batch.bin: cannot be read .*No such file"),
        ("data_batch_3.bin", None, "data_batch_3.bin: cannot be read .*No such file"),
        ("batches.meta.txt", None, "batches.meta.txt: cannot be read"),
        ("test_batch.bin", b"", "0 bytes are not whole records"),
        ("data_batch_2.bin", bytes(3074), "3074 bytes are not whole records of 3073"),
        ("data_batch_2.bin", b"\x03" + bytes(3072), "go beyond the 3 names"),
        ("batches.meta.txt", b"a\n../b\nc\n", "'../b' is no class name"),
    ],
)
def test_a_source_that_does_not_fit_is_refused(cifar10, tmp_path, name, content, message):
    folder, _ = cifar10
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(VieError, match=message):
        write_cifar("cifar10", tmp_path / "out", folder)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "file"), [("cifar10", "data_batch_1"), ("cifar100", "train")])
def test_the_pickles_of_torchvision_are_refused(tmp_path, name, file):
    folder = tmp_path / "batches-py"
    folder.mkdir()
    (folder / file).write_bytes(b"\x80\x02}q\x01.")
    with pytest.raises(VieError, match=r"batches-py holds the pickles of the Python version, .*: give the folder of"):
        write_cifar(name, tmp_path / "out", folder)


def test_a_folder_in_place_of_a_file_is_named(cifar10, tmp_path):
    folder, _ = cifar10
    (folder / "data_batch_2.bin").unlink()
    (folder / "data_batch_2.bin").mkdir()
    with pytest.raises(VieError, match=r"data_batch_2\.bin: cannot be read .*directory"):
        write_cifar("cifar10", tmp_path / "out", folder)


@pytest.mark.parametrize("file", ["data_batch_4.bin", "batches.meta.txt"])
def test_another_source_with_as_many_records_is_not_taken_for_the_same(cifar10, tmp_path, file):
    folder, _ = cifar10
    listing = write_cifar("cifar10", tmp_path / "out", folder)
    before = listing.stat().st_mtime_ns
    assert write_cifar("cifar10", tmp_path / "out", folder).stat().st_mtime_ns == before
    content = bytearray((folder / file).read_bytes())
    content[1] ^= 1
    (folder / file).write_bytes(content)
    with pytest.raises(VieError, match=r"holds cifar10 with .*choose another folder"):
        write_cifar("cifar10", tmp_path / "out", folder)
