import os
import pickle
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from torchvision.transforms.v2 import functional as tv

from vie import Encoder, Sampling, VieError, create_model, hub, list_models, load, save_pretrained
from vie.hub import CARD_NAME, WEIGHTS_NAME
from vie.models import Stream
from vie.video.pixels import centre_boxes, crop_resize, normalise

SAMPLING = Sampling(frames=4, stride=2, fps=25.0, size=28)


def pixels(batch: int = 3, frames: int = 4, height: int = 40, width: int = 50) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, frames, height, width, 3), dtype=torch.uint8, generator=generator)


def saved(folder: Path, name: str = "vie_single_r18", card: dict | None = None) -> Encoder:
    torch.manual_seed(1)
    model = create_model(name, width=4, embed_dim=8).train()
    model(torch.randn(8, 3, 4, 28, 28))  # the batch norms now have statistics
    save_pretrained(model.eval(), folder, SAMPLING, card)
    return Encoder(model, SAMPLING)


def assert_refused(folder: Path, *words: str) -> None:
    with pytest.raises(VieError) as caught:
        load(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize("name", list_models("vie_*"))
def test_round_trip(tmp_path, name):
    before = saved(tmp_path / "a" / "b", name, {"metrics": {"knn": 12.5}, "licence": "ask"})
    after = load(tmp_path / "a" / "b")
    assert not after.training
    assert after.sampling == SAMPLING
    assert after.card["metrics"] == {"knn": 12.5}
    assert after.model.model_name == name
    assert after.model.num_features == before.model.num_features
    with torch.no_grad():
        for frames in (pixels(), pixels(height=28, width=90), pixels(height=200, width=33)):
            assert torch.equal(after(frames), before(frames))
            assert torch.equal(after.pooled(frames), before.pooled(frames))
        torch.testing.assert_close(after(pixels()).norm(dim=1), torch.ones(3))
        taps = after.forward_features(pixels())
    assert list(taps)[:5] == ["conv1", "conv2", "conv3", "conv4", "conv5"]


def test_saving_twice_replaces_and_leaves_no_other_file(tmp_path):
    saved(tmp_path, "vie_resnet3d_r18", {"note": "first"})
    encoder = saved(tmp_path, card={"note": "second"})
    assert sorted(os.listdir(tmp_path)) == [CARD_NAME, WEIGHTS_NAME]
    assert load(tmp_path).card["note"] == "second"
    assert torch.equal(load(str(tmp_path))(pixels()), encoder(pixels()))


def test_create_model_takes_saved_weights(tmp_path):
    before = saved(tmp_path)
    model = create_model("vie_single_r18", pretrained=tmp_path, width=4, embed_dim=8).eval()
    clip = torch.randn(2, 3, 1, 28, 28)
    assert torch.equal(model(clip), before.model(clip))
    with pytest.raises(VieError, match="does not fit"):
        create_model("vie_single_r18", pretrained=tmp_path, width=8, embed_dim=8)


@pytest.mark.parametrize(
    "frames",
    [
        pixels().float(),
        pixels().to(torch.int64),
        pixels()[0],
        pixels().permute(0, 1, 4, 2, 3),
        pixels()[..., :1],
    ],
    ids=["float", "int64", "no batch", "channels first", "one channel"],
)
def test_wrong_frames(tmp_path, frames):
    saved(tmp_path)
    with pytest.raises(VieError, match=r"uint8 pixels of shape \(B, T, H, W, 3\)"):
        load(tmp_path)(frames)


def cropped(frames: torch.Tensor) -> torch.Tensor:
    boxes = centre_boxes(np.full(len(frames), frames.shape[2]), np.full(len(frames), frames.shape[3]), SAMPLING)
    return normalise(crop_resize(frames, torch.from_numpy(boxes), 28))


@pytest.mark.parametrize(("height", "width"), [(20, 30), (32, 32), (40, 50), (70, 38)])
def test_frames_near_the_size_are_cropped_alone(height, width):
    frames = pixels(height=height, width=width)
    assert torch.equal(Encoder(create_model("vie_single_r18", width=4), SAMPLING).preprocess(frames), cropped(frames))


@pytest.mark.parametrize(("height", "width"), [(240, 320), (333, 200)])
def test_large_frames_are_shrunk_as_those_of_a_corpus(height, width):
    frames = pixels(2, 3, height, width)
    frames[:, :, ::4] = 0
    scale = 32 / min(height, width)
    resized = [round(height * scale), round(width * scale)]
    images = tv.resize(frames.permute(0, 1, 4, 2, 3), resized, antialias=True)
    wanted = cropped(images.permute(0, 1, 3, 4, 2))
    found = Encoder(create_model("vie_single_r18", width=4), SAMPLING).preprocess(frames)
    assert found.shape == (2, 3, 3, 28, 28)
    assert (found - wanted).abs().max() < 0.03  # one grey level, from rounding
    assert (found - cropped(frames)).abs().mean() > 0.3


def test_pooled_is_a_mean_in_float32():
    torch.manual_seed(0)
    model = create_model("vie_single_r18", width=4, embed_dim=8)
    clip = torch.randn(8, 3, 1, 56, 56)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tap = model.forward_features(clip)["conv5"]
        pooled = model.pooled(clip)
        embedding = model.embed(pooled)
    assert (tap.dtype, pooled.dtype, embedding.dtype) == (torch.bfloat16, torch.float32, torch.float32)
    assert not torch.equal(pooled, pooled.bfloat16().float())
    torch.testing.assert_close(pooled, tap.double().mean(dim=(2, 3, 4)).float())
    embedding[:, 0].sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
    for dtype, wanted in ((torch.float64, torch.float64), (torch.bfloat16, torch.float32)):
        assert model.to(dtype)(clip.to(dtype)).dtype == wanted
    assert model.double().pooled(clip.double()).dtype == torch.float64


def test_a_model_that_could_not_be_loaded_is_not_saved(tmp_path):
    class Mine(Stream):
        pass

    with pytest.raises(VieError, match="Mine could not be loaded again: make it by create_model"):
        save_pretrained(Mine(4, 8), tmp_path / "encoder", SAMPLING)
    assert not (tmp_path / "encoder").exists()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("I/O error\nfull")])
