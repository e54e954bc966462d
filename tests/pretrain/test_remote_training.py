"""Runs on a corpus behind a URL are runs on the corpus itself."""

import os
import shutil
import traceback

import pytest

import vie.video.remote as module
from benchmarks.cli import main as bench
from pretrain.failures import read_failures
from pretrain.settings import parse_config
from pretrain.train import Trainer
from tests.conftest import tiny_run
from tests.pretrain.test_train import assert_same_state, trained
from tests.server import serving
from vie.errors import UnreachableError
from vie.hub import load

BLOCK = 20_000


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "WAITS", (0.01, 0.02))
    monkeypatch.setattr(module, "BLOCK", BLOCK)


@pytest.fixture(scope="module")
def local(tiny_corpus, tmp_path_factory) -> Trainer:
    return trained(tiny_corpus, tmp_path_factory.mktemp("runs") / "local")


@pytest.mark.parametrize(
    ("ranges", "settings"),
    [
        (True, ("data.workers=2",)),
        (False, ("data.workers=2",)),
        (True, ("data.workers=3", f"data.cache_bytes={10 * BLOCK}")),
        (True, ("data.workers=0",)),
    ],
    ids=["ranges", "no ranges", "small cache", "no workers"],
)
def test_a_run_over_http_is_the_run_on_disk(local, tiny_corpus, tmp_path, ranges, settings):
    """Bit for bit, with worker processes, with faults on the way, and on a cache that holds little of the corpus."""
    count = iter(range(10**9))
    failed = set()

    def every_third_fails_once(handler, name):
        asked = name, handler.headers.get("Range")
        if asked in failed or next(count) % 3:
            return False
        failed.add(asked)
        return handler.cut_short(name) if ranges else handler.refuse()

    with serving(tiny_corpus, ranges, every_third_fails_once) as server:
        job = trained(server.url, tmp_path / "run", f"data.cache_dir={tmp_path / 'cache'}", *settings)
    assert_same_state(job, local)
    assert not read_failures(job.run)
    card = load(tmp_path / "run" / "encoder-la").card
    assert card["training"] == load(local.run / "encoder-la").card["training"] | {"corpus": "corpus"}
    assert "127.0.0.1" not in str(card)


def test_a_run_goes_on_where_the_corpus_has_moved_to(local, tiny_corpus, tmp_path):
    settings = [f"data.cache_dir={tmp_path / 'cache'}", "local_aggregation.steps=8"]
    trained(tiny_corpus, tmp_path / "run", "local_aggregation.steps=3")
    with serving(tiny_corpus) as server:
        assert_same_state(trained(server.url, tmp_path / "run", *settings), local)


def test_damage_behind_a_url_is_left_out_and_named(tiny_corpus, tmp_path):
    folder = shutil.copytree(tiny_corpus, tmp_path / "corpus")
    os.truncate(folder / "shard-000001.tar", 3000)
    on_disk = trained(folder, tmp_path / "on disk")
    with serving(folder) as server:
        remote = trained(server.url, tmp_path / "remote", f"data.cache_dir={tmp_path / 'cache'}", "data.workers=2")
    assert_same_state(remote, on_disk)
    ends = [[row[:3] for row in read_failures(job.run)] for job in (remote, on_disk)]
    assert ends[0] == ends[1] != []


@pytest.mark.parametrize("cache", ["none", "device"])
def test_a_server_that_fails_ends_the_run_and_the_run_goes_on(local, tiny_corpus, tmp_path, cache):
    """What is not known to be damaged must not be left out: it would be another run."""
    settings = [f"data.cache_dir={tmp_path / 'cache'}", "data.workers=2", f"data.cache={cache}"]
    count = iter(range(10**9))
    tars_fail_after = 4 if cache == "none" else 0

    def fails_in_time(handler, name):
        return name.endswith(".tar") and next(count) >= tars_fail_after and handler.refuse()

    with serving(tiny_corpus, fault=fails_in_time) as server:
        with pytest.raises(UnreachableError, match=r"shard-00000\d\.tar cannot be fetched") as caught:
            Trainer(parse_config([], tiny_run(server.url, tmp_path / "run", *settings))).train()
        # The error and the frames that hold the run's workers are a cycle: collected as garbage, each ends 5 s later.
        traceback.clear_frames(caught.tb)
        server.fault = None
        if cache == "none":
            assert_same_state(trained(server.url, tmp_path / "run", *settings), local)


def test_transfer_over_http(local, tiny_corpus, tmp_path):
    arguments = ["--mode", "knn", "data.workers=2", "data.clips=2", "runtime.device=cpu", "runtime.precision=fp32"]
    encoder = str(local.run / "encoder-la")
    bench(["transfer", "small", encoder, "--data", str(tiny_corpus), "--out", str(tmp_path / "disk"), *arguments])
    with serving(tiny_corpus) as server:
        cache = [f"data.cache_dir={tmp_path / 'cache'}", f"data.cache_bytes={8 * BLOCK}"]
        bench(["transfer", "small", encoder, "--data", server.url, "--out", str(tmp_path / "http"), *arguments, *cache])
    (disk,), (http,) = (list((tmp_path / name).glob("*.json")) for name in ("disk", "http"))
    assert disk.name == http.name
    without = [
        [line for line in file.read_text().splitlines() if "corpus" not in line and "seconds" not in line]
        for file in (disk, http)
    ]
    assert without[0] == without[1]
