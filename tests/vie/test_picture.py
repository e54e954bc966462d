import io

import numpy as np
import pytest
from PIL import Image

from vie.errors import VieError
from vie.video.picture import is_picture, read_picture

PIXELS = np.kron(np.random.default_rng(0).integers(0, 256, (3, 4, 3)), np.ones((8, 8, 1))).astype(np.uint8)


def saved(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    file.seek(0)
    return file


def near(file, pixels, tolerance):
    read = read_picture(file).numpy()
    assert (read.shape, read.dtype) == (pixels.shape, np.uint8)
    return np.abs(read.astype(int) - pixels).mean() <= tolerance


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_come_back_exactly(form):
    assert near(saved(Image.fromarray(PIXELS), form), PIXELS, 0)


def test_webp_and_jpeg_come_back_nearly():
    image = Image.fromarray(PIXELS)
    assert near(saved(image, "WEBP", lossless=True), PIXELS, 0)
    assert near(saved(image, "JPEG", quality=95, subsampling=0), PIXELS, 3)


def test_cmyk_palette_and_grey_become_rgb():
    image = Image.fromarray(PIXELS)
    assert near(saved(image.convert("CMYK"), "JPEG", quality=95, subsampling=0), PIXELS, 4)
    assert near(saved(image.quantize(12), "PNG"), PIXELS, 8)
    grey = PIXELS[..., :1].repeat(3, axis=2)
    assert near(saved(Image.fromarray(PIXELS[..., 0]), "PNG"), grey, 0)
    assert near(saved(Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257), "PNG"), grey, 0)
    assert near(saved(Image.fromarray(PIXELS[..., 0] > 127), "PNG"), (grey > 127) * np.uint8(255), 0)


def test_transparent_parts_are_white_whatever_is_below():
    alpha = np.zeros(PIXELS.shape[:2], dtype=np.uint8)
    alpha[:, 16:] = 255
    expected = np.where(alpha[..., None] == 255, PIXELS, 255).astype(np.uint8)
    assert near(saved(Image.fromarray(np.dstack([PIXELS, alpha])), "PNG"), expected, 0)
    palette = Image.fromarray((PIXELS[..., 0] > 127).astype(np.uint8), mode="P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    expected = np.where(PIXELS[..., :1] > 127, 255, np.array([10, 20, 30])).astype(np.uint8)
    assert near(saved(palette, "PNG", transparency=1), expected, 0)


@pytest.mark.parametrize(("orientation", "turn"), [(1, 0), (6, -1), (3, 2), (8, 1)])
def test_pictures_stand_upright(orientation, turn):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert near(saved(Image.fromarray(PIXELS), "PNG", exif=exif), np.rot90(PIXELS, turn), 0)


def test_bad_pictures_are_named(tmp_path):
    good = saved(Image.fromarray(PIXELS), "JPEG").getvalue()
    for content, cause in (
        (good[:-60], "truncated"),
        (b"no picture", "not a picture"),
        (b"", "not a pict"),
    ):
        (tmp_path / "a.jpg").write_bytes(content)
        with pytest.raises(VieError, match=rf"a\.jpg: cannot be decoded \(.*{cause}") as caught:
            read_picture(tmp_path / "a.jpg")
        assert "\n" not in str(caught.value)
        with pytest.raises(VieError, match=r"^b\.zip: a: cannot be decoded"):
            read_picture(io.BytesIO(content), "b.zip: a")


def test_names_of_pictures():
    assert is_picture("n01440764/n01440764_10026.JPEG")
    assert not is_picture("a.mp4")
