"""The bounded cache, by one process and by several at once."""

import contextlib
import multiprocessing
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from vie.errors import VieError
from vie.video.cache import Cache, default_folder


def content_of(key: int, size: int = 1000) -> bytes:
    return np.random.default_rng(key).bytes(size)


def held(folder: Path) -> int:
    """Bytes of all files of a cache; one that is renamed meanwhile is counted once."""
    sizes = {}
    for entry in os.scandir(folder):
        with contextlib.suppress(FileNotFoundError):
            if entry.name.endswith(".vie"):
                sizes[entry.stat().st_ino] = entry.stat().st_size
    return sum(sizes.values())


def test_the_longest_unused_goes_first(tmp_path):
    cache = Cache(tmp_path / "new" / "cache", 10_000)
    for key in range(10):
        cache.write(str(key), content_of(key))
        time.sleep(0.01)
    assert all(cache.read(str(key)) == content_of(key) for key in (0, 1))
    cache.write("10", content_of(10))
    kept = [key for key in range(11) if cache.read(str(key)) is not None]
    assert kept == [0, 1, *range(3, 11)]
    assert all(cache.read(str(key)) == content_of(key) for key in kept)


def test_what_is_larger_than_the_cache(tmp_path):
    with pytest.raises(
        VieError, match=r"may hold 999 bytes, less than the 1000 of a single file: set data\.cache_bytes"
    ):
        Cache(tmp_path, 999).write("a", content_of(0))
    Cache(tmp_path, 1000).write("a", content_of(0))
    Cache(tmp_path, 1000).write("b", content_of(1))
    assert (Cache(tmp_path, 1000).read("a"), Cache(tmp_path, 1000).read("b")) == (None, content_of(1))


def test_files_of_others_are_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_bytes(bytes(50_000))
    cache = Cache(tmp_path, 3000)
    for key in range(20):
        cache.write(str(key), content_of(key))
    assert (tmp_path / "thesis.tex").stat().st_size == 50_000
    assert held(tmp_path) <= 3000


def test_a_lost_count_is_counted_again(tmp_path):
    cache = Cache(tmp_path, 5000)
    for key in range(5):
        cache.write(str(key), content_of(key))
    (tmp_path / "used").write_text("nonsense")
    cache.write("5", content_of(5))
    assert held(tmp_path) <= 5000


def test_what_a_killed_process_left_goes_as_well(tmp_path):
    cache = Cache(tmp_path, 5000)
    cache.write("0", content_of(0))
    (tmp_path / "x.partial.vie").write_bytes(bytes(3000))
    os.utime(tmp_path / "x.partial.vie", (0, 0))
    (tmp_path / "used").unlink()
    for key in range(1, 5):
        cache.write(str(key), content_of(key))
    assert not (tmp_path / "x.partial.vie").exists()
    assert cache.read("4") == content_of(4)


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_folder_that_cannot_be_written(tmp_path, place):
    (tmp_path / "file").write_text("not a folder")
    cache = Cache(tmp_path / place, 5000)
    for act in (lambda: cache.write("a", b"b"), lambda: cache.make("a", Path.touch)):
        with pytest.raises(VieError, match=r"file\S* cannot be used \(.*set data\.cache_dir") as caught:
            act()
        assert "\n" not in str(caught.value)


def test_the_default_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "vie"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_folder() == Path.home() / ".cache" / "vie"


def hammer(folder: Path, seed: int, limit: int, results: "multiprocessing.Queue[object]") -> None:
    cache, rng, wrong = Cache(folder, limit), np.random.default_rng(seed), 0
    for key in rng.integers(60, size=300).tolist():
        found = cache.read(str(key))
        if found is None:
            cache.write(str(key), content_of(key, 500 + 10 * key))
        else:
            wrong += found != content_of(key, 500 + 10 * key)
    results.put(wrong)


