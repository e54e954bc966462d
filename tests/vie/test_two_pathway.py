import pytest
import torch

from vie import Encoder, VieError, create_model, join_streams, load, save_pretrained
from vie.models.single import Single
from vie.models.slow import Slow

PAIRS = {
    "vie_two_pathway_s_r18": ("vie_slow_r18", 512 + 512),
    "vie_two_pathway_sf_r18": ("vie_slowfast_r18", 512 + 640),
    "vie_two_pathway_3d_r18": ("vie_resnet3d_r18", 512 + 512),
}


def finished(name: str, width: int = 4, seed: int = 0):
    torch.manual_seed(seed)
    model = create_model(name, width=width, embed_dim=8).train()
    frames = model.sampling.frames
    for _ in range(3):  # batch norm has seen something
        model(torch.randn(4, 3, frames, 32, 32))
    return model.eval()


@pytest.mark.parametrize("name", PAIRS)
def test_widths_of_the_paper(name):
    """512 + 640 for fine-tuning: the fast pathway's 64 channels are not read out."""
    with torch.device("meta"):
        model = create_model(name)
    assert model.num_features == model.head.in_features == PAIRS[name][1]


@pytest.mark.parametrize("name", PAIRS)
@torch.no_grad()
def test_taps_are_those_of_the_finished_networks_joined(name):
    static, dynamic = finished("vie_single_r18"), finished(PAIRS[name][0], seed=1)
    hybrid = join_streams(static, dynamic).eval()
    assert hybrid.model_name == name
    assert hybrid.sampling == dynamic.sampling
    clip = torch.randn(2, 3, hybrid.sampling.frames, 40, 40)
    taps, still, moving = (stream.forward_features(clip) for stream in (hybrid, static, dynamic))
    assert list(taps) == ["conv1", "conv2", "conv3", "conv4", "conv5"]
    for tap, joined in taps.items():
        expected = torch.cat([still[tap].mean(dim=2), moving[tap].mean(dim=2)], dim=1)
        torch.testing.assert_close(joined.squeeze(2), expected)
    pooled = torch.cat([static.pooled(clip), moving["conv5"].mean(dim=(2, 3, 4))], dim=1)
    torch.testing.assert_close(hybrid.pooled(clip), pooled)


def test_the_finished_networks_are_copied():
    static, dynamic = finished("vie_single_r18"), finished("vie_slow_r18")
    hybrid = join_streams(static, dynamic)
    with torch.no_grad():
        static.trunk.stem.weight.zero_()
    assert hybrid.get_parameter("static.trunk.stem.weight").any()
    assert not [name for name, _ in hybrid.named_parameters() if name.endswith("head.weight") and name != "head.weight"]


def test_joining_is_repeatable_and_draws_nothing_from_the_run():
    static, dynamic = finished("vie_single_r18"), finished("vie_slow_r18")
    before = torch.get_rng_state()
    first = join_streams(static, dynamic).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(7)
    second = join_streams(static, dynamic).state_dict()
    assert list(first) == list(second)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_the_whole_networks_are_in_the_hybrid():
    static, dynamic = finished("vie_single_r18"), finished("vie_slowfast_r18", seed=1)
    hybrid = join_streams(static, dynamic).state_dict()
    parts = {"static": static.state_dict(), "dynamic": dynamic.state_dict()}
    expected = {f"{part}.{name}": w for part, weights in parts.items() for name, w in weights.items()}
    expected = {name: value for name, value in expected.items() if ".head." not in name}
    assert set(hybrid) == {*expected, "head.weight", "head.bias"}
    assert all(torch.equal(hybrid[name], value) for name, value in expected.items())


@torch.no_grad()
def test_the_fast_pathway_on_request():
    static, dynamic = finished("vie_single_r18"), finished("vie_slowfast_r18", seed=1)
    hybrid = join_streams(static, dynamic, fast=True).eval()
    clip = torch.randn(2, 3, 16, 40, 40)
    pooled = torch.cat([static.pooled(clip), dynamic.pooled(clip)], dim=1)
    torch.testing.assert_close(hybrid.pooled(clip), pooled)
    assert hybrid.num_features == hybrid.head.in_features == pooled.shape[1]
    with torch.device("meta"):
        assert create_model("vie_two_pathway_sf_r18", fast=True).num_features == 512 + 640 + 64
        assert create_model("vie_two_pathway_sf_r18", fast=False).num_features == 512 + 640
    with pytest.raises(VieError, match=r"vie_slow_r18 has no fast pathway: leave fast out, or give a vie_slowfast_r18"):
        join_streams(static, finished("vie_slow_r18"), fast=True)


def test_widths_are_the_networks_own():
    """Not those that they were asked for by name."""
    hybrid = join_streams(Single(8, width=4), Slow(8, width=4))
    assert hybrid.model_name == "vie_two_pathway_s_r18"
    assert hybrid.arguments == {"embed_dim": 8, "width": 4}
    with pytest.raises(VieError, match="make no hybrid"):
        join_streams(Single(8, width=4), Slow(8, width=8))


@pytest.mark.parametrize("fast", [False, True])
def test_saved_and_loaded(tmp_path, fast):
    hybrid = join_streams(finished("vie_single_r18"), finished("vie_slowfast_r18"), fast)
    save_pretrained(hybrid, tmp_path, hybrid.sampling)
    frames = torch.randint(0, 256, (1, 16, 40, 40, 3), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(load(tmp_path).pooled(frames), Encoder(hybrid, hybrid.sampling).eval().pooled(frames))


@pytest.mark.parametrize(
    ("static", "dynamic", "width"),
    [
        ("vie_slow_r18", "vie_slow_r18", 4),
        ("vie_single_r18", "vie_fast_r18", 4),
        ("vie_single_r18", "vie_slow_r18", 8),
    ],
)
def test_no_pair(static, dynamic, width):
    with pytest.raises(VieError, match="make no hybrid: give a vie_single_r18, and one of vie_slow_r18"):
        join_streams(create_model(static, width=4), create_model(dynamic, width=width))
