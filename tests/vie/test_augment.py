from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from pretrain.data.readers import DeviceReader, ShardReader
from vie import VieError
from vie.video import Augmentation, Draw, Sampling, Shards, augment, clip_frames, draw
from vie.video.apply import compiled_apply_draw
from vie.video.augment import uniforms
from vie.video.pixels import MEAN, STD, centre_boxes, crop_resize, normalise

VIE = Augmentation()


def drawn_for(
    size: int,
    count: int,
    height: int = 120,
    width: int = 160,
    seed: int = 0,
    epoch: int = 0,
    view: int = 0,
    **strengths,
):
    return draw(
        Augmentation(**strengths),
        size,
        np.full(count, height),
        np.full(count, width),
        seed=seed,
        epoch=epoch,
        instances=np.arange(count),
        binned_frames=4,
        view=view,
    )


def assert_equal(one: Draw, other: Draw) -> None:
    for field in fields(Draw):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))


def resized_sides(drawn: Draw, size: int, height: int, width: int) -> np.ndarray:
    """Height and width (B, 2) of the resized pictures that the boxes are squares of."""
    return size * np.array([height, width]) / drawn.boxes[:, 2:].astype(np.float64)


class TestDraw:
    def test_depends_on_seed_epoch_and_instance_alone(self):
        height, width = np.array([100, 120, 90, 200, 64]), np.array([130, 120, 200, 90, 80])
        instances = np.array([17, 3, 100_000, 0, 5])

        def part(order: list[int]) -> Draw:
            return draw(VIE, 56, height[order], width[order], seed=7, epoch=4, instances=instances[order])

        whole = part([0, 1, 2, 3, 4])
        assert_equal(whole, part([0, 1, 2, 3, 4]))
        for order in ([4, 2, 0, 1, 3], [2], [3, 1], [1, 1, 0]):
            assert_equal(part(order), whole.take(np.array(order)))

    def test_the_first_view_is_drawn_from_the_instances_own_stream(self):
        """As before there were views: runs are continued with the draws that they began with."""
        for instance in (0, 3, 239_887):
            bits = np.random.Philox(key=[7, 4], counter=[0, 0, 0, instance])
            wanted = np.random.Generator(bits).random(16)
            np.testing.assert_array_equal(uniforms(7, 4, np.array([instance]), 16)[0], wanted)

    def test_views_share_no_number_with_one_another_or_with_the_data_order(self):
        views = [uniforms(7, 4, np.arange(40), 16, view) for view in range(3)]
        order = np.random.Generator(np.random.Philox(key=[7, 4], counter=[0, 0, 1, 0])).random(2000)
        numbers = np.concatenate([*(view.ravel() for view in views), order])
        assert len(np.unique(numbers)) == len(numbers)
        assert np.abs(np.corrcoef([view.ravel() for view in views]) - np.eye(3)).max() < 0.15

    def test_views_of_one_batch(self):
        instances = np.array([5, 5, 2, 5])
        view = np.array([0, 1, 1, 2])
        together = uniforms(0, 0, instances, 14, view)
        for place in range(4):
            alone = uniforms(0, 0, instances[place : place + 1], 14, int(view[place]))
            np.testing.assert_array_equal(together[place], alone[0])

    @pytest.mark.parametrize("change", [{"seed": 1}, {"epoch": 1}, {"view": 1}])
    def test_seeds_and_epochs_differ(self, change):
        one, other = drawn_for(56, 200), drawn_for(56, 200, **change)
        for field in fields(Draw):
            same = np.mean(
                np.all(np.reshape(getattr(one, field.name) == getattr(other, field.name), (200, -1)), axis=1)
            )
            assert same < 0.75, field.name
        assert (one.position == other.position).sum() == 0

    def test_global_generators_are_left_alone(self):
        np.random.seed(0)
        expected = np.random.random()
        np.random.seed(0)
        state = torch.get_rng_state()
        drawn_for(56, 10)
        assert np.random.random() == expected
        assert torch.equal(torch.get_rng_state(), state)

    @pytest.mark.parametrize(("size", "least", "most"), [(224, 256, 319), (112, 128, 159)])
    def test_short_sides_are_vies(self, size, least, most):
        sides = resized_sides(drawn_for(size, 5000, 240, 320), size, 240, 320)
        short = np.rint(sides[:, 0]).astype(int)
        np.testing.assert_allclose(sides[:, 0], short, atol=1e-3)
        values, counts = np.unique(short, return_counts=True)
        np.testing.assert_array_equal(values, np.arange(least, most + 1))
        assert counts.max() < 2 * len(short) / len(values)

    @pytest.mark.parametrize(("height", "width"), [(240, 320), (320, 240), (100, 100), (90, 301)])
    def test_boxes_lie_inside_at_whole_pixels_of_the_resized_picture(self, height, width):
        size = 112
        drawn = drawn_for(size, 3000, height, width)
        assert drawn.boxes.shape == (3000, 4)
        assert drawn.boxes.dtype == np.float32
        sides = np.rint(resized_sides(drawn, size, height, width))
        scale = sides / np.array([height, width])
        np.testing.assert_allclose(scale[:, 0], scale[:, 1], rtol=0.5 / 128)  # the picture keeps its proportions
        corner = drawn.boxes[:, :2] * scale
        np.testing.assert_allclose(corner, np.rint(corner), atol=2e-3)
        room = sides - size
        assert (corner > -1e-3).all()
        assert (corner < room + 1e-3).all()
        # Uniform over all whole corners: in the first and in the last place as often as elsewhere.
        for axis in (0, 1):
            place = np.rint(corner[:, axis]) / (room[:, axis] + 1)
            assert abs(place.mean() - 0.5 + 0.5 / (room[:, axis].mean() + 1)) < 0.03
        assert (np.rint(corner) == room).any()
        assert (np.rint(corner) == 0).any()

    def test_ranges_and_rates(self):
        count = 6000
        drawn = drawn_for(112, count)
        assert drawn.position.min() >= 0
        assert drawn.position.max() < 1
        assert abs(drawn.position.mean() - 0.5) < 0.02
        for number, (centre, spread) in enumerate([(1, 0.4), (1, 0.4), (1, 0.4), (0, 0.4)]):
            factor = drawn.factors[:, number]
            assert centre - spread <= factor.min() < centre - 0.98 * spread
            assert centre + 0.98 * spread < factor.max() <= centre + spread + 1e-6
            assert abs(factor.mean() - centre) < 0.02
            assert factor.std() == pytest.approx(spread / np.sqrt(3), rel=0.05)
        assert drawn.flip.mean() == pytest.approx(0.5, abs=0.03)
        assert drawn.grey.mean() == pytest.approx(0.3, abs=0.03)
        orders, counts = np.unique(drawn.order, axis=0, return_counts=True)
        assert len(orders) == 24
        assert counts.min() > count / 24 * 0.7
        assert (np.sort(orders, axis=1) == np.arange(4)).all()
        table = np.column_stack([drawn.position, drawn.boxes, drawn.flip, drawn.grey, drawn.factors])
        correlation = np.corrcoef(table[:, [0, 1, 2, 3, 5, 6, 7, 8, 9, 10]].T) - np.eye(10)
        correlation[1:4, 1:4] = 0  # where a square can lie depends on its side
        assert np.abs(correlation).max() < 0.06

    def test_strengths(self):
        drawn = drawn_for(
            32, 500, short_side=(1.0, 1.0), brightness=0, contrast=0.1, saturation=0, hue=0.5, grey=1.0, flip=0.0
        )
        sides = resized_sides(drawn, 32, 120, 160)
        np.testing.assert_allclose(sides[:, 0], 32, atol=1e-3)
        np.testing.assert_allclose(drawn.boxes[:, 0], 0)
        assert (drawn.factors[:, [0, 2]] == 1).all()
        assert 0.08 < np.abs(drawn.factors[:, 1] - 1).max() <= 0.1001
        assert 0.4 < np.abs(drawn.factors[:, 3]).max() <= 0.5
        assert drawn.grey.all()
        assert not drawn.flip.any()


