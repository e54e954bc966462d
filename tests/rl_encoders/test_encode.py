"""Datasets into a feature cache, ahead of training."""

import json
import multiprocessing
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from rl_encoders import ClipBuffer, FeatureCache, load
from rl_encoders.cli import main
from rl_encoders.datasets import open_dataset
from rl_encoders.encode import encode
from tests.rl_encoders.lerobot_folders import CAMERA, LENGTHS, numbers, write_version_2, write_version_3
from vie import VieError, create_model, save_pretrained

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared/data/g1_bottle_lerobot"
LIMIT = 64 * 2**20


@pytest.fixture(scope="module", params=[write_version_2, write_version_3], ids=["version 2", "version 3"])
def written(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lerobot") / "dataset"
    return folder, request.param(folder)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    torch.manual_seed(0)
    model = create_model("vie_single_r18", width=4).eval()
    folder = tmp_path_factory.mktemp("encoder")
    save_pretrained(model, folder, model.sampling)
    return str(folder)


def test_episodes_are_read_as_they_were_written(written):
    folder, frames = written
    dataset = open_dataset(str(folder))
    assert (dataset.cameras, dataset.fps, len(dataset)) == ((CAMERA,), 10.0, 3)
    for number, episode in enumerate(dataset):
        seen = episode.cameras[CAMERA]()
        assert seen.shape == (LENGTHS[number], 96, 128, 3)
        assert (seen.float() - torch.from_numpy(frames[number]).float()).abs().mean() < 6  # H.264 keeps nearly all
        wanted = np.array([row["action"] for row in numbers(number, LENGTHS[number])])
        np.testing.assert_allclose(episode.numbers["action"], wanted)
        assert episode.numbers["observation.state"].shape == (LENGTHS[number], 4)


@pytest.mark.skipif(not REAL.is_dir(), reason="the small real sets are not there")
def test_a_real_dataset():
    dataset = open_dataset(str(REAL))
    episode = next(iter(dataset))
    (camera,) = dataset.cameras
    frames = episode.cameras[camera]()
    assert len(dataset) == 40
    assert frames.shape[1:] == (120, 160, 3)
    assert episode.numbers["action"].shape == (len(frames), 26)
    assert frames.float().std() > 10


def test_a_prepared_corpus(tiny_corpus):
    dataset = open_dataset(str(tiny_corpus))
    assert len(dataset) == 64
    assert next(iter(dataset)).cameras["pixels"]().shape == (10, 24, 28, 3)


def test_what_was_encoded_ahead_is_what_an_agent_gets(written, source, tmp_path):
    folder, _ = written
    cache = FeatureCache(tmp_path / "cache", LIMIT)
    config = {"source": source, "size": 32, "pool": "attention"}
    report = encode(open_dataset(str(folder)), load(**config, cache=cache), [CAMERA], batch=4)
    assert (report.episodes, report.frames, report.failed) == (3, sum(LENGTHS), {})
    again = encode(open_dataset(str(folder)), load(**config, cache=cache), [CAMERA], batch=5)
    assert again.found >= sum(LENGTHS) - report.found
    torch.manual_seed(0)
    agent = load(**config, cache=cache)
    torch.manual_seed(0)
    plain = load(**config)
    before = cache.statistics()
    for episode in open_dataset(str(folder)):
        frames = episode.cameras[CAMERA]()
        torch.testing.assert_close(agent(frames), plain(frames), atol=1e-5, rtol=1e-5)
    assert cache.statistics().misses == before.misses


def test_a_cache_that_is_too_small_is_told(written, source, tmp_path, caplog):
    dataset, maps = open_dataset(str(written[0])), {"source": source, "size": 672, "pool": "attention"}
    encode(dataset, load(**maps, cache=FeatureCache(tmp_path / "large", LIMIT)), [CAMERA])
    assert "pushed out" not in caplog.text
    small = FeatureCache(tmp_path / "small", 2**20)
    encode(dataset, load(**maps, cache=small), [CAMERA])
    assert "pushed out again; make one anew with a larger cache_bytes" in caplog.text
    assert small.statistics().entries < sum(LENGTHS)


def test_an_encoder_of_clips_sees_them_as_it_will_while_acting(written, tmp_path):
    folder, _ = written
    cache = FeatureCache(tmp_path / "cache", LIMIT)
    encoder = load("vie_resnet3d_r18", width=4, size=32, cache=cache)
    dataset = open_dataset(str(folder))
    encode(dataset, encoder, [CAMERA], batch=4)
    frames = next(iter(dataset)).cameras[CAMERA]().numpy()
    buffer = ClipBuffer(encoder.sampling, 10.0)
    clips = np.stack([buffer.reset(frames[0]), *(buffer.append(frame) for frame in frames[1:])])
    before = cache.statistics()
    encoder(clips)
    assert cache.statistics().misses == before.misses


@pytest.mark.parametrize(
    "written",
    [
        pytest.param(write_version_2, id="version 2", marks=pytest.mark.long),
        pytest.param(write_version_3, id="version 3"),
    ],
    indirect=True,
    scope="module",
)
def test_a_killed_command_goes_on(written, source, tmp_path, capsys):
    folder, _ = written
    command = ["encode", str(folder), source, "--cache", str(tmp_path / "cache")]
    command += ["--limit-gb", "0.0625", "--batch", "2", "size=32"]
    # From the server of forks: it shares no more with this process than one of its own, and has its imports.
    process = multiprocessing.get_context("forkserver").Process(target=main, args=(command,))
    process.start()
    while process.is_alive():
        if (tmp_path / "cache").exists() and FeatureCache(tmp_path / "cache", LIMIT).statistics().entries > 4:
            process.kill()
            break
        time.sleep(0.01)
    process.join()
    assert process.exitcode == -signal.SIGKILL, "the command ended before it could be killed"
    main(command)
    told = capsys.readouterr().out
    assert f"{sum(LENGTHS)} frames of 3 episodes are encoded" in told
    found = int(told.split("encoded, ")[1].split()[0])
    assert found >= 4


def test_an_episode_that_cannot_be_read_costs_no_other(source, tmp_path, caplog, capsys):
    folder = tmp_path / "dataset"
    write_version_2(folder)
    (folder / f"videos/chunk-000/{CAMERA}/episode_000001.mp4").write_bytes(b"no video")
    cache = FeatureCache(tmp_path / "cache", LIMIT)
    report = encode(open_dataset(str(folder)), load(source, size=32, cache=cache), [CAMERA])
    assert report.episodes == 2
    assert report.frames == LENGTHS[0] + LENGTHS[2]
    assert list(report.failed) == ["episode 1"]
    assert "episode 1 is left out" in caplog.text
    with pytest.raises(SystemExit) as ended:
        main(["encode", str(folder), source, "--cache", str(tmp_path / "cache"), "--limit-gb", "0.0625", "size=32"])
    assert ended.value.code == 1
    assert "1 episodes could not be read" in capsys.readouterr().err


def test_mistakes_are_named(written, source, tiny_corpus, tmp_path, capsys):
    folder, _ = written
    cache = tmp_path / "cache"
    for arguments, message in (
        ([str(tmp_path / "absent"), source], "absent"),
        ([str(folder), source, "--cameras", "top"], f"has no camera 'top': it has {CAMERA}"),
        ([str(folder), source, "mode=finetune"], "mode=finetune trains it from the first step: leave cache out"),
        ([str(folder), source, "pol=mean"], "did you mean 'pool'"),
        ([str(folder), source, "what"], "unknown argument what"),
        ([str(tiny_corpus), "vie_resnet3d_r18", "width=4", "size=32"], "does not tell its frame rate"),
    ):
        with pytest.raises(SystemExit):
            main(["encode", *arguments, "--cache", str(cache)])
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("vie-rl: ")
        assert message in error


def test_other_versions_and_damaged_facts_are_refused(tmp_path):
    (tmp_path / "meta").mkdir()
    for content, message in (
        ("{", "does not describe a LeRobot dataset"),
        (json.dumps({"codebase_version": "v1.6", "features": {}, "fps": 1, "total_episodes": 0}), "2 and 3 are known"),
    ):
        (tmp_path / "meta/info.json").write_text(content)
        with pytest.raises(VieError, match=message):
            open_dataset(str(tmp_path))
