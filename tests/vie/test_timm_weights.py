from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchvision.transforms import CenterCrop
from torchvision.transforms import Resize as TorchvisionResize

from tests.vie.test_other_trunks import shake
from vie import Resize, VieError, create_model, load, save_pretrained

timm = pytest.importorskip("timm", reason="timm is not installed")

SHA = "0" * 40


def fill_hub(folder: Path, monkeypatch: pytest.MonkeyPatch, repository: str, name: str) -> torch.nn.Module:
    """Weights where the hub's client keeps those that it has fetched, with no network to ask for more."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    peer = shake(timm.create_model(name))
    at = folder / f"models--{repository.replace('/', '--')}"
    (at / "snapshots" / SHA).mkdir(parents=True)
    (at / "refs").mkdir()
    (at / "refs" / "main").write_text(SHA)
    save_file(peer.state_dict(), at / "snapshots" / SHA / "model.safetensors")
    return peer


def clip(size: int = 160) -> torch.Tensor:
    return torch.randn(2, 3, 1, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("weights", ["default", "r160_in1k"])
@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_weights_of_the_hub(tmp_path, monkeypatch, name, weights):
    peer = fill_hub(tmp_path, monkeypatch, f"timm/{name}.r160_in1k", name)
    model = create_model(f"timm_{name}", weights=weights).eval()
    with torch.no_grad():
        expected = peer.forward_head(peer.forward_features(clip()[:, :, 0]), pre_logits=True)
        torch.testing.assert_close(model.pooled(clip()), expected)
    assert model.origin == f"timm {name}.r160_in1k"
    assert model.licence == timm.get_pretrained_cfg(f"{name}.r160_in1k").license


def test_the_crop_is_the_one_of_the_weights(tmp_path, monkeypatch):
    fill_hub(tmp_path, monkeypatch, "timm/test_vit.r160_in1k", "test_vit")
    model = create_model("timm_test_vit", weights="default")
    config = timm.data.resolve_data_config(model=model.trunk)
    own = timm.data.create_transform(**config, is_training=False).transforms
    assert isinstance(own[0], TorchvisionResize)
    assert isinstance(own[1], CenterCrop)
    assert model.resize == Resize("crop", own[0].interpolation.value)
    assert (model.sampling.resized, model.sampling.size) == (own[0].size, own[1].size[0])
    assert create_model("timm_test_vit").resize == Resize()  # nobody's weights, nobody's crop


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_weights_of_a_file(tmp_path, ending):
    peer = shake(timm.create_model("test_vit"))
    file = tmp_path / f"weights{ending}"
    save_file(peer.state_dict(), file) if ending == ".safetensors" else torch.save(peer.state_dict(), file)
    model = create_model("timm_test_vit", weights=str(file))
    assert torch.equal(model.trunk.blocks[2].attn.qkv.weight, peer.blocks[2].attn.qkv.weight)
    assert (model.origin, model.licence) == (str(file), "")


def test_positions_are_resampled(tmp_path):
    peer = shake(timm.create_model("test_vit"))
    save_file(peer.state_dict(), tmp_path / "weights.safetensors")
    model = create_model("timm_test_vit", weights=str(tmp_path / "weights.safetensors"), size=96)
    assert model.trunk.pos_embed.shape[1] == 6 * 6 + 1
    assert model.sampling.size == 96


def test_missing_weights_are_no_random_ones(tmp_path):
    weights = timm.create_model("test_vit").state_dict()
    del weights["blocks.1.attn.qkv.weight"]
    save_file(weights, tmp_path / "some.safetensors")
    with pytest.raises(VieError, match=r"timm_test_vit cannot be loaded .*blocks\.1\.attn\.qkv\.weight"):
        create_model("timm_test_vit", weights=str(tmp_path / "some.safetensors"))


def test_nothing_is_unpickled(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"state_dict": Hostile()}, tmp_path / "weights.pth")
    with pytest.raises(VieError, match="cannot be loaded"):
        create_model("timm_test_vit", weights=str(tmp_path / "weights.pth"))
    assert not (tmp_path / "ran").exists()


def test_unknown_weights_and_no_network(tmp_path, monkeypatch):
    with pytest.raises(VieError, match=r"timm_resnet18 has no weights 'imagenet': give 'default' or one of a1_in1k"):
        create_model("timm_resnet18", weights="imagenet")
    with pytest.raises(VieError, match="there are none; leave weights out"):
        create_model("timm_swinv2_cr_tiny_384", weights="default")
    fill_hub(tmp_path, monkeypatch, "timm/other", "test_vit")
    with pytest.raises(VieError, match=r"the weights 'default' of timm_test_vit cannot be loaded .*check the network"):
        create_model("timm_test_vit", weights="default")


def test_a_saved_encoder_fetches_nothing(tmp_path, monkeypatch):
    fill_hub(tmp_path / "hub", monkeypatch, "timm/test_vit.r160_in1k", "test_vit")
    model = create_model("timm_test_vit", weights="default").eval()
    save_pretrained(model, tmp_path / "saved", model.sampling)
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    loaded = load(tmp_path / "saved")
    assert loaded.model.resize == model.resize
    assert loaded.model.licence == loaded.card["licence"] == model.licence
    assert loaded.model.arguments == {"weights": None, "size": 160}
    with torch.no_grad():
        assert torch.equal(loaded.model(clip()), model(clip()))


@pytest.mark.parametrize("name", ["test_vit", "deit_tiny_distilled_patch16_224", "eva02_tiny_patch14_224"])
def test_class_token(name):
    model = shake(create_model(f"timm_{name}"))
    pictures = clip(model.sampling.size)
    with torch.no_grad():
        taps = model.forward_features(pictures.repeat(1, 1, 2, 1, 1))
        tokens = model.trunk.forward_features(pictures[:, :, 0])
    assert taps["cls"].shape == (2, model.num_features, 2, 1, 1)
    torch.testing.assert_close(taps["cls"][:, :, 1, 0, 0], tokens[:, 0])


@pytest.mark.parametrize("name", ["test_resnet", "vit_relpos_small_patch16_224"])
def test_no_class_token(name):
    model = create_model(f"timm_{name}").eval()
    with torch.no_grad():
        assert "cls" not in model.forward_features(clip(model.sampling.size))
