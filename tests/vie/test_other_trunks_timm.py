import pytest
import torch
from torch import Tensor, nn

from tests.vie.test_other_trunks import classified, give_weights, shake, size_of
from vie import Sampling, VieError, create_model, load, save_pretrained

timm = pytest.importorskip("timm", reason="timm is not installed")

VIT = "timm_vit_tiny_patch16_224"


def clip(size: int, frames: int = 1, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, frames, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "classifier", "size"),
    [
        ("resnet18", "fc", 64),
        ("convnext_atto", "head.fc", 64),
        ("mobilenetv3_small_050", "classifier", 64),
        ("vit_tiny_patch16_224", "head", 224),
        ("vit_relpos_small_patch16_224", "head", 224),  # pools its tokens; it has no class token
    ],
)
def test_pooled_is_what_the_network_itself_classifies(name, classifier, size):
    peer, model = shake(timm.create_model(name, num_classes=7)), create_model(f"timm_{name}").eval()
    give_weights(peer, model)
    end = peer.get_submodule(classifier)
    assert isinstance(end, nn.Linear)
    assert size_of(model) - size_of(model.head) == size_of(peer) - size_of(end)
    pictures = clip(size)
    with torch.no_grad():
        torch.testing.assert_close(model.pooled(pictures), classified(peer, end, pictures[:, :, 0]))
    assert model.sampling == Sampling(frames=1, stride=1, fps=25.0, size=224)


@pytest.mark.parametrize("name", ["timm_resnet18", VIT])
def test_frames_are_seen_alone_and_averaged(name):
    model, frames = shake(create_model(name)), clip(64, frames=3)
    with torch.no_grad():
        alone = torch.stack([model.pooled(frames[:, :, number : number + 1]) for number in range(3)])
        torch.testing.assert_close(model.pooled(frames), alone.mean(dim=0), rtol=1e-4, atol=1e-4)
        taps, last = model.forward_features(frames), model.forward_features(frames[1:, :, 2:])
    for name, tap in taps.items():
        assert tap.shape[2] == 3
        torch.testing.assert_close(tap[1, :, 2], last[name][0, :, 0], rtol=1e-4, atol=1e-4)


def test_stages_are_taps():
    model, pictures = shake(create_model("timm_resnet18")), clip(64)
    trunk = model.trunk
    with torch.no_grad():
        taps = model.forward_features(pictures)
        expected = trunk.layer1(trunk.maxpool(trunk.act1(trunk.bn1(trunk.conv1(pictures[:, :, 0])))))
        torch.testing.assert_close(taps["conv2"][:, :, 0], expected)
        torch.testing.assert_close(taps["conv5"].mean(dim=(2, 3, 4)), model.pooled(pictures))
        torch.testing.assert_close(taps.pop("head").flatten(1), model.pooled(pictures))
    assert [tuple(tap.shape[1:]) for tap in taps.values()] == [
        (64, 1, 32, 32),
        (64, 1, 16, 16),
        (128, 1, 8, 8),
        (256, 1, 4, 4),
        (512, 1, 2, 2),
    ]


@pytest.mark.parametrize(
    ("name", "names", "channels"),
    [
        ("timm_convnext_atto", ["conv2", "conv3", "conv4", "conv5"], [40, 80, 160, 320]),
        ("timm_levit_128s", ["conv3", "conv4", "conv5"], [128, 256, 384]),
        ("timm_vgg11", ["conv1", "conv2", "conv3", "conv4", "conv5"], [128, 256, 512, 512, 512]),
    ],
)
def test_other_numbers_of_stages(name, names, channels):
    model = create_model(name).eval()
    with torch.no_grad():
        taps = model.forward_features(clip(224, batch=1))
        assert taps.pop("head").flatten(1).shape == (1, model.num_features)
    assert list(taps) == names
    assert [tap.shape[1] for tap in taps.values()] == channels


def test_tokens_become_maps():
    model, pictures = shake(create_model(VIT)), clip(64)
    with torch.no_grad():
        taps = model.forward_features(pictures)
        del taps["head"], taps["cls"]
        tokens = model.trunk.forward_features(pictures[:, :, 0])
        depths = [tap[:, :, 0].flatten(2).transpose(1, 2) for tap in taps.values()]
        blocks: list[Tensor] = []
        for number in (2, 4, 7, 9, 11):  # of 0 to 11
            model.trunk.blocks[number].register_forward_hook(lambda _module, _given, seen: blocks.append(seen))
        model.pooled(pictures)
        for depth, block in zip(depths, blocks, strict=True):
            torch.testing.assert_close(depth, model.trunk.norm(block)[:, 1:])
    torch.testing.assert_close(depths[-1], tokens[:, 1:])
    assert [tuple(tap.shape) for tap in taps.values()] == [(2, 192, 1, 4, 4)] * 5


