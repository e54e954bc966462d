import pytest
import torch
import torch.nn.functional as F

from vie import create_model
from vie.models.stem import StemConv2d, StemConv3d, convolve_pictures, fold

CASES = [
    ((7, 7), (2, 2), (3, 3), (9, 12)),
    ((7, 7), (2, 2), (3, 3), (8, 15)),
    ((3, 5), (1, 3), (0, 2), (6, 10)),
    ((7, 7, 7), (2, 2, 2), (3, 3, 3), (5, 8, 9)),
    ((1, 7, 7), (1, 2, 2), (0, 3, 3), (4, 9, 11)),
    ((5, 7, 7), (1, 2, 2), (2, 3, 3), (4, 12, 12)),
]


@pytest.mark.parametrize(("kernel", "stride", "padding", "size"), CASES, ids=str)
def test_a_folded_convolution_is_the_strided_one(kernel, stride, padding, size):
    torch.manual_seed(0)
    convolve = F.conv2d if len(kernel) == 2 else F.conv3d
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 3, *kernel, dtype=torch.float64, requires_grad=True)
    expected = convolve(x, weight, stride=stride, padding=padding)
    upstream = torch.randn_like(expected)
    gradients = torch.autograd.grad(expected, (x, weight), upstream)
    folded = fold(x, weight, stride, padding)
    for found in (convolve(*folded), convolve_pictures(*folded)):
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(torch.autograd.grad(found, (x, weight), upstream, retain_graph=True), gradients)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dims", [2, 3])
def test_in_half_precision_it_rounds_as_the_plain_one(dims, channels_last):
    device = "cuda"
    torch.manual_seed(0)
    layer = (StemConv2d, StemConv3d)[dims - 2](3, 16, 7, stride=2, padding=3, bias=False, device=device)
    if channels_last:
        layer.to(memory_format=(torch.channels_last, torch.channels_last_3d)[dims - 2])
    x = torch.randn(2, 3, *(16,) * dims, device=device)
    exact = torch.nn.functional.conv2d if dims == 2 else torch.nn.functional.conv3d
    weight = layer.weight.detach().double().requires_grad_()
    expected = exact(x.double(), weight, stride=2, padding=3)
    upstream = torch.randn_like(expected)
    expected.backward(upstream)
    with torch.autocast(device, dtype=torch.bfloat16):
        found = layer(x)
    assert found.dtype == torch.bfloat16
    assert found.is_contiguous(memory_format=(torch.channels_last, torch.channels_last_3d)[dims - 2]) == channels_last
    found.backward(upstream.bfloat16())
    for ours, theirs in ((found, expected), (layer.weight.grad, weight.grad)):
        assert (ours.double() - theirs).abs().max() < 0.01 * theirs.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_the_cpu_it_is_the_plain_one(dtype):
    torch.manual_seed(0)
    layer = StemConv3d(3, 8, (1, 7, 7), stride=(1, 2, 2), padding=(0, 3, 3), bias=False).to(dtype)
    x = torch.randn(1, 3, 4, 16, 16, dtype=dtype)
    assert torch.equal(layer(x), F.conv3d(x, layer.weight, stride=(1, 2, 2), padding=(0, 3, 3)))


def test_its_weights_keep_their_names_and_shapes():
    network = create_model("vie_resnet3d_r18", width=8)
    assert network.get_parameter("trunk.stem.weight").shape == (8, 3, 7, 7, 7)
    assert type(network.trunk.stem) is StemConv3d
