import csv
import io
import shutil
import subprocess
import sys
import zipfile
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.corpora.motions import MOTIONS
from pretrain.corpora.moving_objects import (
    FPS,
    background_views,
    draw_backgrounds,
    draw_scenes,
    object_chunks,
    render_objects,
    write_moving_objects,
)
from pretrain.corpora.pictures import Picture, Pictures
from pretrain.preparation.inputs import list_videos
from tests.conftest import NEEDS_GPU
from vie.errors import VieError
from vie.video.shards import Shards
from vie.video.source import open_video

CLASSES = ("apple", "boat", "cat")
SMALL = {"size": 32, "frames": 6, "backgrounds": 4}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """24 training and 8 test pictures of each class, in one colour for each class, of several sizes."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 8)):
        for number, label in enumerate(CLASSES):
            (folder / split / label).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 60, size=(20 + i, 30, 3), dtype=np.uint8)
                pixels[..., number] += 190
                Image.fromarray(pixels).save(folder / split / label / f"{i:03d}.png")
    return folder


def many(count):
    """Pictures that are never opened."""
    return [Picture(f"{i}.png", CLASSES[i % 3], "train" if i % 4 else "val") for i in range(count)]


def distance(a, b):
    return float((a.float() - b.float()).abs().mean())


def test_prepared_corpus_holds_every_picture_once(pictures, tmp_path):
    write_moving_objects(tmp_path / "out", pictures, prepared=True, **SMALL)
    shards = Shards(tmp_path / "out")
    assert shards.label_columns == ["object", "motion"]
    assert Counter(shards.splits.tolist()) == {"train": 72, "val": 24}
    assert shards.classes("object") == list(CLASSES)
    assert set(shards.fps) == {FPS}
    cells = Counter(zip(shards.splits.tolist(), shards.labels("object"), shards.labels("motion"), strict=True))
    assert set(cells.values()) == {24 // len(MOTIONS), 8 // len(MOTIONS)}
    with Pictures(pictures) as source:
        rendered = [video for chunk in object_chunks(source, **SMALL) for video in chunk()]
    assert [video.name for video in rendered] == shards.names
    for row in (0, 50, 95):
        stored = shards.read(row, range(6))
        assert stored.shape == rendered[row].frames.shape == (6, 32, 32, 3)
        assert distance(stored, rendered[row].frames) < 0.3 * distance(stored, rendered[row - 1].frames)
        assert rendered[row].labels["motion"] == shards.classes("motion")[shards.labels("motion")[row]]


def test_video_files_show_the_same_and_are_a_source(pictures, tmp_path):
    folder = write_moving_objects(tmp_path / "out", pictures, **SMALL)
    videos = list_videos(folder / "videos.csv")
    with Pictures(pictures) as source:
        rendered = [video for chunk in object_chunks(source, **SMALL) for video in chunk()]
    assert [(v.name, v.labels, v.split) for v in videos] == [(v.name, v.labels, v.split) for v in rendered]
    decoded = open_video(videos[7].path).get_batch(range(6))
    assert distance(decoded, rendered[7].frames) < 0.3 * distance(decoded, rendered[6].frames)
    with (folder / "videos.csv").open(newline="") as file:
        assert next(csv.reader(file)) == ["path", "object", "motion", "split"]


def test_a_zip_gives_the_same_corpus_as_its_folder(pictures, tmp_path):
    archive = shutil.make_archive(str(tmp_path / "pictures"), "zip", pictures)
    for name, source in (("a", pictures), ("b", archive)):
        write_moving_objects(tmp_path / name, source, prepared=True, workers=1 if name == "a" else 3, **SMALL)
    files = [{p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("a", "b")]
    assert files[0] == files[1]
    before = (tmp_path / "a/index.parquet").stat().st_mtime_ns
    write_moving_objects(tmp_path / "a", pictures, prepared=True, **SMALL)
    assert (tmp_path / "a/index.parquet").stat().st_mtime_ns == before
    with pytest.raises(VieError, match=r"'seed': 0.*'seed': 1"):
        write_moving_objects(tmp_path / "a", pictures, prepared=True, **SMALL, seed=1)


def test_other_pictures_of_the_same_names_are_another_corpus(pictures, tmp_path):
    source = shutil.copytree(pictures, tmp_path / "in")
    write_moving_objects(tmp_path / "out", source, prepared=True, **SMALL)
    first = source / "train/apple/000.png"
    first.write_bytes(first.read_bytes()[:-1] + b"x")  # of the same size, too
    with pytest.raises(VieError, match=r"holds moving objects with .*choose another folder"):
        write_moving_objects(tmp_path / "out", source, prepared=True, **SMALL)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_zip_is_named_wherever_the_damage_is(tmp_path, compression):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 60, (8, 8, 3), dtype=np.uint8)).save(buffer, "png")
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name in ("a/é.png", "b/y.png"):
            archive.writestr(name, buffer.getvalue())
    whole = path.read_bytes()
    faults = []
    for place in range(0, len(whole), 4):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        try:
            with Pictures(path) as source:
                for picture in source.pictures:
                    source.read(picture, 8)
        except VieError as error:
            faults.append(str(error))
    assert len(faults) > len(whole) / 8
    assert all(fault.startswith(str(path)) and "\n" not in fault for fault in faults)


@pytest.mark.parametrize("name", ["../a.png", "/a.png", "x/../../a.png", "x\\..\\a.png", "C:/x/a.png"])
def test_a_zip_that_points_out_of_itself_is_refused(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a/b.png", b"")
        archive.writestr(name, b"")
    with pytest.raises(VieError, match="points out of the zip"):
        Pictures(tmp_path / "x.zip")


def test_pictures_without_splits_are_held_out_by_name_and_unlabelled_ones_refused(pictures, tmp_path):
    splits = Counter(picture.split for picture in Pictures(pictures / "train").pictures)
    assert 5 <= splits["val"] <= 25
    assert splits["train"] == 72 - splits["val"]
    with pytest.raises(VieError, match="no labelled pictures"):
        Pictures(pictures / "train/apple")
    shutil.copytree(pictures, tmp_path / "flat")
    shutil.copy(pictures / "train/apple/000.png", tmp_path / "flat/test/x.png")
    with pytest.raises(VieError, match=r"no labelled pictures in it: 'test/x\.png' does not lie as 96 of 97 files do"):
        Pictures(tmp_path / "flat")
    with pytest.raises(VieError, match="neither a folder nor a zip"):
        Pictures(pictures / "train/apple/000.png")
    shutil.copytree(pictures / "train", tmp_path / "in")
    (tmp_path / "in/boat/003.png").write_bytes((tmp_path / "in/boat/003.png").read_bytes()[:900])
    with pytest.raises(VieError, match=r"boat/003\.png: cannot be decoded"):
        write_moving_objects(tmp_path / "out", tmp_path / "in", **SMALL)
    assert not (tmp_path / "out").exists()


def reference(picture, background, moment, size):
    """One frame by the definition, pixel by pixel, in float64: nearest pixel of the picture, no smooth edges."""
    x, y, log_size, angle = (float(number) for number in moment)
    frame = background.copy()
    half = 0.5 * np.exp(log_size)
    for row in range(size):
        for column in range(size):
            dx, dy = (2 * column + 1) / size - 1 - x, (2 * row + 1) / size - 1 - y
            u = (np.cos(angle) * dx + np.sin(angle) * dy) / half
            v = (-np.sin(angle) * dx + np.cos(angle) * dy) / half
            if abs(u) < 1 and abs(v) < 1:
                side = picture.shape[-1]
                frame[:, row, column] = picture[:, int((v + 1) / 2 * side), int((u + 1) / 2 * side)]
    return frame


def test_rendering_follows_its_definition(device):
    rng = np.random.default_rng(0)
    smooth = torch.nn.functional.interpolate(torch.rand(2, 3, 3, 3), size=(16, 16), mode="bilinear")
    backgrounds = draw_backgrounds(2, 32, seed=0)[:, :, :32, :32]
    paths = torch.tensor(rng.uniform(-0.4, 0.4, size=(2, 3, 4)), dtype=torch.float32)
    frames = render_objects(smooth.to(device), backgrounds.to(device), paths.to(device), 32).cpu()
    assert (frames.shape, frames.dtype) == ((2, 3, 32, 32, 3), torch.uint8)
    for video in range(2):
        for moment in range(3):
            expected = reference(
                smooth[video].double().numpy(), backgrounds[video].double().numpy(), paths[video, moment], 32
            )
            off = np.abs(frames[video, moment].permute(2, 0, 1).numpy() - 255 * expected)
            assert np.median(off) < 2
            assert np.mean(off > 20) < 0.1  # the edge of the object


@NEEDS_GPU
def test_a_gpu_renders_what_the_processor_does():
    generator = torch.Generator().manual_seed(0)
    scene = [torch.rand(4, 3, 32, 32, generator=generator), draw_backgrounds(4, 64, 0)[..., :64, :64]]
    scene.append(torch.from_numpy(draw_scenes(many(4), 16, 4, 0).paths))
    here = render_objects(*scene, 64)
    there = render_objects(*(part.cuda() for part in scene), 64).cpu()
    assert (here.int() - there.int()).abs().max() <= 1


def test_edges_have_no_dark_fringe():
    """White on white stays white everywhere, whatever the angle."""
    path = torch.tensor([[[0.1, 0.05, 0.2, 0.5]]])
    assert (render_objects(torch.ones(1, 3, 16, 16), torch.ones(1, 3, 32, 32), path, 32) == 255).all()


def mutual_information(a, b):
    table = np.histogram2d(a, b, bins=(len(set(a)), len(set(b))))[0] / len(a)
    outer = table.sum(1, keepdims=True) * table.sum(0, keepdims=True)
    return float((table[table > 0] * np.log(table[table > 0] / outer[table > 0])).sum())


def test_the_background_is_drawn_independently_of_everything_else():
    pictures = many(12000)
    scenes = draw_scenes(pictures, 4, 16, seed=0)
    label = np.array([CLASSES.index(picture.label) for picture in pictures])
    view = (scenes.background * 16 + scenes.offset @ (4, 1)).astype(int)
    assert np.bincount(view).min() > 15  # every view serves many videos
    for a in (scenes.background, scenes.offset[:, 0], scenes.offset[:, 1]):
        for b in (label, scenes.motion):
            cells = (len(set(a)) - 1) * (len(set(b)) - 1)
            # Twice n times the mutual information of independent draws is about chi-squared with that many degrees.
            assert 2 * len(label) * mutual_information(a, b) < cells + 4 * np.sqrt(2 * cells)
    assert mutual_information(label, label) > 1  # the measure sees dependence where there is some


def nearest_accuracy(pixels, labels):
    """Leave-one-out accuracy of the nearest neighbour."""
    distance = torch.cdist(pixels, pixels).fill_diagonal_(torch.inf)
    return float((labels[distance.argmin(1)] == labels).float().mean())


def test_the_background_tells_neither_object_nor_motion(pictures):
    with Pictures(pictures) as source:
        listed = source.pictures * 12
    scenes = draw_scenes(listed, 4, 4, seed=1)
    fields = draw_backgrounds(4, 32, seed=1)
    views = background_views(fields, scenes.background, scenes.offset, 32)
    gone = torch.tensor([9.0, 0, 0, 0]).expand(len(listed), 1, 4)  # the object is far outside the frame
    pixels = render_objects(torch.zeros(len(listed), 3, 8, 8), views, gone, 32).flatten(1).float()
    # Identical views tie; a trace of noise breaks the tie at random, not by the order of the listing.
    pixels += torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
    truth = {
        "object": torch.tensor([CLASSES.index(picture.label) for picture in listed]),
        "motion": torch.from_numpy(scenes.motion),
        "background": torch.from_numpy(scenes.background),
    }
    count = len(listed)
    assert nearest_accuracy(pixels, truth["background"]) > 0.99
    for name, chance in (("object", 1 / 3), ("motion", 1 / 8)):
        assert abs(nearest_accuracy(pixels, truth[name]) - chance) < 4 * np.sqrt(chance * (1 - chance) / count)


def test_the_object_moves_and_the_background_stands_still():
    scenes = draw_scenes(many(64), 8, 2, seed=0)
    white = torch.ones(64, 3, 16, 16)
    black = torch.zeros(64, 3, 32, 32)
    mask = render_objects(white, black, torch.from_numpy(scenes.paths), 32).float().mean(-1)
    assert (mask[:, 1:] - mask[:, :-1]).abs().amax((1, 2, 3)).min() > 20
    field = torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    frames = render_objects(white, field, torch.from_numpy(scenes.paths), 32)
    outside = mask == 0
    assert outside.float().mean() > 0.3
    still = (255 * field).permute(0, 2, 3, 1)[:, None].expand(frames.shape)
    assert (frames[outside] - still[outside]).abs().max() <= 1


def test_the_command_needs_no_video_packages(pictures, tmp_path):
    code = f"""
import sys
for name in ("av", "decord", "torchcodec", "pebble"):
    sys.modules[name] = None  # importing it fails
from pretrain.cli import main
sys.argv = ["vie-pretrain", "corpus", "moving-objects", {str(tmp_path / "out")!r}, "--pictures", {str(pictures)!r},
            "--size", "16", "--frames", "2", "--backgrounds", "2", "--prepared"]
main()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert len(Shards(tmp_path / "out")) == 96


@pytest.mark.parametrize("wrong", [{"size": 31}, {"frames": 1}, {"backgrounds": 0}, {"seed": -1}, {"workers": 0}])
def test_settings_out_of_range_are_refused(pictures, tmp_path, wrong):
    with pytest.raises(VieError, match="out of range"):
        write_moving_objects(tmp_path / "out", pictures, **wrong)