def test_a_failed_save_leaves_the_encoder_before_it(tmp_path, monkeypatch, error):
    before = saved(tmp_path, card={"note": "first"})

    def fail(weights, path):
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(hub, "save_file", fail)
    with pytest.raises(VieError, match=r"cannot be written to .*: free some space") as caught:
        saved(tmp_path, "vie_resnet3d_r18")
    assert "\n" not in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == [CARD_NAME, WEIGHTS_NAME]
    assert torch.equal(load(tmp_path)(pixels()), before(pixels()))


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(VieError, match="cannot be written to"):
        saved(tmp_path / "file" / "encoder")


@pytest.mark.parametrize("damage", ["empty", "cut header", "cut weights", "noise", "missing"])
def test_damaged_weights(tmp_path, damage):
    saved(tmp_path)
    path = tmp_path / WEIGHTS_NAME
    content = path.read_bytes()
    damaged = {
        "empty": b"",
        "cut header": content[:100],
        "cut weights": content[:-500],
        "noise": bytes(range(256)) * 20,
    }
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(damaged[damage])
    assert_refused(tmp_path, WEIGHTS_NAME)


class _Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("write", [pickle.dump, torch.save])
def test_pickle_is_refused_and_not_run(tmp_path, write):
    folder, trace = tmp_path / "encoder", tmp_path / "trace"
    saved(folder)
    with (folder / WEIGHTS_NAME).open("wb") as file:
        write({"model": _Touch(trace)}, file)
    assert_refused(folder, WEIGHTS_NAME)
    assert not trace.exists()


@pytest.mark.parametrize("source", ["nowhere", "./no/where", "/no/where", "a/b/c"])
def test_missing_folder(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    assert_refused(Path(source) if source.startswith("/") else source, "is no folder")


@pytest.mark.parametrize("error", [ConnectionError("no\nnetwork"), ValueError("bad id"), RuntimeError()])
def test_a_hub_that_does_not_answer(tmp_path, monkeypatch, error):
    def snapshot_download(*_, **__):
        raise error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=snapshot_download))
    assert_refused("runs/typo", "runs/typo is no folder", "check the path or the hub id")


def test_import_is_light():
    heavy = (
        "decord av torchcodec webdataset faiss sklearn matplotlib jsonargparse tensorboard pytorchvideo huggingface_hub"
    )
    code = f"import sys, vie; print([name for name in {heavy.split()} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_half_precision_is_half_as_large_and_loads_like_any_other(tmp_path):
    whole = saved(tmp_path / "whole")
    save_pretrained(whole.model, tmp_path / "half", SAMPLING, half=True)
    sizes = [(tmp_path / name / WEIGHTS_NAME).stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.65 * sizes[0]  # the names weigh too in so small a network
    loaded = load(tmp_path / "half")
    assert {tensor.dtype for tensor in loaded.model.parameters()} == {torch.float32}
    with torch.no_grad():
        torch.testing.assert_close(loaded(pixels()), whole.eval()(pixels()), rtol=0, atol=5e-3)
    with torch.no_grad():
        whole.model.trunk.stem.weight[0, 0, 0, 0] = 1e6
    with pytest.raises(VieError, match=r"trunk\.stem\.weight holds values beyond float16's 65,504"):
        save_pretrained(whole.model, tmp_path / "large", SAMPLING, half=True)
    assert not (tmp_path / "large").exists()


def test_what_was_loaded_in_inference_mode_can_be_trained(tmp_path):
    model = create_model("vie_single_r18", width=4)
    save_pretrained(model, tmp_path, model.sampling)
    with torch.inference_mode():
        loaded = load(tmp_path).model
    loaded.pooled(torch.zeros(1, 3, 1, 32, 32)).sum().backward()
    assert any(parameter.grad is not None for parameter in loaded.parameters())
