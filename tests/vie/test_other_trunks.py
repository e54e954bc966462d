import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18, video

from pretrain.config import OptimConfig
from pretrain.optim import make_optimizer
from pretrain.runtime import use_channels_last
from vie import Sampling, Stream, VieError, create_model, list_models, load, load_matching, save_pretrained
from vie.models import TAPS

NEEDS = {
    package: pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed")
    for package in ("pytorchvideo", "timm")
}
SMALL = {
    "torchvision_r3d_18": (8, 32),
    "torchvision_mc3_18": (8, 32),
    "torchvision_r2plus1d_18": (8, 32),
    "torchvision_cifar_r18": (2, 16),
    "pytorchvideo_slow_r50": (4, 32),
    "pytorchvideo_slowfast_r50": (8, 32),
    "pytorchvideo_x3d_xs": (3, 48),
    "pytorchvideo_x3d_s": (3, 48),
    "timm_resnet18": (2, 64),
    "timm_convnext_tiny": (2, 64),
    "timm_vit_tiny_patch16_224": (2, 64),
}
"""Frames and pixels of small clips."""

REPEATED = ("torchvision_r3d_18", "torchvision_r2plus1d_18", "pytorchvideo_x3d_s")
"""Built by the same code as others of their library; that each is the library's own network is proven below."""

models = pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=[
                *(NEEDS[package] for package in NEEDS if name.startswith(package)),
                *([pytest.mark.long] if name in REPEATED else []),
            ],
        )
        for name in SMALL
    ],
)
torchvisions = pytest.mark.parametrize("builder", ["r3d_18", "mc3_18", "r2plus1d_18"])


def clip_for(name: str, batch: int = 2) -> Tensor:
    frames, size = SMALL[name]
    return torch.randn(batch, 3, frames, size, size, generator=torch.Generator().manual_seed(0))


def shake(network):
    """Gives all norms a scale, a shift and statistics of their own; some are initialised to silence their branch."""
    torch.manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d | nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


def give_weights(peer: nn.Module, model: Stream) -> None:
    """The peer's weights without its classifier fill the whole trunk, and nothing of them is left over."""
    match = load_matching(model, peer.state_dict(), prefix="trunk.")
    assert set(match.missing) == {"head.weight", "head.bias"}
    assert len(match.unexpected) <= 2
    assert match.misshapen == ()


def classified(peer: nn.Module, classifier: nn.Module, inputs: object) -> Tensor:
    """What reaches the classifier of a peer in its own forward pass, as (B, C)."""
    seen: list[Tensor] = []
    handle = classifier.register_forward_hook(lambda _module, given, _output: seen.append(given[0]))
    with torch.no_grad():
        peer(inputs)
    handle.remove()
    return seen[0].flatten(1)


