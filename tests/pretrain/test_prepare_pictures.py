"""Preparation of still pictures, which are videos of one frame."""

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2.functional import resize

from pretrain.preparation.inputs import list_videos
from pretrain.preparation.prepare import PrepareConfig, prepare
from vie.video.clips import Sampling, clip_frames
from vie.video.shards import Shards

CONFIG = PrepareConfig(short_side=48, quality=100, workers=2)


def smooth(seed, height, width):
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def test_pictures_are_videos_of_one_frame(tmp_path):
    source = tmp_path / "in"
    sizes = {"train/a/0.JPEG": (120, 90), "train/b/1.png": (60, 96), "val/a/2.bmp": (40, 30), "val/b/3.webp": (64, 64)}
    for seed, (name, size) in enumerate(sizes.items()):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        smooth(seed, *size).save(source / name)
    bad = {"train/a/cut.jpg": "truncated", "train/a/empty.png": "empty", "train/b/text.jpg": "not a picture"}
    (source / "train/a/cut.jpg").write_bytes((source / "train/a/0.JPEG").read_bytes()[:900])
    (source / "train/a/empty.png").touch()
    (source / "train/b/text.jpg").write_text("words")

    report = prepare(list_videos(source), tmp_path / "out", CONFIG, progress=False)
    assert report.prepared == 4
    assert report.failed.keys() == bad.keys()
    assert all(cause in report.failed[name] for name, cause in bad.items())
    shards = Shards(tmp_path / "out")
    assert shards.names == list(sizes)
    assert shards.num_frames.tolist() == [1] * 4
    assert shards.fps.tolist() == [25] * 4
    assert shards.split("val").tolist() == [2, 3]
    assert shards.labels("label").tolist() == [0, 1, 0, 1]
    assert list(zip(shards.height.tolist(), shards.width.tolist(), strict=True)) == [
        (64, 48),
        (48, 77),
        (40, 30),
        (48, 48),
    ]
    for row, name in enumerate(sizes):
        whole = torch.from_numpy(np.asarray(Image.open(source / name).convert("RGB")).copy()).permute(2, 0, 1)
        expected = resize(whole, [int(shards.height[row]), int(shards.width[row])], antialias=True)
        assert (shards.read(row, [0])[0].permute(2, 0, 1).float() - expected).abs().mean() < 3

    again = prepare(list_videos(source), tmp_path / "out", CONFIG, progress=False)
    assert (again.prepared, again.skipped) == (0, 4)


def test_a_clip_of_a_picture_is_the_picture_over_and_over(tmp_path):
    for name in ("a/0.png", "b/1.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True)
        smooth(0, 32, 32).save(tmp_path / "in" / name)
    prepare(list_videos(tmp_path / "in"), tmp_path / "out", CONFIG, progress=False)
    shards = Shards(tmp_path / "out")
    sampling = Sampling(frames=16, stride=4, fps=25.0, size=32)
    (numbers,) = clip_frames(sampling, shards.num_frames[:1], shards.fps[:1], np.array([0.7]))
    clip = shards.read(0, numbers)
    assert clip.shape == (16, 32, 32, 3)
    assert (clip == clip[0]).all()