@pytest.mark.parametrize("size", [32, 64, 112, 240])
def test_vit_takes_every_size_that_its_patch_divides(size):
    model = shake(create_model(VIT, embed_dim=8))
    with torch.no_grad():
        assert model(clip(size)).shape == (2, 8)
        assert model.forward_features(clip(size))["conv5"].shape == (2, 192, 1, size // 16, size // 16)


def test_vit_built_for_small_pictures():
    model = create_model(VIT, size=64).eval()
    assert model.sampling.size == 64
    assert model.trunk.pos_embed.shape == (1, 16 + 1, 192)
    assert model.arguments == {"size": 64}
    with torch.no_grad():
        assert model(clip(64)).shape == (2, 128)


def test_network_of_a_fixed_size():
    name = "timm_mixer_s32_224"
    with torch.no_grad():
        assert create_model(name, size=64).eval()(clip(64)).shape == (2, 128)
        with pytest.raises(VieError, match=rf"{name} fails on pictures of 64x64 pixels .*224.*data\.size.*size=PIXELS"):
            create_model(name).eval()(clip(64))
        with pytest.raises(VieError, match=r"60x60 pixels .*divisible by patch size"):
            create_model(VIT).eval()(clip(60))


@pytest.mark.parametrize("name", ["levit_128s", "mvitv2_tiny"])  # a RuntimeError and an IndexError of timm's
def test_sizes_that_timm_refuses_in_other_words(name):
    with pytest.raises(VieError, match=rf"timm_{name} fails on pictures of 100x100 pixels .*: give it its own 224"):
        create_model(f"timm_{name}", size=100).eval()(clip(100, batch=1))


@pytest.mark.parametrize("name", ["xcit_nano_12_p8_224", "nest_tiny"])
def test_sizes_that_timm_does_not_build(name):
    with pytest.raises(VieError, match=rf"'timm_{name}' cannot be built with .*'size': 100.* \(.*\): give it others"):
        create_model(f"timm_{name}", size=100)


def test_lack_of_memory_is_not_taken_for_a_wrong_size(monkeypatch):
    def fail(*_arguments, **_options):
        raise torch.OutOfMemoryError("no memory")

    model = create_model("timm_resnet18")
    monkeypatch.setattr(model.trunk, "forward_intermediates", fail)
    with pytest.raises(torch.OutOfMemoryError):
        model(clip(64))


def test_network_that_cannot_normalise_its_taps():
    peer, model = shake(timm.create_model("hiera_tiny_224", num_classes=7)), create_model("timm_hiera_tiny_224").eval()
    give_weights(peer, model)
    pictures = clip(224, batch=1)
    with torch.no_grad():
        torch.testing.assert_close(model.pooled(pictures), classified(peer, peer.head.fc, pictures[:, :, 0]))
        taps = model.forward_features(pictures)
    assert list(taps) == ["conv2", "conv3", "conv4", "conv5", "head"]
    assert [tap.shape[1] for tap in taps.values()] == [96, 192, 384, 768, 768]


def test_tensors_under_several_names_are_saved(tmp_path):
    model = shake(create_model("timm_coat_tiny"))
    assert len({value.data_ptr() for value in model.state_dict().values()}) < len(model.state_dict())
    save_pretrained(model, tmp_path, model.sampling)
    loaded = load(tmp_path).model
    with torch.no_grad():
        assert torch.equal(loaded(clip(224, batch=1)), model(clip(224, batch=1)))


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "mobilevit_xxs"])
def test_pixels_are_normalised_as_those_of_its_weights(name):
    model, known = create_model(f"timm_{name}"), timm.get_pretrained_cfg(name)
    assert (model.mean, model.std) == (known.mean, known.std)


def test_unknown_network():
    with pytest.raises(VieError, match=r"timm knows no network 'resnet19': did you mean resnet18"):
        create_model("timm_resnet19")
    with pytest.raises(VieError, match=r"timm knows no network 'qqqq': timm\.list_models\(\)"):
        create_model("timm_qqqq")
    with pytest.raises(VieError, match=r"did you mean resnet18"):
        create_model("timm_resnet18.a1_in1k")
    with pytest.raises(VieError, match="did you mean 'timm_resnet18'"):
        create_model("timmresnet18")


def test_nothing_is_downloaded(monkeypatch):
    def fetch(*_arguments, **_options):
        raise AssertionError("weights were asked for")

    monkeypatch.setattr("timm.models._builder.load_pretrained", fetch)
    create_model("timm_resnet18")
    create_model(VIT)