def test_several_processes_keep_the_bound_and_never_see_half_a_file(tmp_path):
    """A thread looks all the while: the bytes of whole and unfinished files together never exceed the limit."""
    limit, most, over = 12_000, [], threading.Event()
    (tmp_path / "cache").mkdir()

    def watch() -> None:
        while not over.is_set():
            with Cache(tmp_path / "cache")._count():  # files may be finished or go meanwhile, but none is begun
                most.append(held(tmp_path / "cache"))

    results = multiprocessing.Queue()
    processes = [
        multiprocessing.Process(target=hammer, args=(tmp_path / "cache", seed, limit, results)) for seed in range(4)
    ]
    for process in processes:
        process.start()
    watcher = threading.Thread(target=watch)
    watcher.start()
    wrong = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    over.set()
    watcher.join()
    assert wrong == [0] * 4
    assert len(most) > 10
    assert limit / 2 < max(most) <= limit
    assert not list((tmp_path / "cache").glob("*.partial.vie"))


def make(folder: Path, barrier: "threading.Barrier", results: "multiprocessing.Queue[object]") -> None:
    def write(path: Path) -> None:
        results.put("made")
        path.write_bytes(b"half")
        time.sleep(0.2)
        path.write_bytes(b"half and half")

    barrier.wait()
    results.put(Cache(folder).make("table", write).read_bytes())


def test_a_table_is_made_once_and_seen_whole(tmp_path):
    results, barrier = multiprocessing.Queue(), multiprocessing.Barrier(3)
    processes = [multiprocessing.Process(target=make, args=(tmp_path, barrier, results)) for _ in range(3)]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in range(4)]
    for process in processes:
        process.join()
    assert found.count("made") == 1
    assert found.count(b"half and half") == 3


def test_a_table_that_fails_leaves_nothing(tmp_path):
    def write(path: Path) -> None:
        path.write_bytes(bytes(100))
        raise VieError("no")

    with pytest.raises(VieError, match="no"):
        Cache(tmp_path).make("table", write)
    assert not list(tmp_path.glob("*.vie"))


def test_what_is_being_written_is_nobodys_room(tmp_path):
    """Half a table counts, and stays, while others fill the cache to its limit."""
    cache = Cache(tmp_path, 5000)

    def write(path: Path) -> None:
        path.write_bytes(b"first half ")
        for key in range(20):
            cache.write(str(key), content_of(key))
        assert held(tmp_path) <= 5000
        with path.open("ab") as file:
            file.write(b"and the other")

    assert cache.make("table", write, size=2000).read_bytes() == b"first half and the other"


def test_room_is_made_before_a_file_of_known_size_is_written(tmp_path):
    cache = Cache(tmp_path, 5000)
    for key in range(5):
        cache.write(str(key), content_of(key))

    def write(path: Path) -> None:
        assert held(tmp_path) <= 5000
        path.write_bytes(bytes(3000))
        assert held(tmp_path) <= 5000

    cache.make("table", write, size=3000)
    with pytest.raises(VieError, match="may hold 5000 bytes, less than the 5001"):
        cache.make("other", Path.unlink, size=5001)


def waits(folder: Path, key: str, seconds: float = 0.3) -> bool:
    """Whether another process has to wait for a key."""
    process = multiprocessing.Process(target=hold, args=(folder, key))
    process.start()
    process.join(seconds)
    waited = process.is_alive()
    process.terminate()
    process.join()
    return waited


def hold(folder: Path, key: str) -> None:
    with Cache(folder).alone(key):
        pass


def test_one_lock_within_another_gives_up_none_of_them(tmp_path):
    cache = Cache(tmp_path)
    with cache.alone("frames"):
        with cache.alone("block"):
            assert waits(tmp_path, "frames")
            assert waits(tmp_path, "block")
        assert waits(tmp_path, "frames")
        assert not waits(tmp_path, "block", 10)
    assert not waits(tmp_path, "frames", 10)
