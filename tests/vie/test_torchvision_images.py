import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet18

from tests.vie.test_other_trunks import classified, give_weights, shake, size_of
from vie import Sampling, create_model
from vie.models import TAPS

NAME = "torchvision_cifar_r18"


@pytest.fixture
def pictures() -> Tensor:
    return torch.randn(3, 3, 1, 32, 32, generator=torch.Generator().manual_seed(0))


def plain(weights: dict[str, Tensor], images: Tensor) -> list[Tensor]:
    """The taps of the network, from its weights alone: post-activation basic blocks, two in each of four stages."""

    def norm(name: str, x: Tensor) -> Tensor:
        mean, var, scale, shift = (
            weights[f"trunk.{name}.{what}"] for what in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, var, scale, shift)

    def conv(name: str, x: Tensor, stride: int = 1) -> Tensor:
        kernel = weights[f"trunk.{name}.weight"]
        return F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)

    taps = [norm("bn1", conv("conv1", images)).relu()]
    for stage in range(1, 5):
        x = taps[-1]
        for block in range(2):
            at = f"layer{stage}.{block}"
            changes = stage > 1 and block == 0
            stride = 2 if changes else 1
            inner = norm(f"{at}.bn1", conv(f"{at}.conv1", x, stride)).relu()
            inner = norm(f"{at}.bn2", conv(f"{at}.conv2", inner))
            shortcut = norm(f"{at}.downsample.1", conv(f"{at}.downsample.0", x, 2)) if changes else x
            x = (inner + shortcut).relu()
        taps.append(x)
    return taps


def test_it_is_the_network_that_its_weights_describe(pictures):
    model = shake(create_model(NAME, embed_dim=16)).double()
    with torch.no_grad():
        taps = model.forward_features(pictures.double())
        expected = plain(dict(model.state_dict()), pictures[:, :, 0].double())
        unit = F.normalize(F.linear(expected[-1].mean(dim=(2, 3)), model.head.weight, model.head.bias), dim=1)
        torch.testing.assert_close(model(pictures.double()), unit)
    assert tuple(taps) == TAPS
    for tap, wanted in zip(taps.values(), expected, strict=True):
        torch.testing.assert_close(tap[:, :, 0], wanted)
    assert [tuple(tap.shape[1:]) for tap in taps.values()] == [
        (64, 1, 32, 32),
        (64, 1, 32, 32),
        (128, 1, 16, 16),
        (256, 1, 8, 8),
        (512, 1, 4, 4),
    ]


def test_torchvision_agrees(pictures):
    peer = resnet18(num_classes=10)
    imagenet = size_of(peer) - size_of(peer.fc)
    peer.conv1, peer.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    peer, model = shake(peer), create_model(NAME).eval()
    give_weights(peer, model)
    assert size_of(model.trunk) == imagenet - 64 * 3 * (7 * 7 - 3 * 3) == 11_168_832
    assert size_of(model) == size_of(model.trunk) + 512 * 128 + 128
    with torch.no_grad():
        torch.testing.assert_close(model.pooled(pictures), classified(peer, peer.fc, pictures[:, :, 0]))


def test_the_stem_begins_as_the_other_convolutions_do():
    torch.manual_seed(0)
    trunk = create_model(NAME).trunk
    for convolution in (trunk.conv1, trunk.layer1[0].conv1):
        wanted = math.sqrt(2 / (convolution.out_channels * 9))
        assert convolution.weight.std().item() == pytest.approx(wanted, rel=0.05)
        assert convolution.weight.mean().item() == pytest.approx(0, abs=0.1 * wanted)


def test_frames_are_seen_alone(pictures):
    model = shake(create_model(NAME))
    clip = pictures.transpose(0, 2)
    with torch.no_grad():
        torch.testing.assert_close(model.pooled(clip), model.pooled(pictures).mean(dim=0, keepdim=True))


def test_it_wants_whole_pictures():
    assert create_model(NAME).sampling == Sampling(frames=1, stride=1, fps=25.0, size=32, short_side=1.0)
