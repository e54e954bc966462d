"""The feature cache: what it returns is what was encoded, whatever happens to its file and its processes."""

import contextlib
import multiprocessing
import os
import pickle
import resource
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from rl_encoders import cache_store
from rl_encoders.cache import FeatureCache, GoneError
from rl_encoders.cache_store import KEY, LEAST, NAME, PAGE
from vie.errors import VieError

SHAPE, HALF, FULL = (512,), torch.float16, torch.float32
FORK = multiprocessing.get_context("fork")


def images_of(numbers) -> np.ndarray:
    """An image of 4 x 4 pixels for each number, which is in its first bytes."""
    numbers = np.asarray(numbers, np.int64)
    rest = (numbers[:, None] * np.arange(1, 41)) % 251
    return np.concatenate([numbers[:, None].view(np.uint8), rest], axis=1).astype(np.uint8).reshape(-1, 4, 4, 3)


def features_of(images) -> torch.Tensor:
    """Some function of an image that float16 must round."""
    rows = torch.as_tensor(images).reshape(len(images), -1).double()
    wave = torch.linspace(0.1, 3, SHAPE[0], dtype=torch.float64)
    return (rows.float().sum(1, keepdim=True).double() + (rows @ torch.arange(48.0).double())[:, None] / 7 * wave).sin()


class Encoder:
    """Remembers what it was given."""

    def __init__(self):
        self.calls = []

    def __call__(self, images):
        self.calls.append(images)
        return features_of(images)


def through(cache, numbers, dtype=HALF, encode=features_of):
    return cache.through("f", images_of(numbers), encode, SHAPE, dtype)


def right(numbers, dtype=HALF):
    return features_of(images_of(numbers)).to(dtype)


def found(cache, numbers, dtype=HALF):
    """Which are there; those must be right."""
    keys = cache.keys("f", images_of(numbers))
    there = np.ones(len(keys), bool)
    try:
        cache.get(keys, SHAPE, dtype)
    except GoneError as error:
        there = ~error.gone
    kept = np.asarray(numbers)[there]
    if len(kept):
        assert torch.equal(cache.get(keys[there], SHAPE, dtype), right(kept, dtype))
    return set(kept.tolist())


class TestWhatIsReturned:
    @pytest.mark.parametrize("dtype", [HALF, FULL])
    @pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
    def test_the_same_computed_or_found(self, tmp_path, dtype, kind):
        cache, encode = FeatureCache(tmp_path / "new" / "cache", LEAST), Encoder()
        numbers = [5, 3, 5, 9, 3, 7]
        images = kind(images_of(numbers))
        first = cache.through("f", images, encode, SHAPE, dtype)
        again = cache.through("f", images, encode, SHAPE, dtype)
        assert (first.dtype, first.shape, first.device.type) == (dtype, (6, *SHAPE), "cpu")
        assert torch.equal(first, right(numbers, dtype))
        assert torch.equal(first, again)
        # Each once, in the order of their first occurrence, and as what they came.
        assert len(encode.calls) == 1
        assert type(encode.calls[0]) is type(images)
        np.testing.assert_array_equal(np.asarray(encode.calls[0]), images_of([5, 3, 9, 7]))
        statistics = cache.statistics()
        assert (statistics.hits, statistics.misses, statistics.entries) == (8, 4, 4)

    def test_only_what_is_missing_is_encoded(self, tmp_path):
        cache, encode = FeatureCache(tmp_path, LEAST), Encoder()
        through(cache, [1, 2, 3])
        assert torch.equal(through(cache, [4, 3, 0, 1, 4], encode=encode), right([4, 3, 0, 1, 4]))
        np.testing.assert_array_equal(encode.calls[0], images_of([4, 0]))

    def test_it_stays_there(self, tmp_path):
        through(FeatureCache(tmp_path, LEAST), range(100))
        encode = Encoder()
        assert torch.equal(through(FeatureCache(tmp_path, LEAST), range(100), encode=encode), right(range(100)))
        assert not encode.calls

    def test_any_shape_of_images_and_features(self, tmp_path):
        cache = FeatureCache(tmp_path, LEAST)
        clips = np.random.default_rng(0).integers(256, size=(5, 2, 6, 8, 3), dtype=np.uint8)
        strided = clips[::2, :, ::-1, ::2]
        for shape in [(), (1,), (2, 3, 4), (33,)]:
            want = torch.randn(3, *shape)
            for _ in range(2):
                got = cache.through("f", strided, lambda _, want=want: want, shape, FULL)
                assert torch.equal(got, want)
        assert cache.statistics().misses == 12

    def test_no_image(self, tmp_path):
        encode = Encoder()
        assert through(FeatureCache(tmp_path, LEAST), np.zeros(0), encode=encode).shape == (0, *SHAPE)
        assert not encode.calls

    def test_gradients_are_left_behind(self, tmp_path):
        weight = torch.ones(SHAPE, requires_grad=True)
        cache = FeatureCache(tmp_path, LEAST)
        assert not through(cache, [1], FULL, lambda images: weight * features_of(images).float()).requires_grad


