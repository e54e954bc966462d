import importlib.util

import pytest
import torch
from torch import Tensor, nn

from rl_encoders import stages
from tests.vie.test_other_trunks import REPEATED, SMALL, shake
from vie import Sampling, Stream, VieError, create_model, list_models

VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
MORE: dict[str, dict[str, object]] = {
    "timm_test_vit": {},
    "timm_convnext_atto": {},
    "timm_mobilenetv3_small_050": {},
    "timm_vit_relpos_small_patch16_224": {},  # a norm behind the pool
    "timm_xcit_nano_12_p8_224": {},  # blocks of the class token behind the others
    "timm_caformer_s18": {},  # timm gives it no groups
    "timm_csatv2": {},  # nor this one, which has buffers in front of all
    "torchvision_densenet121": {},
    "torchvision_shufflenet_v2_x0_5": {},
    "hf_vit": {"config": VIT},
    "hf_clip_vision_model": {"config": VIT},
    "hf_siglip_vision_model": {"config": VIT},
    "hf_dinov2_with_registers": {"config": VIT},
    "hf_resnet": {"config": {"embedding_size": 8, "hidden_sizes": [8, 16, 24], "depths": [1, 1, 1]}},
    "hf_convnext": {"config": {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}},
}
SIZES = {
    "torchvision_vit_b_16": 32,
    "timm_vit_relpos_small_patch16_224": 32,
    "timm_test_vit": 32,
    "timm_csatv2": 64,
    "timm_xcit_nano_12_p8_224": 64,
}
BUILT_FOR = ("torchvision_vit_b_16", "timm_vit_relpos_small_patch16_224", "timm_test_vit", "timm_csatv2")
"""Networks that take the size that they were built for alone."""
CLIPS = {**SMALL, **dict.fromkeys(("pytorchvideo_x3d_m", "pytorchvideo_x3d_l"), (3, 48))}
PACKAGES = {"timm": "timm", "pytorchvideo": "pytorchvideo", "hf": "transformers"}
FIVE = ["conv1", "conv2", "conv3", "conv4", "conv5"]


def needs(name: str) -> list[pytest.MarkDecorator]:
    package = PACKAGES.get(name.partition("_")[0])
    missing = package is not None and importlib.util.find_spec(package) is None
    return [pytest.mark.skipif(missing, reason=f"{package} is not installed")]


NAMES = [*list_models(), *MORE]
kinds = pytest.mark.parametrize("name", [pytest.param(name, marks=needs(name)) for name in NAMES])
ALIKE = {*REPEATED, "pytorchvideo_x3d_m", "pytorchvideo_x3d_l", "timm_vit_small_patch16_224"}
"""Built by the same code as others of their library."""

kinds_of_code = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[*needs(name), *([pytest.mark.long] if name in ALIKE else [])]) for name in NAMES],
)


def build(name: str) -> Stream:
    torch.manual_seed(0)
    arguments = {"width": 8} if name.startswith("vie_") else MORE.get(name, {})
    return create_model(name, embed_dim=8, **arguments, **({"size": SIZES[name]} if name in BUILT_FOR else {}))


def clip_for(name: str, model: Stream) -> Tensor:
    frames, size = CLIPS.get(name, (model.sampling.frames, 64))
    size = SIZES.get(name, 32 if name.startswith("hf_") else size)
    return torch.randn(2, 3, frames, size, size, generator=torch.Generator().manual_seed(0))


@kinds
def test_every_tensor_is_in_one_stage(name):
    with torch.device("meta"):  # names are all that counts here
        model = build(name)
    found = [tensor for _, tensors in stages(model) for tensor in tensors]
    everything = {at for at, _ in [*model.named_parameters(), *model.named_buffers()]}
    heads = {at for at in everything if at.split(".")[0] in model.heads}
    assert heads
    assert sorted(found) == sorted(everything - heads)
    names = [stage for stage, _ in stages(model)]
    assert len(set(names)) == len(names) > 2
    five = name.startswith(("vie_", "pytorchvideo_")) or (name in SMALL and name.startswith("torchvision_"))
    assert names == (FIVE if five else ["stem", *(f"stage{number}" for number in range(1, len(names)))])