def size_of(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


@torchvisions
def test_torchvision_agrees(builder):
    name = f"torchvision_{builder}"
    peer, model, clip = shake(getattr(video, builder)()), create_model(name).eval(), clip_for(name)
    give_weights(peer, model)
    assert size_of(model) - size_of(model.head) == size_of(peer) - size_of(peer.fc)
    with torch.no_grad():
        torch.testing.assert_close(model.pooled(clip), classified(peer, peer.fc, clip))
        taps = model.forward_features(clip)
        expected = peer.layer2(peer.layer1(peer.stem(clip)))
    torch.testing.assert_close(taps["conv3"], expected)
    assert [tap.shape[1] for tap in taps.values()] == [64, 64, 128, 256, 512]
    times = [8] * 5 if builder == "mc3_18" else [8, 8, 4, 2, 1]
    assert [tuple(tap.shape[2:]) for tap in taps.values()] == [
        (time, side, side) for time, side in zip(times, [16, 16, 8, 4, 2], strict=True)
    ]
    assert model.sampling == Sampling(frames=16, stride=1, fps=15.0, size=112)


@NEEDS["pytorchvideo"]
def test_slow_agrees():
    from pytorchvideo.models import create_resnet

    name = "pytorchvideo_slow_r50"
    clip = clip_for(name)
    peer = shake(create_resnet(stem_conv_kernel_size=(1, 7, 7), head_pool_kernel_size=(4, 1, 1)))
    model = create_model(name).eval()
    give_weights(peer, model)
    assert size_of(model) - size_of(model.head) == size_of(peer) - size_of(peer.blocks[-1].proj)
    with torch.no_grad():
        torch.testing.assert_close(model.pooled(clip), classified(peer, peer.blocks[-1].proj, clip))
        taps = model.forward_features(clip)
    assert {tap: tuple(value.shape[1:]) for tap, value in taps.items()} == {
        "conv1": (64, 4, 8, 8),
        "conv2": (256, 4, 8, 8),
        "conv3": (512, 4, 4, 4),
        "conv4": (1024, 4, 2, 2),
        "conv5": (2048, 4, 1, 1),
    }
    assert model.sampling == Sampling(frames=8, stride=8, fps=30.0, size=224)


@NEEDS["pytorchvideo"]
def test_slowfast_agrees():
    from pytorchvideo.models import create_slowfast

    name = "pytorchvideo_slowfast_r50"
    clip = clip_for(name)
    peer = shake(create_slowfast(head_pool_kernel_sizes=((2, 1, 1), (8, 1, 1))))
    model = create_model(name).eval()
    give_weights(peer, model)
    assert size_of(model) - size_of(model.head) == size_of(peer) - size_of(peer.blocks[-1].proj)
    with torch.no_grad():
        expected = classified(peer, peer.blocks[-1].proj, [clip[:, :, ::4], clip])
        torch.testing.assert_close(model.pooled(clip), expected)
        taps = model.forward_features(clip)
    assert {tap: tuple(value.shape[1:]) for tap, value in taps.items()} == {
        "conv1": (64 + 16, 2, 8, 8),
        "conv2": (256 + 64, 2, 8, 8),
        "conv3": (512 + 128, 2, 4, 4),
        "conv4": (1024 + 256, 2, 2, 2),
        "conv5": (2048, 2, 1, 1),
        "fast5": (256, 8, 1, 1),
    }
    assert model.sampling == Sampling(frames=32, stride=2, fps=30.0, size=224)


@NEEDS["pytorchvideo"]
@pytest.mark.parametrize(("size", "depth"), [("xs", 2.2), ("s", 2.2), ("m", 2.2), ("l", 5.0)])
def test_x3d_agrees(size, depth):
    from pytorchvideo.models.x3d import create_x3d

    clip = clip_for("pytorchvideo_x3d_s")
    peer = shake(create_x3d(input_clip_length=3, input_crop_size=48, depth_factor=depth))
    model = create_model(f"pytorchvideo_x3d_{size}").eval()
    give_weights(peer, model)
    assert size_of(model) - size_of(model.head) == size_of(peer) - size_of(peer.blocks[-1].proj)
    with torch.no_grad():
        torch.testing.assert_close(model.pooled(clip), classified(peer, peer.blocks[-1].proj, clip))
        taps = model.forward_features(clip)
    assert {tap: tuple(value.shape[1:]) for tap, value in taps.items()} == {
        "conv1": (24, 3, 24, 24),
        "conv2": (24, 3, 12, 12),
        "conv3": (48, 3, 6, 6),
        "conv4": (96, 3, 3, 3),
        "conv5": (192, 3, 2, 2),
    }


@NEEDS["pytorchvideo"]
def test_x3d_sampling():
    wanted = {"xs": (4, 12, 160), "s": (13, 6, 160), "m": (16, 5, 224), "l": (16, 5, 312)}
    for size, (frames, stride, side) in wanted.items():
        sampling = create_model(f"pytorchvideo_x3d_{size}").sampling
        assert sampling == Sampling(frames=frames, stride=stride, fps=30.0, size=side)


@models
def test_every_stream_embeds_and_learns(name):
    model = shake(create_model(name, embed_dim=8)).train()
    embedding = model(clip_for(name, batch=4))
    assert embedding.shape == (4, 8)
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(4))
    (embedding * torch.linspace(-1, 1, 32).view(4, 8)).sum().backward()
    idle = {at for at, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert idle == set()


@models
def test_taps(name):
    model = create_model(name).eval()
    with torch.no_grad():
        taps = model.forward_features(clip_for(name))
    wanted = TAPS[1:] if "convnext" in name else TAPS
    assert tuple(tap for tap in taps if tap in TAPS) == wanted
    assert all(tap.ndim == 5 and tap.shape[0] == 2 and tap.isfinite().all() for tap in taps.values())


@models
def test_save_and_load(tmp_path, name):
    model = shake(create_model(name, embed_dim=8))
    frames, size = SMALL[name]
    save_pretrained(model, tmp_path, Sampling(frames, 1, 25.0, size))
    encoder = load(tmp_path)
    assert encoder.model.model_name == name
    assert encoder.model.arguments == {"embed_dim": 8}
    clip = clip_for(name)
    with torch.no_grad():
        assert torch.equal(encoder.model(clip), model(clip))


@models
def test_width_is_refused(name):
    with pytest.raises(VieError, match=rf"'{name}' cannot be built with .*width"):
        create_model(name, width=64)


@models
def test_norms_are_spared_from_decay(name):
    with torch.device("meta"):
        model = create_model(name)
    spared = {id(p) for p in make_optimizer(model, OptimConfig(weight_decay=0.25)).param_groups[1]["params"]}
    norms = [at for at, module in model.named_modules() if "norm" in type(module).__name__.lower()]
    wanted = {id(p) for at in norms for p in model.get_submodule(at).parameters(recurse=False)}
    assert wanted
    assert spared == wanted


@models
def test_channels_last_changes_no_result(name):
    model, clip = shake(create_model(name)), clip_for(name)
    with torch.no_grad():
        before = model(clip)
        use_channels_last(model, torch.device("cpu"))
        torch.testing.assert_close(model(clip), before, atol=1e-4, rtol=0)


@torchvisions
def test_torchvisions_statistics(builder):
    model = create_model(f"torchvision_{builder}")
    weights = video.__dict__[
        {"r3d_18": "R3D_18", "mc3_18": "MC3_18", "r2plus1d_18": "R2Plus1D_18"}[builder] + "_Weights"
    ]
    own = weights.KINETICS400_V1.transforms()
    assert (list(model.mean), list(model.std)) == (own.mean, own.std)


@NEEDS["pytorchvideo"]
@pytest.mark.parametrize("name", ["slow_r50", "slowfast_r50", "x3d_xs"])
def test_pytorchvideos_statistics(name):
    """Written in its transforms, which do not import beside a current torchvision: so their source is read."""
    model = create_model(f"pytorchvideo_{name}")
    found = importlib.util.find_spec("pytorchvideo")
    source = Path(found.origin).with_name("transforms") / "transforms_factory.py"
    for name, own in (("mean", model.mean), ("std", model.std)):
        assert f"video_{name}: Tuple[float, float, float] = {own}," in source.read_text()


def test_they_are_listed():
    assert set(SMALL) | {"pytorchvideo_x3d_m", "pytorchvideo_x3d_l"} <= set(list_models())


@pytest.mark.parametrize(
    ("name", "package"), [("pytorchvideo_slow_r50", "pytorchvideo"), ("timm_resnet18", "timm"), ("timm_dla34", "timm")]
)
def test_missing_package_names_the_extra(monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.models", None)
    with pytest.raises(VieError, match=rf"{name} needs .*pip install 'vie\[{package}\]'"):
        create_model(name)


@NEEDS["timm"]
def test_imagenet_weights_of_torchvision_fill_timms_resnet():
    weights = resnet18().state_dict()
    model = create_model("timm_resnet18")
    with pytest.raises(VieError, match="or give a prefix"):
        load_matching(model, weights)
    match = load_matching(model, weights, prefix="trunk.")
    assert set(match.unexpected) == {"trunk.fc.weight", "trunk.fc.bias"}
    assert set(match.missing) == {"head.weight", "head.bias"}
    assert len(match.loaded) == len(weights) - 2
    assert torch.equal(model.trunk.layer4[1].conv2.weight, weights["layer4.1.conv2.weight"])
