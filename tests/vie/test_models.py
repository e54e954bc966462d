import functools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vie import Sampling, Stream, VieError, create_model, list_models
from vie.models import TAPS, register_model

SINGLE, RESNET3D = "vie_single_r18", "vie_resnet3d_r18"
SLOW, FAST, SLOWFAST = "vie_slow_r18", "vie_fast_r18", "vie_slowfast_r18"
TRN, RELATION = "vie_trn_r18", "vie_trn_relation_r18"
HYBRID_S, HYBRID_SF, HYBRID_3D = (f"vie_two_pathway_{pair}_r18" for pair in ("s", "sf", "3d"))
PARAMETERS = {SINGLE: 11_244_480, RESNET3D: 33_271_872}
"""11.24 M and 33.27 M in the authors' networks."""

SAMPLING = {
    SINGLE: Sampling(frames=1, stride=1, fps=25.0, size=224),
    RESNET3D: Sampling(frames=16, stride=1, fps=25.0, size=112),
    SLOW: Sampling(frames=4, stride=16, fps=25.0, size=224),
    FAST: Sampling(frames=32, stride=2, fps=25.0, size=224),
    SLOWFAST: Sampling(frames=16, stride=4, fps=25.0, size=224),
    TRN: Sampling(frames=4, stride=12, fps=25.0, size=224, binned=True),
    RELATION: Sampling(frames=4, stride=12, fps=25.0, size=224, binned=True),
    HYBRID_S: Sampling(frames=4, stride=16, fps=25.0, size=224),
    HYBRID_SF: Sampling(frames=16, stride=4, fps=25.0, size=224),
    HYBRID_3D: Sampling(frames=16, stride=1, fps=25.0, size=112),
}
READOUTS = {
    SINGLE: {"conv3": 100_352, "conv4": 50_176, "conv5": 25_088},
    RESNET3D: {"conv3": 25_088, "conv4": 12_544, "conv5": 8_192},
    SLOW: {"conv3": 100_352, "conv4": 50_176, "conv5": 25_088},
    SLOWFAST: {"conv3": 125_440, "conv4": 62_720, "conv5": 31_360},
}
"""Dimensions of the taps, averaged over time and flattened."""

models = pytest.mark.parametrize("name", list_models("vie_*"))
one_trunk = pytest.mark.parametrize("name", [SINGLE, RESNET3D, SLOW, FAST])
DIMS = {SINGLE: 2, RESNET3D: 3, SLOW: 3, FAST: 3, SLOWFAST: 3}
CHANNELS = {
    FAST: [8, 8, 16, 32, 64],
    SLOWFAST: [80, 80, 160, 320, 640],
    **{name: [64, 64, 128, 256, 512] for name in (SINGLE, RESNET3D, SLOW)},
}
KERNELS = {
    SINGLE: ((7, 7), *[((3, 3), (3, 3))] * 4),
    RESNET3D: ((7, 7, 7), *[((3, 3, 3), (3, 3, 3))] * 4),
    SLOW: ((1, 7, 7), *[((1, 3, 3), (1, 3, 3))] * 2, *[((3, 3, 3), (1, 3, 3))] * 2),
    FAST: ((5, 7, 7), *[((3, 3, 3), (1, 3, 3))] * 4),
}
"""Of the stem, and of the two convolutions in the blocks of each stage."""


