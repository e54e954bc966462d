import torch
import torch.nn.functional as F
from torch import Tensor

from vie import create_model

WIDTH = 16


def model():
    torch.manual_seed(0)
    network = create_model("vie_slowfast_r18", width=WIDTH, embed_dim=8).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network


def clip(frames: int = 8) -> Tensor:
    return torch.randn(2, 3, frames, 40, 40, generator=torch.Generator().manual_seed(0))


def test_laterals():
    """Five by the paper's figure: time stride alpha, kernel 5x1x1, twice the fast channels, neither bias nor norm."""
    laterals = [module for name, module in model().named_modules() if name.startswith("laterals.")]
    assert [(lateral.in_channels, lateral.out_channels) for lateral in laterals] == [
        (2, 4),
        (2, 4),
        (4, 8),
        (8, 16),
        (16, 32),
    ]
    assert {(lateral.kernel_size, lateral.stride, lateral.padding) for lateral in laterals} == {
        ((5, 1, 1), (4, 1, 1), (2, 0, 0))
    }
    assert all(lateral.bias is None for lateral in laterals)


def test_full_widths():
    """80 / 80 / 160 / 320 / 640 channels in the slow pathway, and 640 + 64 into the head."""
    network = create_model("vie_slowfast_r18")
    norms = [network.slow.stages[stage][0].norm1.num_features for stage in range(4)]
    assert [*norms, network.slow.norm.num_features] == [80, 80, 160, 320, 640]
    assert network.fast.norm.num_features == 64
    assert network.head.in_features == network.num_features == 704


def test_pathways_are_joined_before_every_stage():
    """Against the order of the specification, written out."""
    network, frames = model(), clip()

    def joined(number: int, slow: Tensor, fast: Tensor) -> Tensor:
        weight = network.laterals[number].weight
        return torch.cat([slow, F.conv3d(fast, weight, stride=(4, 1, 1), padding=(2, 0, 0))], dim=1)

    with torch.no_grad():
        taps = network.forward_features(frames)
        slow, fast = network.slow.begin(frames[:, :, [0, 4]]), network.fast.begin(frames)
        for number in range(4):
            entry = joined(number, slow, fast)
            activated = F.relu(network.slow.stages[number][0].norm1(entry))
            torch.testing.assert_close(taps[f"conv{number + 1}"], activated)
            slow, _ = network.slow.stage(number, entry)
            fast, _ = network.fast.stage(number, fast)
        torch.testing.assert_close(taps["conv5"], F.relu(network.slow.norm(joined(4, slow, fast))))
        torch.testing.assert_close(taps["fast5"], F.relu(network.fast.norm(fast)))
        pooled = network.pooled(frames)
    expected = torch.cat([taps["conv5"].mean(dim=(2, 3, 4)), taps["fast5"].mean(dim=(2, 3, 4))], dim=1)
    torch.testing.assert_close(pooled, expected)


def test_any_number_of_frames():
    with torch.no_grad():
        for frames in (1, 3, 6, 16):
            assert model()(clip(frames)).shape == (2, 8)


def test_the_slow_pathway_sees_frames_between_its_own():
    """Through the laterals alone: a change in frame 2 reaches the slow pathway, which is given frames 0 and 4."""
    network, frames = model(), clip()
    changed = frames.clone()
    changed[:, :, 2] += 1
    with torch.no_grad():
        assert not torch.allclose(network.forward_features(frames)["conv1"], network.forward_features(changed)["conv1"])
        for lateral in network.laterals:
            lateral.weight.zero_()
        torch.testing.assert_close(
            network.forward_features(frames)["conv5"], network.forward_features(changed)["conv5"]
        )