class TestWhatIsNotTheSame:
    def test_fingerprint(self, tmp_path):
        cache, images = FeatureCache(tmp_path, LEAST), images_of(range(50))
        cache.through("f", images, features_of, SHAPE, HALF)
        for other in ("g", "", "f ", "ff", '"f"'):
            encode = Encoder()
            cache.through(other, images, encode, SHAPE, HALF)
            assert len(encode.calls[0]) == 50

    def test_shape_and_type_of_features(self, tmp_path):
        cache, images = FeatureCache(tmp_path, LEAST), images_of(range(20))
        cache.through("f", images, features_of, SHAPE, HALF)
        keys = cache.keys("f", images)
        for shape, dtype in [((512,), FULL), ((256,), FULL), ((256,), HALF), ((2, 256), HALF), ((512, 1), HALF)]:
            with pytest.raises(GoneError):
                cache.get(keys, shape, dtype)
            for _ in range(2):
                want = torch.randn(20, *shape).to(dtype)
                assert (
                    cache.through(f"{shape}{dtype}", images, lambda _, want=want: want, shape, dtype).shape
                    == want.shape
                )
        assert torch.equal(cache.get(keys, SHAPE, HALF), right(range(20)))

    def test_shape_of_images(self, tmp_path):
        cache, images = FeatureCache(tmp_path, LEAST), images_of(range(20))
        others = [cache.keys("f", images.reshape(20, *shape)) for shape in ((2, 8, 3), (8, 2, 3), (1, 4, 4, 3))]
        everything = np.concatenate([cache.keys("f", images), *others])
        assert len(np.unique(everything, axis=0)) == 80

    def test_one_pixel(self, tmp_path):
        cache, image = FeatureCache(tmp_path, LEAST), images_of([1])
        changed = np.repeat(image, 49, axis=0)
        for pixel in range(48):
            changed[pixel].reshape(-1)[pixel] ^= 1
        assert len(np.unique(cache.keys("f", changed), axis=0)) == 49


class TestKeys:
    def test_in_place_of_images(self, tmp_path):
        cache = FeatureCache(tmp_path, LEAST)
        through(cache, range(30))
        keys = cache.keys("f", torch.from_numpy(images_of([7, 7, 29])))
        assert (keys.dtype, keys.shape) == (np.uint8, (3, KEY))
        assert torch.equal(cache.get(keys, SHAPE, HALF), right([7, 7, 29]))

    def test_those_that_are_gone_are_named(self, tmp_path):
        cache = FeatureCache(tmp_path, LEAST)
        through(cache, range(10))
        with pytest.raises(GoneError, match=r"2 of 4 features, \(512,\) of torch\.float16, are not in the") as caught:
            cache.get(cache.keys("f", images_of([1, 10, 2, 11])), SHAPE, HALF)
        assert caught.value.gone.tolist() == [False, True, False, True]
        assert "\n" not in str(caught.value)
        assert (cache.statistics().hits, cache.statistics().misses) == (2, 12)

    @pytest.mark.parametrize("keys", [np.zeros((2, 15), np.uint8), np.zeros(16, np.uint8), np.zeros((2, 16), np.int8)])
    def test_what_is_no_key(self, tmp_path, keys):
        with pytest.raises(VieError, match=r"not uint8 \(N, 16\)"):
            FeatureCache(tmp_path, LEAST).get(keys, SHAPE, HALF)


