import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rl_encoders import Source, open_source, stages
from tests.vie.test_hugging_face import VIT, processor, saved
from tests.vie.test_timm_weights import fill_hub
from tests.vie.test_torchvision_networks import hub, publish  # noqa: F401  (a fixture)
from vie import Encoder, Resize, Sampling, VieError, create_model, save_pretrained

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("timm", reason="timm is not installed")

SAMPLING = Sampling(frames=2, stride=3, fps=10.0, size=28, short_side=1.0)


def assert_it_sees(source: Source) -> None:
    """One contract: uint8 pixels of any size become taps, a pooled feature, and stages."""
    frames = torch.randint(0, 256, (1, source.sampling.frames, 70, 90, 3), dtype=torch.uint8)
    encoder = Encoder(source.stream, source.sampling).eval()
    with torch.no_grad():
        taps = encoder.forward_features(frames)
        assert encoder.pooled(frames).shape == (1, source.stream.num_features)
    assert taps["conv5"].ndim == 5
    assert all(tap.isfinite().all() for tap in taps.values())
    assert source.resize == source.stream.resize
    assert len(stages(source.stream)) > 2


def checkpoint(folder: Path, **card: object) -> Path:
    save_pretrained(create_model("vie_slow_r18", width=4, embed_dim=8), folder, SAMPLING, card)
    return folder


@pytest.mark.parametrize(("card", "licence"), [({"licence": "mit"}, "mit"), ({}, "unknown")])
def test_checkpoint(tmp_path, card, licence):
    source = open_source(checkpoint(tmp_path, **card))
    assert source.sampling == SAMPLING
    assert source.resize == Resize()
    assert (source.name, source.weights, source.licence) == (str(tmp_path), str(tmp_path), licence)
    assert_it_sees(source)


def test_checkpoints_have_no_arguments(tmp_path):
    with pytest.raises(VieError, match=r"whose card tells how it is built: leave out width, embed_dim"):
        open_source(checkpoint(tmp_path), width=8, embed_dim=4)


@pytest.mark.parametrize("name", ["vie_single_r18", "vie_slowfast_r18"])
def test_a_models_name_has_random_weights(name):
    source = open_source(name, width=8)
    assert (source.name, source.weights, source.licence) == (name, "random weights", "random weights")
    assert source.stream.arguments == {"width": 8}
    assert source.sampling == source.stream.sampling
    assert_it_sees(source)


def test_a_models_name_with_weights_of_a_file(tmp_path):
    save_file(create_model("vie_single_r18", width=4).state_dict(), tmp_path / "model.safetensors")
    source = open_source("vie_single_r18", width=4, pretrained=tmp_path / "model.safetensors")
    assert (source.weights, source.licence) == (str(tmp_path / "model.safetensors"), "unknown")


@pytest.mark.parametrize("text", ["timm:test_vit", "timm:test_vit.r160_in1k"])
def test_timm(tmp_path, monkeypatch, text):
    peer = fill_hub(tmp_path, monkeypatch, "timm/test_vit.r160_in1k", "test_vit")
    source = open_source(text, embed_dim=4)
    assert source.weights == "timm test_vit.r160_in1k"
    assert source.licence == "apache-2.0"
    assert source.name == text
    assert source.resize == Resize("crop", "bicubic")
    assert torch.equal(source.stream.trunk.blocks[0].attn.qkv.weight, peer.blocks[0].attn.qkv.weight)
    assert_it_sees(source)


@pytest.mark.parametrize("text", ["timm:test_vit", "timm:test_vit.r160_in1k", "timm_test_vit"])
def test_timm_with_random_weights(text):
    source = open_source(text, **({} if text.startswith("timm_") else {"weights": None}))
    assert (source.weights, source.licence) == ("random weights", "random weights")


@pytest.mark.parametrize("text", ["torchvision:resnet18", "torchvision:resnet18.IMAGENET1K_V1"])
def test_torchvision(hub, text):  # noqa: F811
    peer = publish(hub, "resnet18")
    source = open_source(text)
    assert source.weights == "torchvision ResNet18_Weights.IMAGENET1K_V1"
    assert source.licence.startswith("unknown (")
    assert torch.equal(source.stream.trunk.conv1.weight, peer.conv1.weight)
    assert source.resize == Resize("crop", "bilinear")
    assert_it_sees(source)
    assert open_source("torchvision:resnet18", weights=None).weights == "random weights"


def test_hugging_face(tmp_path):
    saved(tmp_path, "dinov2")
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    source = open_source(f"hf:{tmp_path}")
    assert (source.weights, source.licence) == (f"hf {tmp_path}", "apache-2.0")
    assert source.resize == Resize("crop", "bicubic")
    assert_it_sees(source)
    assert open_source(f"hf:{tmp_path}", weights=None).licence == "random weights"
    processor(size={"height": 32, "width": 32}, do_center_crop=False).save_pretrained(tmp_path)
    assert open_source(f"hf:{tmp_path}").resize == Resize("squash", "bicubic")
    with pytest.raises(VieError, match=r"cannot be opened with .*width.*: give others"):
        open_source(f"hf:{tmp_path}", width=3)


def test_a_kind_of_hugging_face_by_name():
    assert open_source("hf_vit", config=VIT).weights == "random weights"


@pytest.mark.parametrize(
    ("text", "cure"),
    [
        ("tim:resnet18", "did you mean timm:resnet18"),
        ("torch_vision:resnet18", "did you mean torchvision:resnet18"),
        ("HF:google/vit", "did you mean hf:google/vit"),
        ("r3m:resnet18", "give timm:NAME, torchvision:NAME or hf:ID"),
        ("timm:", "give timm:NAME"),
        ("vie_slow_fast_r18", "did you mean 'vie_slowfast_r18'"),
        ("dreamer", "give a saved encoder's folder"),
        ("./no/such/folder", "no folder, and no model"),
        ("timm:resnet19", "did you mean resnet18"),
        ("torchvision:resnet19", "did you mean resnet1"),
        ("timm:resnet18.mine", "timm_resnet18 has no weights 'mine'"),
    ],
)
def test_misspellings(text, cure):
    with pytest.raises(VieError) as caught:
        open_source(text)
    assert cure in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_weights():
    with pytest.raises(VieError, match=r"timm:resnet18 is given two weights, 'a1_in1k' and 'default': give one"):
        open_source("timm:resnet18.a1_in1k", weights="default")


@pytest.mark.parametrize(
    ("text", "package", "extra"), [("timm:resnet18", "timm", "timm"), ("hf:google/vit", "transformers", "hf")]
)
def test_missing_packages_name_the_extra(monkeypatch, text, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(VieError, match=rf"pip install 'vie\[{extra}\]'"):
        open_source(text)


def test_nothing_changes_afterwards():
    with pytest.raises(AttributeError):
        open_source("vie_single_r18", width=4).licence = "mine"  # type: ignore[misc]
