import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.vie.test_other_trunks import shake
from vie import Resize, VieError, create_model, from_hugging_face, load, save_pretrained
from vie.models import TAPS

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

SIZE = 32
VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 6,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": SIZE,
    "patch_size": 8,
}
WORDS = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 50}
WORDS |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
CONV = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 2, 1, 1]}
KINDS = {
    "vit": VIT,
    "deit": VIT,
    "dinov2": VIT,
    "dinov2_with_registers": VIT | {"num_register_tokens": 3},
    "dinov3_vit": VIT | {"num_register_tokens": 2},
    "clip_vision_model": VIT,
    "clip": {"vision_config": VIT, "text_config": WORDS},
    "siglip_vision_model": VIT,
    "siglip": {"vision_config": VIT, "text_config": WORDS},
    "beit": VIT,
    "vit_mae": VIT | {"mask_ratio": 0.5},
    "resnet": CONV | {"embedding_size": 8, "layer_type": "basic"},
    "convnext": CONV,
    "swin": {
        "image_size": SIZE,
        "patch_size": 2,
        "embed_dim": 8,
        "depths": [1, 2, 1],
        "num_heads": [1, 2, 4],
        "window_size": 4,
    },
}
BEFORE_PATCHES = {"siglip_vision_model": 0, "siglip": 0, "deit": 2, "dinov2_with_registers": 4, "dinov3_vit": 3}
"""Tokens that are no patches, where they are not the class token alone."""

kinds = pytest.mark.parametrize("kind", KINDS)


def processor(**changes):
    given = {"size": {"shortest_edge": 36}, "crop_size": SIZE, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4] * 3}
    return transformers.CLIPImageProcessor(**given | changes)


def saved(folder, kind: str) -> nn.Module:
    """A small network of transformers in a folder of its own, shaken so that no part of it is silent."""
    torch.manual_seed(0)
    peer = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(kind, **KINDS[kind]))
    for parameter in peer.parameters():
        if parameter.ndim < 2:  # scales of layers and biases, which begin at almost nothing
            nn.init.uniform_(parameter, 0.2, 0.9)
    shake(peer).save_pretrained(folder)
    processor().save_pretrained(folder)
    return peer


def clip(size: int = SIZE, frames: int = 1) -> Tensor:
    return torch.randn(2, 3, frames, size, size, generator=torch.Generator().manual_seed(1))