class TestBound:
    def test_the_oldest_go_and_the_disk_never_holds_more(self, tmp_path):
        cache, most = FeatureCache(tmp_path, LEAST), 0
        for start in range(0, 4000, 50):
            through(cache, range(start, start + 50))
            most = max(most, sum(512 * path.stat().st_blocks for path in tmp_path.iterdir()))
            assert cache.statistics().bytes_held <= LEAST
        assert 0.9 * LEAST < most <= LEAST
        assert [path.name for path in tmp_path.iterdir()] == [NAME]
        kept = found(cache, range(4000))
        assert kept == set(range(4000 - len(kept), 4000))
        assert len(kept) == cache.statistics().entries > 0.9 * LEAST / 1088

    def test_what_fits_stays_whole_and_is_written_once(self, tmp_path):
        cache = FeatureCache(tmp_path, LEAST)
        numbers = range(800)
        through(cache, numbers)
        before = (tmp_path / NAME).read_bytes()
        for _ in range(3):
            assert found(cache, numbers) == set(numbers)
        assert (tmp_path / NAME).read_bytes() == before

    def test_what_is_used_stays(self, tmp_path):
        cache = FeatureCache(tmp_path, LEAST)
        through(cache, range(60))
        for start in range(100, 4100, 20):
            through(cache, range(start, start + 20))
            assert found(cache, range(30)) == set(range(30))
        assert not found(cache, range(30, 60))

    def test_features_of_many_sizes_beside_a_plain_dictionary(self, tmp_path):
        cache, rng, truth, hits = FeatureCache(tmp_path, LEAST), np.random.default_rng(0), {}, 0
        for _ in range(400):
            length, dtype = int(rng.choice([1, 8, 100, 512, 3000])), [HALF, FULL][rng.integers(2)]
            numbers = rng.integers(60, size=rng.integers(1, 40))
            name = str(rng.integers(2))

            def encode(images, length=length, dtype=dtype, name=name, rng=rng):
                made = torch.from_numpy(rng.standard_normal((len(images), length))).to(dtype)
                for image, row in zip(images, made, strict=True):
                    truth[name, length, dtype, image.tobytes()] = row
                return made

            images = images_of(numbers)
            got = cache.through(name, images, encode, (length,), dtype)
            assert torch.equal(got, torch.stack([truth[name, length, dtype, image.tobytes()] for image in images]))
        hits, misses = cache.statistics().hits, cache.statistics().misses
        assert hits > 1000
        assert misses > 1000

    def test_a_batch_larger_than_the_cache(self, tmp_path):
        cache = FeatureCache(tmp_path, LEAST)
        assert torch.equal(through(cache, range(2500)), right(range(2500)))
        assert {2499, 2498} < found(cache, range(2500))

    def test_features_larger_than_the_cache(self, tmp_path):
        cache = FeatureCache(tmp_path, LEAST)
        with pytest.raises(VieError, match=rf"{LEAST} bytes do not fit .* larger limit_bytes"):
            cache.through("f", images_of([1]), lambda _: torch.zeros(1, LEAST // 4), (LEAST // 4,), FULL)
        want = torch.randn(3, LEAST // 5)
        assert torch.equal(cache.through("f", images_of([1, 2, 3]), lambda _: want, (LEAST // 5,), FULL), want)


class TestFaultsOfTheUser:
    @pytest.mark.parametrize(
        ("images", "message"),
        [
            (np.zeros((2, 4, 4, 3), np.float32), r"float32 \(2, 4, 4, 3\): give the pixels"),
            (torch.zeros(2, 4, 4, 3), "are torch.float32, not uint8"),
            (torch.zeros(2, 4, 4, 3, dtype=torch.uint8, device="meta"), "are on meta"),
            (np.zeros((2, 3, 4, 4), np.uint8), r"\(N, \.\.\., H, W, 3\)"),
            (np.zeros((4, 4, 3), np.uint8), r"\(N, \.\.\., H, W, 3\)"),
        ],
    )
    def test_images(self, tmp_path, images, message):
        with pytest.raises(VieError, match=message):
            FeatureCache(tmp_path, LEAST).through("f", images, features_of, SHAPE, HALF)

    @pytest.mark.parametrize(
        ("made", "dtype", "message"),
        [
            (torch.zeros(1, 511), HALF, r"made \(1, 511\) of 1 images, not \(1, 512\)"),
            (torch.full((1, 512), 70000.0), HALF, "features reach 7e.04.*store them as torch.float32"),
            (torch.full((1, 512), 1e39, dtype=torch.float64), FULL, r"reach 1e\+39"),
            (torch.full((1, 512), torch.nan), FULL, "not finite"),
            (torch.full((1, 512), torch.inf, dtype=HALF), HALF, "not finite"),
            (torch.zeros(1, 512), torch.bfloat16, "stored as torch.bfloat16: give"),
        ],
    )
    def test_features(self, tmp_path, made, dtype, message):
        cache = FeatureCache(tmp_path, LEAST)
        with pytest.raises(VieError, match=message) as caught:
            through(cache, [1], dtype, lambda _: made)
        assert "\n" not in str(caught.value)
        assert cache.statistics().entries == 0

    def test_another_limit(self, tmp_path):
        through(FeatureCache(tmp_path, LEAST), [1])
        with pytest.raises(VieError, match=f"give limit_bytes={LEAST} if it was made so"):
            FeatureCache(tmp_path, 2 * LEAST)
        assert found(FeatureCache(tmp_path, LEAST), [1]) == {1}

    def test_too_small_a_limit(self, tmp_path):
        with pytest.raises(VieError, match=f"give at least {LEAST}"):
            FeatureCache(tmp_path, LEAST - 1)

    @pytest.mark.parametrize("place", ["file", "file/below"])
    def test_no_folder(self, tmp_path, place):
        (tmp_path / "file").write_text("not a folder")
        with pytest.raises(VieError, match=r"file\S* cannot be used \(.*: give a folder on a local disk") as caught:
            FeatureCache(tmp_path / place, LEAST)
        assert "\n" not in str(caught.value)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_a_folder_that_may_not_be_written(self, tmp_path):
        tmp_path.chmod(0o555)
        with pytest.raises(VieError, match=r"cannot be used \(Permission denied\)"):
            FeatureCache(tmp_path, LEAST)

    def test_a_full_disk(self, tmp_path):
        """Nothing may be written beyond a size that the ring soon reaches."""
        cache = FeatureCache(tmp_path, LEAST)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (LEAST // 2 + 100, limits[1]))
        try:
            with pytest.raises(VieError, match=r"cannot be used \(File too large\): give .* disk with room") as caught:
                through(cache, range(700))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert "\n" not in str(caught.value)
        found(cache, range(700))
        assert torch.equal(through(cache, range(700)), right(range(700)))

    def test_a_disk_without_room_for_the_index(self, tmp_path):
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (PAGE, limits[1]))
        try:
            with pytest.raises(VieError, match="cannot be used"):
                FeatureCache(tmp_path, LEAST)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert not list(tmp_path.iterdir())

    def test_without_the_package(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "xxhash", None)
        cache_store._hasher.cache_clear()
        try:
            with pytest.raises(VieError, match=r"pip install 'vie\[rl\]'"):
                FeatureCache(tmp_path, LEAST)
        finally:
            cache_store._hasher.cache_clear()


class TestDamage:
    """Nothing that can stand in the file makes a wrong feature."""

    @pytest.mark.parametrize("seed", range(8))
    @pytest.mark.parametrize("is_open", [False, True])
    def test_nonsense_anywhere(self, tmp_path, seed, is_open):
        cache, rng = FeatureCache(tmp_path, LEAST), np.random.default_rng(seed)
        through(cache, range(800))
        with (tmp_path / NAME).open("rb+") as file:
            for _ in range(200):
                file.seek(rng.integers(32, LEAST - 64))
                file.write(rng.bytes(rng.integers(1, 64)))
            file.seek(len(cache_store.MAGIC) + 1)
            file.write(rng.bytes(8))
        if not is_open:
            cache = FeatureCache(tmp_path, LEAST)
        cache.statistics()
        assert torch.equal(through(cache, range(900)), right(range(900)))
        assert len(found(cache, range(900))) > 700

    @pytest.mark.parametrize("tail", [0, 1, 2**20, 2**62 - 1, 2**62, 2**63, 2**64 - 1])
    @pytest.mark.parametrize("position", [0, 1, 10**4, 2**62, 2**63, 2**64 - 1])
    def test_numbers_that_lead_astray(self, tmp_path, tail, position):
        through(FeatureCache(tmp_path, LEAST), range(700))
        memory = np.memmap(tmp_path / NAME, np.uint64, "r+")
        memory[2] = tail
        index = memory[PAGE // 8 : (PAGE + 30 * 1024) // 8].reshape(30, 2, 64)
        index[:, 1] = np.uint64(position)
        memory.flush()
        cache = FeatureCache(tmp_path, LEAST)
        for _ in range(2):
            assert torch.equal(through(cache, range(700)), right(range(700)))
        assert cache.statistics().entries <= 30 * 64

    def test_every_byte_of_a_record_counts(self, tmp_path):
        cache = FeatureCache(tmp_path, LEAST)
        through(cache, [1])
        start = cache._store._start + 64
        for offset in range(0, 32 + 1024, 5):
            cache._store._memory[start + offset] ^= 1
            assert not found(cache, [1])
            cache._store._memory[start + offset] ^= 1
        assert found(cache, [1]) == {1}

    def test_a_record_in_the_place_of_another(self, tmp_path):
        cache = FeatureCache(tmp_path, LEAST)
        through(cache, [1])
        through(cache, [2])
        tags = cache._store._index
        (bucket, _, way), (other, _, other_way) = np.argwhere(tags * [[[0], [1]]])
        tags[bucket, 1, way], tags[other, 1, other_way] = tags[other, 1, other_way], tags[bucket, 1, way]
        assert not found(cache, [1, 2])
        assert torch.equal(through(cache, [1, 2]), right([1, 2]))

    @pytest.mark.parametrize("content", [b"", b"x" * LEAST, b"VIE features 0\n".ljust(LEAST), b"x" * 100])
    def test_another_file(self, tmp_path, content):
        (tmp_path / NAME).write_bytes(content)
        with pytest.raises(VieError, match=r"features\.vie .*delete it") as caught:
            FeatureCache(tmp_path, LEAST)
        assert "\n" not in str(caught.value)
        assert (tmp_path / NAME).read_bytes() == content

    def test_cut_short_while_it_is_open(self, tmp_path):
        cache = FeatureCache(tmp_path, LEAST)
        through(cache, range(100))
        os.truncate(tmp_path / NAME, 5000)
        for use in (lambda: through(cache, [1]), lambda: found(cache, [1])):
            with pytest.raises(VieError, match=f"has 5000 bytes, not {LEAST}"):
                use()

    def test_deleted_while_it_is_open(self, tmp_path):
        cache = FeatureCache(tmp_path, LEAST)
        through(cache, range(10))
        (tmp_path / NAME).unlink()
        through(cache, range(10, 20))
        assert found(cache, range(30)) == set(range(20))
        assert not found(FeatureCache(tmp_path, LEAST), range(30))


def hammer(cache: FeatureCache, seed: int, results) -> None:
    """Uses a small cache at random; counts wrong features."""
    rng, wrong = np.random.default_rng(seed), 0
    for _ in range(150):
        numbers = rng.integers(1500, size=40)
        wrong += not torch.equal(through(cache, numbers), right(numbers))
        with contextlib.suppress(GoneError):
            keys = cache.keys("f", images_of(numbers[:5]))
            wrong += not torch.equal(cache.get(keys, SHAPE, HALF), right(numbers[:5]))
    results.put((wrong, cache.statistics().hits))


def own_features(cache: FeatureCache, seed: int, barrier, results) -> None:
    """Features that depend on who makes them, all processes at once on the same images."""
    torch.manual_seed(seed)
    barrier.wait()
    got = [through(cache, range(s, s + 4), FULL, lambda x: torch.randn(len(x), *SHAPE)) for s in range(0, 400, 4)]
    results.put(torch.cat(got).numpy())


def write_for_ever(folder: Path, start: int) -> None:
    cache = FeatureCache(folder, LEAST)
    while True:
        through(cache, range(start, start + 97))
        start += 97


def run(target, arguments):
    """What processes that are forked here hand back, in no order."""
    results = FORK.Queue()
    started = [FORK.Process(target=target, args=(*a, results)) for a in arguments]
    for process in started:
        process.start()
    got = [results.get(timeout=60) for _ in started]
    for process in started:
        process.join(60)
    return got


class TestProcesses:
    def test_several_at_once(self, tmp_path):
        """More images than fit: they write over what others read."""
        shared = FeatureCache(tmp_path, LEAST)
        got = run(hammer, [(shared, 0), (shared, 1), (FeatureCache(tmp_path, LEAST), 2), (shared, 3)])
        assert [wrong for wrong, _ in got] == [0] * 4
        assert min(hits for _, hits in got) > 1000
        assert (tmp_path / NAME).stat().st_size == LEAST

    def test_all_go_on_with_what_was_written_first(self, tmp_path):
        cache, barrier = FeatureCache(tmp_path, 2**22), FORK.Barrier(3)
        got = run(own_features, [(cache, seed, barrier) for seed in range(3)])
        for other in got[1:]:
            np.testing.assert_array_equal(got[0], other)

    def test_pickled_to_a_new_one(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        cache = FeatureCache("cache", LEAST)
        through(cache, [1])
        dumped = pickle.dumps(cache)
        monkeypatch.chdir("/")
        assert found(pickle.loads(dumped), [1]) == {1}

    def test_a_fork_while_another_thread_writes(self, tmp_path):
        """A child that inherits a held lock neither hangs nor keeps others from writing."""
        cache, over = FeatureCache(tmp_path, LEAST), threading.Event()

        def write() -> None:
            start = 10_000
            while not over.is_set():
                through(cache, range(start, start + 10))
                start += 10

        thread = threading.Thread(target=write)
        thread.start()
        children = []
        for number in range(8):
            child = FORK.Process(target=through, args=(cache, [number]))
            child.start()
            children.append(child)
            time.sleep(0.02)
        for child in children:
            child.join(60)
        over.set()
        thread.join(60)
        assert [child.exitcode for child in children] == [0] * 8
        assert not thread.is_alive()

    def test_killed_while_it_writes(self, tmp_path):
        """Twenty processes, each killed at a random moment; what is there afterwards is right, and all goes on."""
        rng = np.random.default_rng(0)
        FeatureCache(tmp_path, LEAST)
        for trial in range(20):
            process = FORK.Process(target=write_for_ever, args=(tmp_path, 10_000 * trial))
            process.start()
            time.sleep(rng.uniform(0.01, 0.2))
            process.kill()
            process.join()
            assert process.exitcode == -signal.SIGKILL
            cache = FeatureCache(tmp_path, LEAST)
            found(cache, range(10_000 * trial, 10_000 * trial + 2000))
            assert torch.equal(through(cache, range(50)), right(range(50)))
        assert cache.statistics().entries > 100

    @pytest.mark.parametrize("at", ["_write_all", "_enter", "hashes"])
    def test_killed_at_the_worst_moment(self, tmp_path, at, monkeypatch):
        """Half of the bytes are written, or all but nothing leads to them, or the lock is held."""
        cache = FeatureCache(tmp_path, LEAST)
        through(cache, range(900))

        def die_in_child() -> None:
            write = cache_store._write_all

            def die(*arguments) -> None:
                if at == "_write_all":
                    write(arguments[0], arguments[1].reshape(-1)[: arguments[1].size // 2 + 7], arguments[2])
                os.kill(os.getpid(), signal.SIGKILL)

            if at == "_enter":
                cache._store._enter = die
            else:
                monkeypatch.setattr(cache_store, at, die)
                if at == "hashes":
                    cache._store.keep(np.zeros((1, 16), np.uint8), np.zeros((1, 1024), np.uint8))
            through(cache, range(5000, 5100))

        child = FORK.Process(target=die_in_child)
        child.start()
        child.join(60)
        assert child.exitcode == -signal.SIGKILL
        assert len(found(cache, range(900))) > 700
        assert torch.equal(through(cache, range(4990, 5110)), right(range(4990, 5110)))
        assert found(cache, range(4990, 5110)) == set(range(4990, 5110))

    def test_killed_while_it_makes_the_file(self, tmp_path):
        (tmp_path / (NAME + ".partial")).write_bytes(b"VIE")
        assert torch.equal(through(FeatureCache(tmp_path, LEAST), [1]), right([1]))
        assert [path.name for path in tmp_path.iterdir()] == [NAME]