def clip_for(name: str, batch: int = 1, frames: int | None = None, size: int | None = None) -> Tensor:
    sampling = SAMPLING[name]
    shape = (batch, 3, frames or sampling.frames, size or sampling.size, size or sampling.size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def small(name: str, **arguments: int) -> Stream:
    """A narrow network whose batch norms have statistics of their own."""
    torch.manual_seed(0)
    model = create_model(name, **{"width": 4, "embed_dim": 8, **arguments}).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


@functools.cache
def full_size(name: str, **arguments: int) -> Stream:
    torch.manual_seed(0)
    return create_model(name, **arguments).eval()


def by_the_specification(name: str, model: Stream, clip: Tensor) -> dict[str, Tensor]:
    """The pre-activation ResNet-18 in plain functions of the network's tensors."""
    state = model.state_dict()
    pool = F.max_pool2d if DIMS[name] == 2 else F.max_pool3d
    conv = functools.partial(_conv, name)
    relu_norm = functools.partial(_relu_norm, state)
    x = conv(clip, state["trunk.stem.weight"], stride=2)
    x = pool(x, _space(name, 3, 1), stride=_space(name, 2, 1), padding=_space(name, 1, 0))
    taps = []
    for stage, stride in enumerate((1, 2, 2, 2)):
        for block in (0, 1):
            at = f"trunk.stages.{stage}.{block}"
            step = stride if block == 0 else 1
            activated = relu_norm(x, f"{at}.norm1")
            inner = conv(activated, state[f"{at}.conv1.weight"], stride=step)
            inner = conv(relu_norm(inner, f"{at}.norm2"), state[f"{at}.conv2.weight"])
            if block == 0:
                taps.append(activated)
                x = conv(activated, state[f"{at}.shortcut.weight"], stride=step)
            x = x + inner
    return dict(zip(TAPS, [*taps, relu_norm(x, "trunk.norm")], strict=True))


def _space(name: str, size: int, time: int) -> tuple[int, ...]:
    """A size over height and width; over time only in the network whose strides halve it."""
    return (size, size) if DIMS[name] == 2 else (size if name == RESNET3D else time, size, size)


def _conv(name: str, x: Tensor, weight: Tensor, stride: int = 1) -> Tensor:
    padding = [side // 2 for side in weight.shape[2:]]
    return (F.conv2d if DIMS[name] == 2 else F.conv3d)(x, weight, stride=_space(name, stride, 1), padding=padding)


def _relu_norm(state: dict[str, Tensor], x: Tensor, at: str) -> Tensor:
    mean, variance = state[f"{at}.running_mean"], state[f"{at}.running_var"]
    return F.relu(F.batch_norm(x, mean, variance, state[f"{at}.weight"], state[f"{at}.bias"], eps=1e-5))


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name):
    assert sum(parameter.numel() for parameter in full_size(name).parameters()) == PARAMETERS[name]


@models
def test_sampling(name):
    assert create_model(name, width=4).sampling == SAMPLING[name]


@pytest.mark.parametrize("name", READOUTS)
def test_taps_have_the_dimensions_of_the_readouts(name):
    model = full_size(name)
    with torch.no_grad():
        taps = model.forward_features(clip_for(name, frames=2 if name == SINGLE else None))
    assert tuple(taps)[:5] == TAPS == ("conv1", "conv2", "conv3", "conv4", "conv5")
    assert {tap: taps[tap].mean(dim=2).flatten(1).shape[1] for tap in READOUTS[name]} == READOUTS[name]
    assert [taps[tap].shape[1] for tap in TAPS] == CHANNELS[name]


def test_time_shrinks_in_the_3d_network():
    with torch.no_grad():
        taps = small(RESNET3D).forward_features(clip_for(RESNET3D))
    assert [tuple(tap.shape[2:]) for tap in taps.values()] == [
        (4, 28, 28),
        (4, 28, 28),
        (2, 14, 14),
        (1, 7, 7),
        (1, 4, 4),
    ]


@one_trunk
def test_equals_the_specification(name):
    model, clip = small(name), clip_for(name, batch=2, size=48)
    plain = clip[:, :, 0] if DIMS[name] == 2 else clip
    with torch.no_grad():
        taps = model.forward_features(clip)
        expected = by_the_specification(name, model, plain)
        for tap, wanted in expected.items():
            torch.testing.assert_close(taps[tap].flatten(), wanted.flatten(), rtol=1e-4, atol=1e-5)
        pooled = expected["conv5"].flatten(2).mean(dim=2)
        torch.testing.assert_close(model.pooled(clip), pooled)
        projected = pooled @ model.head.weight.T + model.head.bias
        torch.testing.assert_close(model(clip), projected / projected.norm(dim=1, keepdim=True))


@one_trunk
def test_layers(name):
    model = full_size(name)
    convolution = nn.Conv2d if DIMS[name] == 2 else nn.Conv3d
    norm = nn.BatchNorm2d if DIMS[name] == 2 else nn.BatchNorm3d
    convolutions = {at: module for at, module in model.named_modules() if isinstance(module, convolution)}
    norms = [module for module in model.modules() if isinstance(module, norm)]
    assert all(module.bias is None for module in convolutions.values())
    assert len(norms) == 2 * 8 + 1  # two in each block and the last one: none behind the stem or on a shortcut
    assert {(module.eps, module.momentum) for module in norms} == {(1e-5, 0.003)}
    assert not [module for module in model.modules() if isinstance(module, nn.SyncBatchNorm | nn.Dropout)]
    shortcuts = {at: module for at, module in convolutions.items() if "shortcut" in at}
    assert list(shortcuts) == [f"trunk.stages.{stage}.0.shortcut" for stage in range(4)]
    assert [module.stride for module in shortcuts.values()] == [_space(name, stride, 1) for stride in (1, 2, 2, 2)]
    assert {module.kernel_size for module in shortcuts.values()} == {(1,) * DIMS[name]}
    stem, *stages = KERNELS[name]
    assert convolutions["trunk.stem"].kernel_size == stem
    others = [module for at, module in convolutions.items() if at != "trunk.stem" and at not in shortcuts]
    assert [module.kernel_size for module in others] == [kernel for pair in stages for kernel in (*pair, *pair)]


@models
def test_initialisation(name):
    # The parts of a hybrid are looked at in their full size on their own.
    model = full_size(name, **({"width": 16} if name in (HYBRID_S, HYBRID_SF, HYBRID_3D) else {}))
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            spread = math.sqrt(1 / module.weight[0].numel())
            error = 4 / math.sqrt(module.weight.numel())  # four standard errors of the mean
            assert module.weight.std().item() == pytest.approx(spread, rel=error)
            assert module.weight.abs().max().item() <= 2 * spread / 0.8796 * 1.001
            assert abs(module.weight.mean().item()) < error * spread
    bound = math.sqrt(6 / (model.num_features + 128))
    assert bound * 0.99 < model.head.weight.abs().max().item() <= bound
    assert not model.head.bias.any()


@models
def test_unit_length(name):
    model = small(name)
    clip = clip_for(name, batch=3, size=32)
    embedding = model(clip)
    assert embedding.shape == (3, 8)
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model(clip)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.norm(dim=1), torch.ones(3))


