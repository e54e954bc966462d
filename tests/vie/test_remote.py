"""Shards behind URLs: in fsspec's memory, and on a web server of this machine."""

import asyncio
import contextlib
import io
import multiprocessing
import os
import shutil

import fsspec
import numpy as np
import pytest
import torch
from fsspec.asyn import AsyncFileSystem

import vie.video.remote as module
from pretrain.data.prefetch import TIMEOUT
from pretrain.data.readers import ShardReader
from tests.server import serving, silent
from vie.errors import UnreachableError, VieError
from vie.video import Shards
from vie.video.cache import Cache
from vie.video.remote import RemoteFile, RemotePath, SeekableFile

BLOCK = 5_000
PATIENCE = 3  # seconds until a server that should have been given up speaks
WAITS = module.WAITS


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "WAITS", (0.01, 0.02))
    monkeypatch.setattr(module, "BLOCK", BLOCK)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def in_memory(tiny_corpus):
    files = fsspec.filesystem("memory")
    files.put(str(tiny_corpus) + "/", "/corpus", recursive=True)
    yield "memory://corpus"
    files.rm("/corpus", recursive=True)


def equal(one: Shards, other: Shards) -> bool:
    return len(one) == len(other) and all(
        torch.equal(*(shards.read(video, range(shards.num_frames[video])) for shards in (one, other)))
        for video in range(0, len(one), 7)
    )


def test_a_corpus_in_memory_is_the_one_on_disk(tiny_corpus, in_memory, cache):
    local, remote = Shards(tiny_corpus), Shards(in_memory, cache)
    assert remote.name == "corpus"
    assert str(remote.path) == in_memory
    assert remote.names == list(local.names)
    assert equal(local, remote)
    assert equal(local, Shards(in_memory + "/", cache))


@pytest.mark.parametrize("ranges", [True, False])
def test_a_corpus_on_a_web_server(tiny_corpus, cache, ranges):
    with serving(tiny_corpus, ranges) as server:
        assert equal(Shards(tiny_corpus), Shards(server.url, cache))
        if ranges:
            assert max(server.asked.values()) == 1, "a block was fetched twice"
        else:
            fetched = sum(count for (name, _), count in server.asked.items() if name.endswith(".tar"))
            assert fetched == len(list(tiny_corpus.glob("*.tar"))), "the whole of a shard was fetched twice"
        before = server.sent
        assert equal(Shards(tiny_corpus), Shards(server.url, cache))
        assert server.sent == before


@pytest.mark.parametrize("ranges", [True, False])
def test_ranges_are_those_of_the_file(tmp_path, cache, ranges):
    content = np.random.default_rng(0).bytes(10 * BLOCK + 17)
    (tmp_path / "a b%2e?#.tar").write_bytes(content)
    rng = np.random.default_rng(1)
    with open(tmp_path / "a b%2e?#.tar", "rb") as plain, serving(tmp_path, ranges) as server:
        server.RequestHandlerClass.path = property(  # names of files may need quoting
            lambda self: self.quoted.replace("%20", " ").replace("%23", "#").replace("%3F", "?").replace("%25", "%"),
            lambda self, path: setattr(self, "quoted", path),
        )
        try:
            file = RemoteFile(RemotePath(server.url, Cache(cache)) / "a b%2e?#.tar")
            assert file.size == len(content)
            for begin, end in np.sort(rng.integers(len(content) + 1, size=(40, 2))).tolist():
                assert file.read(begin, end - begin) == content[begin:end]
            with pytest.raises(OSError, match="the file ends 1 bytes early"):
                file.read(17, len(content) - 16)
            seekable = SeekableFile(file)
            for reader in (plain, seekable):
                reader.seek(-30, io.SEEK_END)
            assert (seekable.tell(), seekable.read(9), seekable.read()) == (plain.tell(), plain.read(9), plain.read())
        finally:
            del server.RequestHandlerClass.path


def test_a_file_that_changes_is_another(in_memory, cache):
    files = fsspec.filesystem("memory")
    path = RemotePath(in_memory, Cache(cache)) / "x.tar"
    for content in (b"a" * BLOCK * 2, b"b" * BLOCK * 2):
        files.pipe("/corpus/x.tar", content)
        assert RemoteFile(path).read(1, BLOCK * 2 - 1) == content[1:]


