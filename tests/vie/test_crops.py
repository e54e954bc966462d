import numpy as np
import pytest
import torch
from torchvision.transforms import RandomResizedCrop

from vie.video import Augmentation, augment, draw
from vie.video.crops import corner_boxes, resized_boxes

HEIGHT, WIDTH = 96, 128
COUNT = 4000


@pytest.fixture(scope="module")
def source():
    return np.full(COUNT, HEIGHT), np.full(COUNT, WIDTH)


@pytest.fixture(scope="module")
def u():
    return np.random.default_rng(0).random((COUNT, 4))


def test_corner_crops_are_the_25_of_the_protocol(source, u):
    boxes = corner_boxes(*source, u[:, :2])
    sides = sorted({float(side) for side in boxes[:, 2]}, reverse=True)
    assert sides == [96, 80, 67, 57, 48]  # the short side times 2^0 to 2^-1, in quarter octaves
    assert np.array_equal(boxes[:, 2], boxes[:, 3])
    for side in sides:
        top, left = (HEIGHT - side, WIDTH - side)
        places = {(0.0, 0.0), (0.0, left), (top, 0.0), (top, left), (top // 2, left // 2)}
        assert {(float(y), float(x)) for y, x in boxes[boxes[:, 2] == side, :2]} == places
    counts = np.unique(boxes[boxes[:, 2] == 48], axis=0, return_counts=True)[1]
    assert (abs(counts / (COUNT / 25) - 1) < 0.35).all()


def test_resized_crops_follow_torchvision_where_its_draws_fit(u):
    """On a large square picture nearly every draw fits, so both have one distribution of area and aspect."""
    square = np.full(COUNT, 1000)
    boxes = resized_boxes(square, square, u)
    torch.manual_seed(0)
    picture = torch.empty(3, 1000, 1000)
    peers = [RandomResizedCrop.get_params(picture, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(COUNT)]
    peer = np.array([(height, width) for _, _, height, width in peers], dtype=float)
    small = boxes[:, 2] * boxes[:, 3] < 0.7e6  # larger ones are cut here and drawn again there
    small_peer = peer.prod(axis=1) < 0.7e6
    for mine, theirs in (
        (np.log(boxes[small, 3] / boxes[small, 2]), np.log(peer[small_peer, 1] / peer[small_peer, 0])),
        ((boxes[small, 2] * boxes[small, 3]) / 1e6, peer[small_peer].prod(axis=1) / 1e6),
    ):
        quantiles = np.linspace(0.05, 0.95, 7)
        np.testing.assert_allclose(np.quantile(mine, quantiles), np.quantile(theirs, quantiles), atol=0.03)


@pytest.mark.parametrize("crop", ["corner", "resized"])
def test_crops_stay_inside_and_reach_the_network(source, crop):
    augmentation = Augmentation(crop=crop, brightness=0, contrast=0, saturation=0, hue=0, grey=0, flip=0)
    drawn = draw(augmentation, 32, *source, seed=3, epoch=0, instances=np.arange(COUNT))
    assert (drawn.boxes >= 0).all()
    assert (drawn.boxes[:, 0] + drawn.boxes[:, 2] <= HEIGHT).all()
    assert (drawn.boxes[:, 1] + drawn.boxes[:, 3] <= WIDTH).all()
    assert len(np.unique(drawn.boxes, axis=0)) > 20
    # A picture whose red is its height and whose green is its width: the crop's mean colour tells its centre.
    rows = torch.linspace(0, 255, HEIGHT).view(1, 1, HEIGHT, 1, 1).expand(8, 1, HEIGHT, WIDTH, 1)
    columns = torch.linspace(0, 255, WIDTH).view(1, 1, 1, WIDTH, 1).expand(8, 1, HEIGHT, WIDTH, 1)
    frames = torch.cat([rows, columns, torch.zeros_like(rows)], dim=-1).to(torch.uint8)
    few = drawn.take(np.arange(8))
    clip = augment(frames, few, 32)
    assert clip.shape == (8, 3, 1, 32, 32)
    seen = clip[:, :2].mean(dim=(2, 3, 4)) * torch.tensor([0.229, 0.224]) + torch.tensor([0.485, 0.456])
    centre = torch.from_numpy(few.boxes[:, :2] + few.boxes[:, 2:] / 2 - 0.5) / torch.tensor([HEIGHT - 1, WIDTH - 1])
    torch.testing.assert_close(seen.double(), centre.double(), atol=0.01, rtol=0)


def test_the_random_crop_is_the_default():
    sizes = np.array([40, 50]), np.array([60, 40])
    plain, named = (
        draw(augmentation, 32, *sizes, seed=0, epoch=2, instances=np.array([5, 9])).boxes
        for augmentation in (Augmentation(), Augmentation(crop="random"))
    )
    assert np.array_equal(plain, named)