def pictures(batch: int, frames: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Colourful uint8 pictures (B, T, H, W, 3) with edges, flat and saturated parts."""
    generator = torch.Generator().manual_seed(seed)
    rough = torch.randint(0, 256, (batch * frames, 3, 6, 6), generator=generator).float()
    smooth = tv.resize(rough, [height, width], antialias=False).round()
    smooth[..., : height // 4, : width // 4] = 255
    smooth[..., -height // 4 :, -width // 4 :] = 0
    smooth[:, 1:, : height // 4, -width // 4 :] = 0  # pure red
    return smooth.to(torch.uint8).unflatten(0, (batch, frames)).permute(0, 1, 3, 4, 2).contiguous()


def by_torchvision(frames: Tensor, drawn: Draw, number: int, size: int) -> Tensor:
    """One clip (T, H, W, 3), one frame after another: (3, T, size, size) in [0, 1]."""
    height, width = frames.shape[1:3]
    top, left, down, across = drawn.boxes[number].astype(np.float64)
    resized = [round(size * height / down), round(size * width / across)]
    corner = round(top * resized[0] / height), round(left * resized[1] / width)
    operations = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)
    result = []
    for picture in frames.permute(0, 3, 1, 2).float() / 255:
        image = tv.crop(tv.resize(picture, resized, antialias=False), *corner, size, size)
        for operation in drawn.order[number]:
            image = operations[operation](image, float(drawn.factors[number, operation]))
        if drawn.grey[number]:
            image = tv.rgb_to_grayscale(image, num_output_channels=3)
        result.append(tv.horizontal_flip(image) if drawn.flip[number] else image)
    return torch.stack(result, dim=1)


@pytest.mark.parametrize(("height", "width", "size"), [(60, 80, 32), (41, 33, 32), (24, 28, 40)])
def test_augment_equals_torchvision(device, height, width, size):
    frames = pictures(24, 3, height, width)
    drawn = drawn_for(size, 24, height, width)
    result = augment(frames.to(device), drawn, size).cpu()
    assert result.shape == (24, 3, 3, size, size)
    assert result.dtype == torch.float32
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (MEAN, STD))
    for number in range(24):
        expected = by_torchvision(frames[number], drawn, number, size)
        # torchvision weighs red by 0.2989 where the standard, and this library, have 0.299.
        torch.testing.assert_close(result[number] * std + mean, expected, atol=4e-4, rtol=0)
        torch.testing.assert_close(result[number], (expected - mean) / std, atol=2e-3, rtol=0)


@pytest.mark.parametrize("operation", range(4))
@pytest.mark.parametrize("strength", [0.0, 0.55, 1.0])
def test_each_jitter_equals_torchvision(operation, strength):
    """Alone, at its ends, with torchvision's operation as the judge."""
    frames = pictures(4, 2, 40, 40)
    plain = drawn_for(32, 4, 40, 40, brightness=0, contrast=0, saturation=0, hue=0, grey=0, flip=0)
    for sign in (-1, 1):
        factors = plain.factors.copy()
        factors[:, operation] = sign * strength / 2 if operation == 3 else 1 + sign * strength
        drawn = replace(plain, factors=factors)
        result = augment(frames, drawn, 32)
        for number in range(4):
            expected = normalise(by_torchvision(frames[number], drawn, number, 32)[None])[0]
            torch.testing.assert_close(result[number], expected, atol=1e-3, rtol=0)


def test_all_frames_of_a_clip_are_treated_alike():
    still = pictures(16, 1, 50, 60).expand(-1, 5, -1, -1, -1)
    clip = augment(still, drawn_for(32, 16, 50, 60), 32)
    torch.testing.assert_close(clip, clip[:, :, :1].expand_as(clip), atol=1e-6, rtol=0)


def test_clips_do_not_depend_on_their_batch():
    frames, drawn = pictures(12, 2, 50, 60), drawn_for(32, 12, 50, 60)
    together = augment(frames, drawn, 32)
    order = np.array([7, 2, 11])
    torch.testing.assert_close(augment(frames[order], drawn.take(order), 32), together[order], atol=1e-6, rtol=0)


def test_the_compiled_augmentation_is_the_plain_one(device):
    """In batches of two sizes, the second without some of the turns; on the CPU traced whole, but not compiled."""
    apply = compiled_apply_draw("eager", True) if device.type == "cpu" else compiled_apply_draw()
    for count in (12, 2):
        frames, drawn = pictures(count, 3, 50, 60).to(device), drawn_for(32, count, 50, 60)
        found = augment(frames, drawn, 32, apply=apply)
        torch.testing.assert_close(found, augment(frames, drawn, 32), atol=2e-3, rtol=0)


def test_augment_leaves_its_input_alone():
    frames = pictures(4, 2, 40, 40)
    before = frames.clone()
    augment(frames, drawn_for(32, 4, 40, 40), 32)
    assert torch.equal(frames, before)


@pytest.mark.parametrize(("height", "width"), [(60, 80), (80, 60), (33, 33)])
def test_test_crop_is_the_middle_of_the_resized_picture(height, width):
    frames = pictures(3, 2, height, width)
    boxes = centre_boxes(np.full(3, height), np.full(3, width), Sampling(1, 1, None, 28))
    result = crop_resize(frames, torch.from_numpy(boxes), 28)
    long = round(32 * max(height, width) / min(height, width))
    resized = [32, long] if height <= width else [long, 32]
    images = tv.resize(frames.flatten(0, 1).permute(0, 3, 1, 2).float() / 255, resized, antialias=False)
    top, left = ((side - 28) // 2 for side in resized)
    expected = tv.crop(images, top, left, 28, 28).unflatten(0, (3, 2)).transpose(1, 2)
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)


def test_normalise():
    clip = torch.tensor(MEAN).view(1, 3, 1, 1, 1).expand(2, 3, 4, 5, 5)
    torch.testing.assert_close(normalise(clip), torch.zeros(2, 3, 4, 5, 5))
    torch.testing.assert_close(normalise(clip + torch.tensor(STD).view(3, 1, 1, 1)), torch.ones(2, 3, 4, 5, 5))


def test_pixels_are_normalised_by_the_streams_own_statistics():
    frames, drawn = pictures(4, 2, 40, 40), drawn_for(32, 4, 40, 40)
    plain = augment(frames, drawn, 32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    assert plain.min() >= 0
    assert plain.max() <= 1
    assert torch.equal(augment(frames, drawn, 32), normalise(plain))
    own = {"mean": (0.5, 0.4, 0.3), "std": (0.1, 0.2, 0.4)}
    expected = (plain.double() - torch.tensor(own["mean"]).view(3, 1, 1, 1)) / torch.tensor(own["std"]).view(3, 1, 1, 1)
    torch.testing.assert_close(augment(frames, drawn, 32, **own), expected.float())


class TestReaders:
    """What the reader leaves away makes no difference."""

    def read(self, reader: ShardReader | DeviceReader, shards: Shards, size: int) -> Tensor:
        videos = np.arange(len(shards))
        drawn = draw(VIE, size, shards.height[videos], shards.width[videos], seed=3, epoch=2, instances=videos)
        sampling = Sampling(frames=4, stride=2, fps=25.0, size=size)
        frames = clip_frames(sampling, shards.num_frames[videos], shards.fps[videos], drawn.position)
        pixels = reader.read(videos, frames, drawn.boxes)
        np.testing.assert_array_equal(pixels.kept, videos)
        assert not pixels.failures
        return augment(pixels.frames, drawn, size, pixels.boxes)

    @pytest.mark.parametrize("size", [16, 20, 48])
    def test_shards_equal_the_device(self, tiny_corpus: Path, size: int):
        shards = Shards(tiny_corpus)
        cropped = self.read(ShardReader(shards), shards, size)
        whole = self.read(DeviceReader(shards, np.arange(len(shards)), torch.device("cpu")), shards, size)
        torch.testing.assert_close(cropped, whole, atol=1e-4, rtol=0)
        assert whole.std() > 0.3

    @pytest.mark.parametrize("size", [12, 20, 48])
    def test_mixed_sizes_equal_whole_pictures(self, mixed_corpus: Path, size: int):
        shards = Shards(mixed_corpus)
        assert len({(h, w) for h, w in zip(shards.height.tolist(), shards.width.tolist(), strict=True)}) > 10
        padded = self.read(ShardReader(shards), shards, size)
        sampling = Sampling(frames=4, stride=2, fps=25.0, size=size)
        for video in range(len(shards)):
            one = np.array([video])
            drawn = draw(VIE, size, shards.height[one], shards.width[one], seed=3, epoch=2, instances=one)
            frames = clip_frames(sampling, shards.num_frames[one], shards.fps[one], drawn.position)
            whole = augment(shards.read(video, frames[0])[None], drawn, size)
            torch.testing.assert_close(padded[video], whole[0], atol=1e-4, rtol=0)

    def test_device_refuses_mixed_sizes(self, mixed_corpus: Path):
        shards = Shards(mixed_corpus)
        with pytest.raises(VieError, match=r"data\.cache=none"):
            DeviceReader(shards, np.arange(len(shards)), torch.device("cpu"))
