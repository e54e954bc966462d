import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from vie import Encoder, Resize, Sampling, VieError, create_model, load, save_pretrained
from vie.video.resize import VIE_RESIZE, _kept_grid


def smooth(height: int, width: int) -> Tensor:
    """A picture of slow waves and a sharp edge, (H, W, 3) uint8."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    waves = torch.stack([torch.sin(x / 7), torch.cos(y / 5), torch.sin((x + y) / 9)], dim=-1)
    return ((waves * 0.4 + 0.5) * 255 * (1 - 0.5 * (x > width / 2))[..., None]).byte()


def knows_lanczos():
    try:
        torch.nn.functional.interpolate(torch.zeros(1, 1, 8, 8), [4, 4], mode="lanczos", antialias=True)
    except (ValueError, NotImplementedError):
        return False
    return True


LANCZOS = pytest.mark.skipif(not knows_lanczos(), reason="this PyTorch has no lanczos")


def test_without_lanczos_the_cure_is_named(monkeypatch):
    def older(*_, mode, **__):
        raise ValueError(f"Anti-alias option is restricted to bilinear and bicubic modes, not {mode}")

    monkeypatch.setattr("torch.nn.functional.interpolate", older)
    with pytest.raises(VieError, match="cannot resize with lanczos, as these weights want it: install a newer one"):
        Resize("crop", "lanczos")(smooth(40, 50)[None, None], Sampling(1, 1, None, 32))


@pytest.mark.parametrize(("height", "width"), [(96, 128), (131, 90), (40, 50), (64, 64)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", pytest.param("lanczos", marks=LANCZOS)])
def test_it_is_pillows_resize_and_centre_crop(height, width, interpolation):
    picture, sampling = smooth(height, width), Sampling(1, 1, 25.0, 56, short_side=64 / 56)
    pillow = transforms.Resize(64, InterpolationMode(interpolation))
    cropped = transforms.CenterCrop(56)(pillow(Image.fromarray(picture.numpy())))
    ours = Resize("crop", interpolation)(picture[None, None], sampling)[0, :, 0]
    theirs = torch.from_numpy(np.array(cropped)).permute(2, 0, 1) / 255
    assert (ours - theirs).abs().max() <= 2.01 / 255
    assert (ours - theirs).abs().mean() < 0.3 / 255


def test_squashing_keeps_the_whole_picture():
    picture = smooth(90, 140)
    ours = Resize("squash", "bicubic")(picture[None, None], Sampling(1, 1, 25.0, 48, short_side=1.0))[0, :, 0]
    theirs = torch.from_numpy(np.array(Image.fromarray(picture.numpy()).resize((48, 48), Image.Resampling.BICUBIC)))
    assert (ours * 255 - theirs.permute(2, 0, 1)).abs().max() <= 2.01


def test_a_squashed_picture_is_cropped_too():
    wide = torch.zeros(1, 1, 30, 90, 3, dtype=torch.uint8)
    wide[:, :, :, 30:60] = 255  # a third of the picture, whatever its proportions
    square = Resize("squash", "nearest")(wide, Sampling(1, 1, 25.0, 20, short_side=1.5))
    assert square[0, 0, 0, 0].tolist() == [0.0] * 5 + [1.0] * 10 + [0.0] * 5


def test_every_frame_of_every_clip_is_resized_alone():
    clips = torch.stack([torch.stack([smooth(40, 50), smooth(40, 50).flip(1)]), torch.zeros(2, 40, 50, 3).byte()])
    sampling = Sampling(2, 1, 25.0, 24)
    for resize in (Resize(), Resize("crop", "bicubic"), Resize("squash", "nearest")):
        together = resize(clips, sampling)
        assert together.shape == (2, 3, 2, 24, 24)
        assert torch.equal(together[0, :, 1], resize(clips[:1, 1:], sampling)[0, :, 0])


@pytest.mark.parametrize(("mode", "interpolation"), [("stretch", "bilinear"), ("crop", "cubic"), ("vie", "bicubic")])
def test_unknown_ways(mode, interpolation):
    with pytest.raises(VieError, match=r"pictures cannot be resized with .*give one of"):
        Resize(mode, interpolation)


def test_it_is_saved_with_the_weights(tmp_path):
    model = create_model("vie_single_r18", width=4, embed_dim=8).eval()
    model.resize, model.licence = Resize("squash", "bicubic"), "cc-by-4.0"
    sampling = Sampling(1, 1, 25.0, 28)
    save_pretrained(model, tmp_path, sampling)
    loaded = load(tmp_path)
    assert loaded.model.resize == Resize("squash", "bicubic")
    assert loaded.card["licence"] == "cc-by-4.0"
    pixels = smooth(60, 90)[None, None]
    assert torch.equal(loaded.preprocess(pixels), Encoder(model, sampling).preprocess(pixels))
    model.resize = Resize()
    assert not torch.equal(loaded.preprocess(pixels), Encoder(model, sampling).preprocess(pixels))


def test_a_card_with_an_unknown_way(tmp_path):
    model = create_model("vie_single_r18", width=4, embed_dim=8)
    model.resize = Resize("crop", "bicubic")
    save_pretrained(model, tmp_path, Sampling(1, 1, 25.0, 28))
    card = tmp_path / "card.json"
    card.write_text(card.read_text().replace("bicubic", "magic"))
    with pytest.raises(VieError, match="interpolation='magic'"):
        load(tmp_path)


def test_grids_of_many_sizes_are_not_all_kept():
    sampling = Sampling(1, 1, None, 16)
    for width in range(20, 60):
        VIE_RESIZE(torch.zeros(1, 1, 20, width, 3, dtype=torch.uint8), sampling)
    assert _kept_grid.cache_info().currsize == _kept_grid.cache_info().maxsize == 16
