"""Pooling over one axis after another is ``nn.MaxPool3d``."""

import pytest
import torch
from torch import nn

from tests.conftest import NEEDS_GPU
from vie.models.pool import MaxPoolClip, pool_by_axes

CUBE, SQUARE = nn.MaxPool3d(3, 2, 1), nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))


@pytest.mark.parametrize("frames", [1, 2, 4, 5, 8])
@pytest.mark.parametrize("side", [1, 7, 8])
@pytest.mark.parametrize(("over_time", "plain"), [(True, CUBE), (False, SQUARE)])
def test_it_is_the_plain_pooling(over_time, plain, side, frames):
    clip = torch.randn(2, 5, frames, side, side + 1, dtype=torch.float64, requires_grad=True)
    same = clip.detach().clone().requires_grad_()
    pooled, expected = pool_by_axes(clip, over_time), plain(same)
    assert torch.equal(pooled, expected)
    weight = torch.randn_like(pooled)
    (pooled * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(clip.grad, same.grad)
    assert torch.equal(MaxPoolClip(over_time)(clip), expected)


def test_equal_numbers_share_the_gradient():
    clip = torch.zeros(1, 1, 4, 4, 4, requires_grad=True)
    pooled = pool_by_axes(clip, True)
    pooled.sum().backward()
    assert clip.grad.sum() == pooled.numel()
    assert (clip.grad >= 0).all()


@pytest.mark.parametrize("over_time", [True, False])
def test_channels_stay_last(over_time):
    clip = torch.randn(2, 8, 4, 10, 12).contiguous(memory_format=torch.channels_last_3d)
    assert pool_by_axes(clip, over_time).is_contiguous(memory_format=torch.channels_last_3d)


@NEEDS_GPU
@pytest.mark.parametrize("over_time", [True, False])
def test_on_a_gpu_it_is_what_it_is_on_the_cpu(over_time):
    layer, clip = MaxPoolClip(over_time), torch.randn(2, 8, 6, 10, 12)
    expected = layer(clip)
    for one in (layer.cuda(), torch.compile(layer.cuda())):
        assert torch.equal(one(clip.cuda()).cpu(), expected)