def seen(kind: str, peer: nn.Module, pictures: Tensor):
    """What transformers itself makes of pictures (B, 3, H, W)."""
    more = {}
    if kind == "vit_mae":  # all patches, in their order
        peer.config.mask_ratio = 0.0
        more["noise"] = torch.arange((pictures.shape[-1] // 8) ** 2).expand(len(pictures), -1).float()
    if kind in ("clip", "siglip"):
        peer = peer.vision_model
    with torch.no_grad():
        return peer(pixel_values=pictures, output_hidden_states=True, **more)


@kinds
def test_features_are_those_of_transformers(tmp_path, kind):
    peer = saved(tmp_path, kind)
    model = from_hugging_face(str(tmp_path)).eval()
    expected = seen(kind, peer, clip()[:, :, 0])
    with torch.no_grad():
        taps = model.forward_features(clip())
        pooled = model.pooled(clip())
    last = expected.last_hidden_state
    if "clip" in kind:  # the only ones that leave their last tokens as they are
        last = (peer.vision_model if kind == "clip" else peer).post_layernorm(last).detach()
    if kind == "swin":
        last = expected.reshaped_hidden_states[-1]
    elif last.ndim == 3:
        before = BEFORE_PATCHES.get(kind, 1)
        assert ("cls" in taps) == (before > 0)
        if before:
            torch.testing.assert_close(taps["cls"].flatten(1), last[:, 0])
        last = last[:, before:].transpose(1, 2).unflatten(2, (4, 4))
    torch.testing.assert_close(taps["conv5"][:, :, 0], last)
    own = expected.pooler_output if kind not in ("vit", "deit", "vit_mae") else expected.last_hidden_state[:, 0]
    torch.testing.assert_close(pooled, own.flatten(1))
    assert pooled.shape == (2, model.num_features)
    names = [tap for tap in taps if tap in TAPS]
    assert names == list(TAPS[-len(names) :])
    assert len(names) == {"resnet": 4, "convnext": 4, "swin": 3}.get(kind, 5)


def test_taps_are_spread_over_the_blocks(tmp_path):
    peer, model = saved(tmp_path, "dinov2"), from_hugging_face(str(tmp_path)).eval()
    states = seen("dinov2", peer, clip()[:, :, 0]).hidden_states
    with torch.no_grad():
        taps = model.forward_features(clip())
        for tap, block in zip(TAPS, (2, 3, 4, 5, 6), strict=True):
            tokens = peer.layernorm(states[block])[:, 1:]
            torch.testing.assert_close(taps[tap][:, :, 0].flatten(2).transpose(1, 2), tokens)


@kinds
def test_frames_are_seen_alone(tmp_path, kind):
    saved(tmp_path, kind)
    model = from_hugging_face(str(tmp_path)).eval()
    frames = clip(frames=3)
    with torch.no_grad():
        alone = torch.stack([model.pooled(frames[:, :, number : number + 1]) for number in range(3)])
        torch.testing.assert_close(model.pooled(frames), alone.mean(dim=0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["vit", "dinov2", "clip", "siglip", "dinov3_vit", "resnet"])
def test_other_sizes(tmp_path, kind):
    saved(tmp_path, kind)
    model = from_hugging_face(str(tmp_path), size=48)
    assert (model.sampling.size, model.sampling.resized) == (48, 54)
    with torch.no_grad():
        taps = model.eval().forward_features(clip(48))
    if kind != "resnet":
        assert taps["conv5"].shape == (2, 32, 1, 6, 6)


@kinds
def test_saved_encoders_need_neither_folder_nor_network(tmp_path, kind):
    saved(tmp_path / "theirs", kind)
    model = from_hugging_face(str(tmp_path / "theirs"), embed_dim=8).eval()
    save_pretrained(model, tmp_path / "ours", model.sampling)
    for file in (tmp_path / "theirs").iterdir():
        file.unlink()
    loaded = load(tmp_path / "ours")
    assert (loaded.model.mean, loaded.model.resize) == (model.mean, model.resize)
    with torch.no_grad():
        assert torch.equal(loaded.model(clip()), model(clip()))


def test_random_weights(tmp_path):
    peer = saved(tmp_path, "vit")
    (tmp_path / "model.safetensors").unlink()
    model = from_hugging_face(str(tmp_path), weights=None)
    assert model.origin == "random weights"
    assert not torch.equal(dict(model.trunk.named_parameters())["embeddings.cls_token"], peer.embeddings.cls_token)
    assert create_model("hf_vit", config=VIT).num_features == 32


@pytest.mark.parametrize(
    ("changes", "mode", "interpolation", "short_side"),
    [
        ({}, "crop", "bicubic", 36),
        ({"resample": 2, "do_center_crop": False}, "crop", "bilinear", 36),
        ({"size": {"height": 40, "width": 40}}, "squash", "bicubic", 40),
        ({"size": {"height": 32, "width": 32}, "do_center_crop": False, "resample": 1}, "squash", "lanczos", 32),
    ],
)
def test_pixels_are_those_of_the_image_processor(tmp_path, changes, mode, interpolation, short_side):
    saved(tmp_path, "vit")
    own = processor(**changes)
    own.save_pretrained(tmp_path)
    model = from_hugging_face(str(tmp_path))
    assert model.resize == Resize(mode, interpolation)
    assert model.sampling.resized == short_side
    pixels = torch.randint(0, 256, (70, 90, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    if changes.get("do_center_crop", True):
        save_pretrained(model, tmp_path / "ours", model.sampling)
        ours = load(tmp_path / "ours").preprocess(pixels[None, None])[0, :, 0]
        theirs = own(pixels.permute(2, 0, 1), return_tensors="pt")["pixel_values"][0]
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().mean() < 1 / 255 / 0.4


def test_convnexts_crop(tmp_path):
    saved(tmp_path, "convnext")
    for edge, wanted in ((224, ("crop", 256)), (384, ("squash", 384))):
        transformers.ConvNextImageProcessor(size={"shortest_edge": edge}, crop_pct=0.875).save_pretrained(tmp_path)
        model = from_hugging_face(str(tmp_path))
        assert (model.resize.mode, model.sampling.resized) == wanted
        assert model.sampling.size == edge


def test_pixels_of_another_range(tmp_path):
    saved(tmp_path, "vit")
    processor(rescale_factor=1 / 127.5, do_normalize=True).save_pretrained(tmp_path)
    model = from_hugging_face(str(tmp_path))
    assert model.mean == pytest.approx((0.05, 0.1, 0.15))
    assert model.std == pytest.approx((0.2, 0.2, 0.2))
    processor(do_rescale=False, do_normalize=False).save_pretrained(tmp_path)
    model = from_hugging_face(str(tmp_path))
    assert model.std == pytest.approx((1 / 255,) * 3)


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: apache-2.0\n---\n# A network", "apache-2.0"),
        ("---\nlicense: other\nlicense_name: dinov3-license\n---\n", "dinov3-license"),
        ("# No front matter", ""),
        (None, ""),
    ],
)
def test_licence_of_the_card(tmp_path, card, licence):
    saved(tmp_path, "vit")
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    assert from_hugging_face(str(tmp_path)).licence == licence


def test_only_safetensors_are_loaded(tmp_path):
    saved(tmp_path, "vit")
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(VieError, match=r"the weights 'default' of hf:.* cannot be loaded"):
        from_hugging_face(str(tmp_path))


def test_no_code_of_others_is_run(tmp_path):
    saved(tmp_path, "vit")
    config = tmp_path / "config.json"
    text = config.read_text().replace('"model_type": "vit"', '"model_type": "mine", "auto_map": {"AutoConfig": "m.C"}')
    config.write_text(text)
    (tmp_path / "m.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass C: ...")
    with pytest.raises(VieError, match="cannot be read"):
        from_hugging_face(str(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_missing_weights_are_no_random_ones(tmp_path):
    saved(tmp_path, "dinov2")
    weights = load_file(tmp_path / "model.safetensors")
    gone = next(name for name in weights if "attention" in name)
    del weights[gone]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(VieError, match=r"lacks 1 tensors of a dinov2 \(.*attention.*\): give a complete one"):
        from_hugging_face(str(tmp_path))


def test_refusals(tmp_path):
    with pytest.raises(VieError, match=r"hf:.*nothing cannot be read"):
        from_hugging_face(str(tmp_path / "nothing"))
    saved(tmp_path, "vit")
    with pytest.raises(VieError, match="has the weights of its folder alone"):
        from_hugging_face(str(tmp_path), weights="imagenet")
    with pytest.raises(VieError, match=r"hf_vit fails on pictures of 4x4 pixels"):
        from_hugging_face(str(tmp_path)).eval()(clip(4))
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(VieError, match=r"does not tell how its pixels are prepared .*preprocessor_config\.json"):
        from_hugging_face(str(tmp_path))
    with pytest.raises(VieError, match="transformers builds no network of kind 'vitt'"):
        create_model("hf_vitt")
    with pytest.raises(VieError, match="hf_bert is no vision network"):
        create_model("hf_bert", config=WORDS)
    with pytest.raises(VieError, match="hf_vit_mae hides patches"):
        create_model("hf_vit_mae", config=VIT)


def test_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    for build in (lambda: create_model("hf_vit"), lambda: from_hugging_face("name/network")):
        with pytest.raises(VieError, match=r"needs transformers .*pip install 'vie\[hf\]'"):
            build()
