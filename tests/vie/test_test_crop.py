"""The crop that test pictures are shown by, from the sampling to the saved encoder."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from vie import Encoder, Sampling, VieError, create_model, load, save_pretrained
from vie.hub import CARD_NAME
from vie.video.pixels import centre_boxes, normalise, shrink


def pictures(height: int, width: int, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, 1, height, width, 3), dtype=torch.uint8, generator=generator)


def encoder(**sampling: float) -> Encoder:
    torch.manual_seed(0)
    model = create_model("vie_single_r18", width=4, embed_dim=8)
    return Encoder(model, Sampling(frames=1, stride=1, fps=None, size=28, **sampling)).eval()


def saved(folder: Path, **sampling: float) -> Encoder:
    made = encoder(**sampling)
    save_pretrained(made.model, folder, made.sampling)
    return made


def as_clip(images: Tensor) -> Tensor:
    """(B, 3, H, W) in [0, 255] as the network's input."""
    return normalise(images[:, :, None].float() / 255)


@pytest.mark.parametrize(("size", "resized"), [(224, 256), (112, 128), (56, 64), (48, 55), (32, 37), (16, 18)])
def test_the_default_is_vies(size, resized):
    sampling = Sampling(1, 1, None, size)
    assert sampling.short_side == 8 / 7
    assert sampling.resized == resized


@pytest.mark.parametrize("short_side", [0.99, 0.0, -1.0, float("nan")])
def test_a_crop_that_is_larger_than_the_picture_is_refused(short_side):
    with pytest.raises(VieError, match=rf"short_side={short_side} is out of range: give at least 1"):
        Sampling(1, 1, None, 28, short_side=short_side)


def test_one_shows_the_whole_picture():
    frames = pictures(28, 28)
    wanted = as_clip(frames[:, 0].permute(0, 3, 1, 2))
    torch.testing.assert_close(encoder(short_side=1.0).preprocess(frames), wanted, atol=1e-4, rtol=0)
    assert (encoder().preprocess(frames) - wanted).abs().max() > 0.5  # the default enlarges and cuts


@pytest.mark.parametrize(("height", "width"), [(28, 40), (51, 28)])
def test_one_shows_the_largest_square(height, width):
    frames = pictures(height, width)
    images = frames[:, 0].permute(0, 3, 1, 2)
    wanted = as_clip(tv.crop(images, (height - 28) // 2, (width - 28) // 2, 28, 28))
    torch.testing.assert_close(encoder(short_side=1.0).preprocess(frames), wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("short_side", "resized"), [(1.25, 35), (1.5, 42)])
def test_others_are_resized_and_cropped(short_side, resized):
    frames = pictures(34, 34)
    images = tv.resize(frames[:, 0].permute(0, 3, 1, 2).float(), [resized, resized], antialias=False)
    top = (resized - 28) // 2
    wanted = as_clip(tv.crop(images, top, top, 28, 28))
    torch.testing.assert_close(encoder(short_side=short_side).preprocess(frames), wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("short_side", "resized"), [(1.0, 28), (1.5, 42)])
def test_large_pictures_are_shrunk_to_what_the_crop_is_cut_from(short_side, resized):
    frames = pictures(150, 150)
    made = encoder(short_side=short_side)
    small = shrink(frames, resized)
    assert small.shape[2:4] == (resized, resized)
    assert torch.equal(made.preprocess(frames), made.preprocess(small))


def test_boxes_lie_in_the_middle():
    sizes = np.array([32, 64]), np.array([48, 64])
    np.testing.assert_allclose(
        centre_boxes(*sizes, Sampling(1, 1, None, 32, short_side=1.0)), [[0, 8, 32, 32], [0, 0, 64, 64]]
    )
    np.testing.assert_allclose(
        centre_boxes(*sizes, Sampling(1, 1, None, 32, short_side=2.0)), [[8, 16, 16, 16], [16, 16, 32, 32]]
    )


def test_the_crop_is_saved_with_the_weights(tmp_path):
    before = saved(tmp_path, short_side=1.0)
    after, frames = load(tmp_path), pictures(40, 30)
    assert after.sampling == before.sampling
    assert after.card["preprocessing"]["short_side_ratio"] == 1.0
    with torch.no_grad():
        assert torch.equal(after(frames), before(frames))


def test_encoders_saved_before_it_was_a_setting_load_as_they_were(tmp_path):
    before = saved(tmp_path)
    card = json.loads((tmp_path / CARD_NAME).read_text())
    del card["model"]["sampling"]["short_side"]
    (tmp_path / CARD_NAME).write_text(json.dumps(card))
    after, frames = load(tmp_path), pictures(40, 30)
    assert after.sampling == before.sampling
    assert torch.equal(after.preprocess(frames), before.preprocess(frames))


def test_a_card_with_an_impossible_crop_is_refused(tmp_path):
    saved(tmp_path)
    card = json.loads((tmp_path / CARD_NAME).read_text())
    card["model"]["sampling"]["short_side"] = 0.5
    (tmp_path / CARD_NAME).write_text(json.dumps(card))
    with pytest.raises(VieError, match="short_side"):
        load(tmp_path)