@models
def test_every_parameter_learns(name):
    model = small(name).train()
    model(clip_for(name, batch=4, size=32)).sum().backward()
    learned = {at: parameter.grad is not None and parameter.grad.any() for at, parameter in model.named_parameters()}
    idle = {at for at, moves in learned.items() if not moves}
    # The hybrid reads the fast pathway through its laterals only.
    assert idle == ({"dynamic.fast.norm.weight", "dynamic.fast.norm.bias"} if name == HYBRID_SF else set())


@pytest.mark.parametrize("name", [SINGLE, RESNET3D, SLOW])
def test_width_and_dimensions(name):
    wide, narrow = create_model(name, width=16), create_model(name, width=8, embed_dim=24)
    assert narrow.num_features == 64
    assert narrow.embed_dim == 24
    assert narrow.head.weight.shape == (24, 64)
    assert narrow.trunk.stem.weight.shape[0] == 8
    sizes = [sum(parameter.numel() for parameter in model.trunk.parameters()) for model in (narrow, wide)]
    assert 3 < sizes[1] / sizes[0] < 4.1


def test_single_averages_frames():
    model, clip = small(SINGLE), clip_for(SINGLE, batch=2, frames=5, size=32)
    with torch.no_grad():
        alone = torch.stack([model.pooled(clip[:, :, frame : frame + 1]) for frame in range(5)])
        torch.testing.assert_close(model.pooled(clip), alone.mean(dim=0))
        taps, second = model.forward_features(clip), model.forward_features(clip[1:, :, 3:4])
    for name, tap in taps.items():
        assert tap.shape[:3] == (2, second[name].shape[1], 5)
        torch.testing.assert_close(tap[1, :, 3], second[name][0, :, 0])


def test_3d_network_sees_the_order_of_frames():
    model, clip = small(RESNET3D), clip_for(RESNET3D, size=32)
    with torch.no_grad():
        assert not torch.allclose(model(clip), model(clip.flip(2)), atol=1e-4)


@models
def test_seed_repeats_the_initialisation(name):
    first, again = (small(name).state_dict() for _ in range(2))
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_list_models_matches_patterns():
    assert list_models() == sorted(list_models())
    assert {SINGLE, RESNET3D} <= set(list_models())
    assert list_models("*single*") == [SINGLE]
    assert list_models("nothing*") == []


def test_unknown_name_names_the_nearest():
    with pytest.raises(VieError, match="'vie_resnet3d_r18'"):
        create_model("vie_resnet3d_r50")
    with pytest.raises(VieError, match="vie_single_r18"):
        create_model("completely different")


@models
@pytest.mark.parametrize(
    "arguments", [{"depth": 50}, {"width": "wide"}, {"width": 0}, {"width": -4}, {"embed_dim": -1}, {"embed_dim": 0}]
)
def test_bad_argument(name, arguments):
    with pytest.raises(VieError, match=next(iter(arguments))):
        create_model(name, **{"width": 4, **arguments})


def test_registered_model_is_created_by_name(monkeypatch):
    monkeypatch.setattr("vie.models.registry._MODELS", dict(create_model.__globals__["_MODELS"]))

    @register_model("tiny_of_my_own")
    class Mine(Stream):
        sampling = Sampling(1, 1, None, 8)

        def __init__(self, embed_dim: int = 4) -> None:
            super().__init__(num_features=3, embed_dim=embed_dim)

        def forward_features(self, clip: Tensor) -> dict[str, Tensor]:
            return dict.fromkeys(TAPS, clip)

    model = create_model("tiny_of_my_own", embed_dim=2)
    assert isinstance(model, Mine)
    assert model.arguments == {"embed_dim": 2}
    assert model(torch.rand(5, 3, 1, 8, 8)).shape == (5, 2)
