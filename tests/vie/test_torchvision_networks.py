import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from tests.vie.test_other_trunks import classified, shake
from vie import Resize, Sampling, VieError, create_model, load, load_matching, save_pretrained
from vie.models import TAPS

SIZES = {
    "resnet18": 64,
    "alexnet": 224,  # what it classifies is 6x6 features, pooled here
    "densenet121": 64,
    "efficientnet_b0": 64,
    "googlenet": 64,
    "inception_v3": 96,
    "mnasnet0_5": 64,
    "mobilenet_v2": 64,
    "mobilenet_v3_small": 64,
    "regnet_x_400mf": 64,
    "shufflenet_v2_x0_5": 64,
    "convnext_tiny": 64,
    "swin_t": 64,
    "vit_b_32": 224,
}
CLASSIFIERS = {
    "mobilenet_v3_small": "classifier.0",
    "densenet121": "classifier",
    "efficientnet_b0": "classifier.1",
    "mnasnet0_5": "classifier.1",
    "mobilenet_v2": "classifier.1",
    "convnext_tiny": "classifier.2",
    "alexnet": "avgpool",
    "swin_t": "head",
    "vit_b_32": "heads",
}


def clip(size: int, frames: int = 1) -> Tensor:
    return torch.randn(2, 3, frames, size, size, generator=torch.Generator().manual_seed(0))


def settled(network: nn.Module) -> nn.Module:
    """Norms that are no identity, and branches of which none is nearly silent (ConvNeXt begins so)."""
    for name, parameter in network.named_parameters():
        if "layer_scale" in name:
            nn.init.ones_(parameter)
    return shake(network)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty folder for torchvision's downloads, and no network."""
    folder = tmp_path / "hub"
    (folder / "checkpoints").mkdir(parents=True)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(folder))

    def refuse(*_arguments, **_options):
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    return folder / "checkpoints"


def publish(hub, name: str, weights: str | None = None) -> nn.Module:
    """A network of torchvision whose weights lie where a download would have put them."""
    listed = models.get_model_weights(name)
    entry = listed[weights] if weights else listed.DEFAULT
    image = {"image_size": entry.meta["min_size"][0]} if name.startswith("vit") else {}
    peer = settled(models.get_model(name, weights=None, **image))
    torch.save(peer.state_dict(), hub / entry.url.rpartition("/")[2])
    return peer


@pytest.mark.parametrize("name", SIZES)
def test_it_is_torchvisions_network_without_its_classifier(name):
    # Inception's and GoogLeNet's pixels are centred by themselves, if their weights were trained so: not here.
    more = {"aux_logits": False, "init_weights": True} if name in ("inception_v3", "googlenet") else {}
    peer, model = settled(models.get_model(name, weights=None, **more)), create_model(f"torchvision_{name}").eval()
    match = load_matching(model, peer.state_dict(), prefix="trunk.")
    assert set(match.missing) == {"head.weight", "head.bias"}
    assert match.misshapen == ()
    end, pictures = CLASSIFIERS.get(name, "fc"), clip(SIZES[name])
    beyond = {at.split(".")[1] for at in match.unexpected}
    assert beyond == {"classifier" if name == "alexnet" else end.partition(".")[0]}
    with torch.no_grad():
        expected = classified(peer, peer.get_submodule(end), pictures[:, :, 0])
        if name == "alexnet":
            expected = expected.unflatten(1, (256, -1)).mean(dim=2)
        torch.testing.assert_close(model.pooled(pictures), expected, rtol=1e-4, atol=1e-4)
        taps = model.forward_features(pictures)
    assert all(tap.ndim == 5 and tap.isfinite().all() for tap in taps.values())
    given = [tap for tap in taps if tap in TAPS]
    assert given == list(TAPS[-len(given) :])
    if "vit" not in name:
        sides = [taps[tap].shape[-1] for tap in given]
        assert sides == sorted(set(sides), reverse=True)
        assert "cls" not in taps