def test_a_block_that_the_disk_has_lost_part_of_is_fetched_again(in_memory, tiny_corpus, cache):
    equal(Shards(tiny_corpus), Shards(in_memory, cache))
    for block in cache.glob("*.vie"):
        os.truncate(block, block.stat().st_size // 2)
    assert equal(Shards(tiny_corpus), Shards(in_memory, cache))


def test_a_cache_of_a_few_blocks(in_memory, tiny_corpus, cache):
    assert equal(Shards(tiny_corpus), Shards(in_memory, cache, 3 * BLOCK))
    assert sum(file.stat().st_size for file in cache.glob("*.vie")) <= 3 * BLOCK


def test_a_cache_that_is_too_small(in_memory, tiny_corpus, cache):
    with pytest.raises(VieError, match=rf"may hold 100 bytes, less than the {BLOCK} of a single file.*cache_bytes"):
        Shards(in_memory, cache, 100)
    with serving(tiny_corpus, ranges=False) as server:
        index = (tiny_corpus / "index.parquet").stat().st_size
        shards = Shards(server.url, cache, max(index, 3 * BLOCK))
        with pytest.raises(VieError, match=r"less than the \d+ of a single file"):
            shards.read(0, [0])


def test_no_corpus_behind_a_url(cache, tmp_path):
    with serving(tmp_path) as server, pytest.raises(VieError, match=r"127\.0\.0\.1.*corpus holds no prepared corpus"):
        Shards(server.url, cache)
    with pytest.raises(VieError, match="holds no prepared corpus"):
        Shards("memory://nowhere", cache)
    with pytest.raises(UnreachableError, match="Protocol not known: nosuch"):
        Shards("nosuch://corpus", cache)


def test_a_missing_package_is_named(cache, monkeypatch):
    def absent(url: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "url_to_fs", absent)
    with pytest.raises(VieError, match=r"s3://bucket/corpus/index\.parquet: a package is missing \(Install s3fs"):
        Shards("s3://bucket/corpus", cache)


def failing(times: int, how: str):
    left = {}

    def fault(handler, name):
        left.setdefault(name, times)
        left[name] -= 1
        return left[name] >= 0 and (handler.cut_short(name) if how == "cut" else handler.refuse())

    return fault


@pytest.mark.parametrize("how", ["cut", "refuse"])
@pytest.mark.parametrize("ranges", [True, False])
def test_what_fails_twice_is_asked_for_again(tiny_corpus, cache, how, ranges):
    with serving(tiny_corpus, ranges, failing(2, how)) as server:
        assert equal(Shards(tiny_corpus), Shards(server.url, cache))


@pytest.mark.parametrize("how", ["cut", "refuse"])
def test_what_always_fails_ends_in_one_line(tiny_corpus, cache, how):
    tars = failing(10**9, how)
    with serving(tiny_corpus, fault=lambda handler, name: name.endswith(".tar") and tars(handler, name)) as server:
        shards = Shards(server.url, cache)
        kept = sorted(cache.glob("*.vie"))
        arguments = np.array([0]), np.array([[0]]), np.array([[0, 0, 9, 9]], dtype=np.float32)
        for read in (lambda: shards.decode(0, [0]), lambda: ShardReader(shards).read(*arguments)):
            with pytest.raises(
                UnreachableError, match=r"http://.*shard-000000\.tar cannot be fetched \(.*network"
            ) as caught:
                read()
            assert "\n" not in str(caught.value)
        assert sorted(cache.glob("*.vie")) == kept
        tries = [count for (name, _), count in server.asked.items() if name.endswith(".tar")]
        assert tries == [6]


def test_a_server_that_is_gone(tiny_corpus, cache):
    with serving(tiny_corpus) as server:
        shards = Shards(server.url, cache)
    with pytest.raises(UnreachableError, match="cannot be fetched"):
        shards.decode(0, [0])


def test_a_server_that_says_nothing(tiny_corpus, cache, monkeypatch):
    with serving(tiny_corpus, fault=lambda handler, name: name.endswith(".tar") and handler.stay_silent(0.5)) as server:
        shards = Shards(server.url, cache)
        monkeypatch.setattr(module, "SILENCE", 0.1)
        with pytest.raises(UnreachableError, match=r"shard-000000\.tar cannot be fetched \(.*[Tt]imeout.*the server"):
            shards.decode(0, [0])
    with silent() as port:
        url = f"http://127.0.0.1:{port}/corpus"
        with pytest.raises(UnreachableError, match=rf"{url}/\S+ cannot be fetched \(.*[Tt]imeout.*the server"):
            Shards(url, cache)


def test_another_kind_of_server_that_says_nothing(cache, monkeypatch):
    class Silent(AsyncFileSystem):
        async def _info(self, path, **options):
            assert not options, "packages are not given what they do not know"
            if path.endswith("index.parquet"):
                await asyncio.sleep(PATIENCE)
            return {"name": path, "size": BLOCK, "type": "file"}

        async def _cat_file(self, path, version_id=None, start=None, end=None, **options):  # in s3fs's order
            assert not options
            assert (version_id, start, end) == (None, 0, BLOCK)
            await asyncio.sleep(PATIENCE)

    fsspec.register_implementation("silent", Silent, clobber=True)
    monkeypatch.setattr(module, "ANSWER", 0.1)
    late = r"cannot be fetched \(FSTimeoutError\).*the server"
    with pytest.raises(UnreachableError, match=rf"silent://corpus/index\.parquet {late}"):
        Shards("silent://corpus", cache)
    file = RemoteFile(RemotePath("silent://corpus", Cache(cache)) / "x.tar")
    with pytest.raises(UnreachableError, match=rf"silent://corpus/x\.tar {late}"):
        file.read(0, 1)


def test_a_silent_server_is_given_up_before_the_worker_that_waits_for_it():
    tries = len(WAITS) + 1
    web = 2 * (module.CONNECTING + module.SILENCE)  # fsspec asks web servers in two ways
    for seconds in (web, module.ANSWER):
        assert tries * seconds + sum(WAITS) < 0.85 * TIMEOUT


def test_missing_and_short_shards_are_damage(tiny_corpus, tmp_path, cache):
    folder = shutil.copytree(tiny_corpus, tmp_path / "corpus")
    (folder / "shard-000000.tar").unlink()
    os.truncate(folder / "shard-000001.tar", 2000)
    with serving(folder) as server:
        shards = Shards(server.url, cache)
        with pytest.raises(VieError, match=r"shard-000000\.tar cannot be read \(there is no such file") as caught:
            shards.decode(0, [0])
        assert not isinstance(caught.value, UnreachableError)
        last = np.flatnonzero(
            [shards.locate(video, [0]).path.name == "shard-000001.tar" for video in range(len(shards))]
        )[-1]
        with pytest.raises(VieError, match=r"the file ends \d+ bytes early") as caught:
            shards.decode(int(last), [0])
        assert not isinstance(caught.value, UnreachableError)
        videos = np.array([0, 50, last])
        boxes = np.tile(np.array([[0, 0, 9, 9]], dtype=np.float32), (3, 1))
        pixels = ShardReader(shards).read(videos, np.zeros((3, 1), dtype=np.int64), boxes)
        assert pixels.kept.tolist() == [1]
        assert pixels.failures.keys() == {0, 2}


def read_all(url, cache, limit, seed, results):
    shards = Shards(url, cache, limit)
    order = np.random.default_rng(seed).permutation(len(shards)).tolist()
    results.put({video: int(shards.read(video, [0]).sum()) for video in order})


@pytest.mark.parametrize("limit", [10**9, 6 * BLOCK])
def test_several_processes_of_a_node(tiny_corpus, cache, limit):
    """They fetch each block once where there is room, and where there is hardly any, evict under one another."""
    local = Shards(tiny_corpus)
    results = multiprocessing.Queue()
    with serving(tiny_corpus) as server:
        processes = [
            multiprocessing.Process(target=read_all, args=(server.url, cache, limit, seed, results))
            for seed in range(4)
        ]
        for process in processes:
            process.start()
        found = [results.get(timeout=120) for _ in processes]
        for process in processes:
            process.join()
        if limit == 10**9:
            repeated = {key: count for key, count in server.asked.items() if count > 1}
            assert not repeated
    assert found == [{video: int(local.read(video, [0]).sum()) for video in range(len(local))}] * 4
    assert sum(file.stat().st_size for file in cache.glob("*.vie")) <= limit


def test_a_name_in_a_hostile_index_stays_in_the_corpus(in_memory, cache):
    with contextlib.suppress(VieError):
        Shards(in_memory, cache)
    path = RemotePath("http://server/corpus", Cache(cache)) / "..%2F..%2Fsecret"
    files = fsspec.filesystem("http")
    assert module._inside(files, path.url, path.name) == "http://server/corpus/..%252F..%252Fsecret"