@kinds_of_code
def test_no_gradient_reaches_into_frozen_stages(name):
    """Frozen up to any stage, whatever is computed by frozen modules alone needs no gradient, and the rest gets one."""
    model = build(name).train()  # some networks of timm keep what they compute in eval mode
    clip, parts, parameters = clip_for(name, model), stages(model), dict(model.named_parameters())
    used = used_by(model, clip)
    for count in sorted({1, len(parts) // 2, len(parts) - 1}):
        frozen = {at for _, tensors in parts[:count] for at in tensors}
        for at, parameter in parameters.items():
            parameter.requires_grad_(at not in frozen)
            parameter.grad = None
        given: list[tuple[str, object]] = []
        handles = [
            module.register_forward_hook(lambda _module, _inputs, out, at=at, to=given: to.append((at, out)))
            for at, module in model.named_modules()
            if (own := {f"{at}.{inner}" for inner, _ in module.named_parameters()}) and own <= frozen
        ]
        sum(tap.float().square().sum() for tap in model.forward_features(clip).values()).backward()
        for handle in handles:
            handle.remove()
        assert given
        assert [at for at, out in given if needs_gradient(out)] == []
        learnt = {at for at, parameter in parameters.items() if parameter.grad is not None}
        assert not learnt & frozen
        assert {at for _, tensors in parts[count:] for at in tensors} & used <= learnt


def used_by(model: Stream, clip: Tensor) -> set[str]:
    """Names of the parameters that the taps need; some networks have tokens for masks, which nothing hides behind."""
    sum(tap.float().square().sum() for tap in model.forward_features(clip).values()).backward()
    return {at for at, parameter in model.named_parameters() if parameter.grad is not None}


def needs_gradient(out: object) -> bool:
    parts = out if isinstance(out, tuple | list) else [out]
    return any(isinstance(part, Tensor) and part.requires_grad for part in parts)


@pytest.mark.parametrize("name", [name for name in list_models("vie_*") if "trn" not in name])
def test_a_tap_of_vies_needs_its_own_stage_and_those_before(name):
    model = shake(build(name))
    parts, parameters = stages(model), dict(model.named_parameters())
    taps = model.forward_features(clip_for(name, model))
    for number, tap in enumerate(FIVE):
        model.zero_grad()
        taps[tap].square().sum().backward(retain_graph=True)
        reached = [any(parameters[at].grad is not None for at in tensors if at in parameters) for _, tensors in parts]
        assert reached == [place <= number for place in range(5)]


def test_both_pathways_and_the_laterals_between_them():
    parts = dict(stages(build("vie_two_pathway_sf_r18")))
    assert "static.trunk.stem.weight" in parts["conv1"]
    assert {"dynamic.slow.stem.weight", "dynamic.fast.stem.weight", "dynamic.laterals.0.weight"} <= set(parts["conv1"])
    assert {
        "static.trunk.stages.3.1.conv2.weight",
        "dynamic.fast.norm.running_var",
        "dynamic.laterals.4.weight",
    } <= set(parts["conv5"])


class Own(Stream):
    sampling = Sampling(frames=1, stride=1, fps=25.0, size=8)
    told: list[tuple[str, list[str]]] | None = None

    def __init__(self) -> None:
        super().__init__(num_features=3, embed_dim=2)
        self.first, self.second = nn.Conv3d(3, 3, 1), nn.BatchNorm3d(3)

    def stages(self) -> list[tuple[str, list[str]]]:
        return super().stages() if self.told is None else self.told


def test_a_stream_of_ones_own():
    model = Own()
    assert [name for name, _ in stages(model)] == ["trunk"]
    assert len(stages(model)[0][1]) == 7
    model.told = [("a", ["first.weight"]), ("b", ["first", "second"])]
    assert stages(model)[0] == ("a", ["first.weight"])
    assert "first.bias" in stages(model)[1][1]
    model.told = [("a", ["first"])]
    with pytest.raises(VieError, match=r"second\.weight of Own is in no stage"):
        stages(model)
    model.told = [("a", ["first", "second"]), ("b", ["third"])]
    with pytest.raises(VieError, match="stage 'b' of Own holds no tensor"):
        stages(model)