def test_stages_are_taps():
    model, pictures = settled(create_model("torchvision_resnet18")), clip(64)
    trunk = model.trunk
    with torch.no_grad():
        taps = model.forward_features(pictures)
        stem = trunk.relu(trunk.bn1(trunk.conv1(pictures[:, :, 0])))
        torch.testing.assert_close(taps["conv1"][:, :, 0], stem)
        torch.testing.assert_close(taps["conv3"][:, :, 0], trunk.layer2(trunk.layer1(trunk.maxpool(stem))))


def test_channels_come_first_and_frames_are_seen_alone():
    model, frames = settled(create_model("torchvision_swin_t")), clip(64, frames=2)
    with torch.no_grad():
        taps = model.forward_features(frames)
        last = model.forward_features(frames[:, :, 1:])
        normed = model.trunk.norm(model.trunk.features(frames[:, :, 0]))
    assert [tuple(taps[tap].shape) for tap in TAPS[1:]] == [
        (2, channels, 2, side, side) for channels, side in ((96, 16), (192, 8), (384, 4), (768, 2))
    ]
    torch.testing.assert_close(taps["conv5"][:, :, 0], normed.movedim(-1, 1))
    torch.testing.assert_close(taps["conv4"][:, :, 1:], last["conv4"], rtol=1e-4, atol=1e-4)


def test_tokens_become_maps():
    model, pictures = settled(create_model("torchvision_vit_b_32", size=96)), clip(96)
    peer = settled(models.vit_b_32(image_size=96))
    load_matching(model, peer.state_dict(), prefix="trunk.")
    tokens = []
    peer.encoder.register_forward_hook(lambda _module, _given, seen: tokens.append(seen))
    with torch.no_grad():
        peer(pictures[:, :, 0])
        taps = model.forward_features(pictures)
    assert [tuple(taps[tap].shape) for tap in TAPS] == [(2, 768, 1, 3, 3)] * 5
    torch.testing.assert_close(taps["conv5"][:, :, 0].flatten(2).transpose(1, 2), tokens[0][:, 1:])
    torch.testing.assert_close(taps["cls"].flatten(1), tokens[0][:, 0])
    with pytest.raises(VieError, match=r"torchvision_vit_b_32 fails on pictures of 64x64 pixels .*give it its own 96"):
        model(clip(64))


@pytest.mark.parametrize("weights", ["default", "DEFAULT", "IMAGENET1K_V1"])
def test_weights_that_were_published(hub, weights):
    peer = publish(hub, "resnet18")
    model = create_model("torchvision_resnet18", weights=weights).eval()
    with torch.no_grad():
        torch.testing.assert_close(model.pooled(clip(64)), classified(peer, peer.fc, clip(64)[:, :, 0]))
    assert model.origin == "torchvision ResNet18_Weights.IMAGENET1K_V1"
    assert model.licence.startswith("unknown (")


@pytest.mark.filterwarnings("ignore:The default weight initialization:FutureWarning")
@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_networks_that_centre_their_pixels(hub, name):
    publish(hub, name)
    entry = models.get_model_weights(name).DEFAULT
    peer = models.get_model(name, weights=entry).eval()  # torchvision's own way to the same file
    model = create_model(f"torchvision_{name}", weights="default").eval()
    pixels = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    shown = entry.transforms()
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (shown.mean, shown.std))
    ours, own = (torch.tensor(values).view(-1, 1, 1) for values in (model.mean, model.std))
    with torch.no_grad():
        expected = classified(peer, peer.fc, (pixels - mean) / std)
        found = model.pooled(((pixels - ours) / own)[:, :, None])
    # Features of millions, of weights that were drawn: what is small among them is a difference of large numbers.
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("name", ["resnet50", "efficientnet_b1", "swin_t"])
def test_pixels_are_those_of_the_weights(hub, name):
    publish(hub, name)
    shown = models.get_model_weights(name).DEFAULT.transforms()
    model = create_model(f"torchvision_{name}", weights="default")
    assert (list(model.mean), list(model.std)) == (shown.mean, shown.std)
    assert model.resize == Resize("crop", shown.interpolation.value)
    assert [model.sampling.resized, model.sampling.size] == [shown.resize_size[0], shown.crop_size[0]]
    pixels = torch.randint(0, 256, (400, 300, 3), dtype=torch.uint8)
    ours = model.resize(pixels[None, None], model.sampling)[0, :, 0]
    theirs = shown(pixels.permute(2, 0, 1)) * torch.tensor(shown.std).view(-1, 1, 1)
    assert (ours - theirs - torch.tensor(shown.mean).view(-1, 1, 1)).abs().max() < 1.1 / 255


def test_names_from_before_dots_were_refused(hub):
    peer = publish(hub, "densenet121")
    file = next(hub.iterdir())
    old = {at.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): it for at, it in peer.state_dict().items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, file)
    model = create_model("torchvision_densenet121", weights="default")
    ours, theirs = (network.features.denseblock1.denselayer1 for network in (model.trunk, peer))
    assert torch.equal(ours.norm1.weight, theirs.norm1.weight)


def test_positions_are_resampled(hub):
    publish(hub, "vit_b_32")
    model = create_model("torchvision_vit_b_32", weights="default", size=96).eval()
    with torch.no_grad():
        assert model(clip(96)).shape == (2, 128)


def test_video_weights(hub):
    peer = publish(hub, "r3d_18")
    model = create_model("torchvision_r3d_18", weights="KINETICS400_V1")
    assert torch.equal(model.trunk.layer4[1].conv2[0].weight, peer.layer4[1].conv2[0].weight)
    assert model.origin == "torchvision R3D_18_Weights.KINETICS400_V1"


def test_a_licence_that_torchvision_knows(hub):
    publish(hub, "vit_b_16", "IMAGENET1K_SWAG_LINEAR_V1")
    model = create_model("torchvision_vit_b_16", weights="IMAGENET1K_SWAG_LINEAR_V1")
    assert model.licence == "https://github.com/facebookresearch/SWAG/blob/main/LICENSE"


def test_a_saved_encoder_fetches_nothing(hub, tmp_path):
    publish(hub, "resnet18")
    model = create_model("torchvision_resnet18", weights="default").eval()
    save_pretrained(model, tmp_path / "saved", model.sampling)
    next(hub.iterdir()).unlink()
    loaded = load(tmp_path / "saved").model
    assert loaded.resize == model.resize
    with torch.no_grad():
        assert torch.equal(loaded(clip(64)), model(clip(64)))


def test_files_and_refusals(hub, tmp_path):
    peer = settled(models.resnet18())
    torch.save(peer.state_dict(), tmp_path / "mine.pth")
    model = create_model("torchvision_resnet18", weights=str(tmp_path / "mine.pth"))
    assert torch.equal(model.trunk.conv1.weight, peer.conv1.weight)
    with pytest.raises(VieError, match=r"the weights .*mine\.pth' of torchvision_resnet34 cannot be loaded"):
        create_model("torchvision_resnet34", weights=str(tmp_path / "mine.pth"))
    with pytest.raises(VieError, match=r"torchvision_resnet18 cannot be loaded \(no network\): check the network"):
        create_model("torchvision_resnet18", weights="default")
    with pytest.raises(VieError, match="has no weights 'V3': give 'default' or one of IMAGENET1K_V1"):
        create_model("torchvision_resnet18", weights="V3")
    with pytest.raises(VieError, match="torchvision knows no image network 'resnet19': did you mean resnet1"):
        create_model("torchvision_resnet19")


def test_nothing_is_unpickled(hub, tmp_path):
    class Hostile:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"conv1.weight": Hostile()}, hub / models.ResNet18_Weights.DEFAULT.url.rpartition("/")[2])
    with pytest.raises(VieError, match="cannot be loaded"):
        create_model("torchvision_resnet18", weights="default")
    assert not (tmp_path / "ran").exists()


def test_random_networks_keep_the_crop_of_vie():
    model = create_model("torchvision_resnet50")
    assert model.sampling == Sampling(frames=1, stride=1, fps=25.0, size=224)
    assert (model.resize, model.origin) == (Resize(), "random weights")
