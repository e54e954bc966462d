"""The feature cache beside LMDB and diskcache, and hashes of pixels.

    pip install 'vie[rl]' lmdb diskcache
    python -m benchmarks.speed.feature_cache [--limit-mib 64] [--repeats 200] [--trials 50]

Records of 512 x float16 by random keys of 16 bytes, in batches of 256, on the disk of ``--folder``. What is measured
takes turns between the stores; medians (range). Then each file is damaged and read by a process of its own.
"""

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from benchmarks.speed.record import describe_machine
from rl_encoders.cache_store import Bytes, Mask, RecordStore, hashes

SIZE, BATCH = 1024, 256
BLOCKS = 4  # of 512 bytes that are damaged in a file
SECONDS = 20  # after which a reader of a damaged file counts as hanging


class Store(Protocol):
    """Records by key; the oldest go when it is full."""

    def read(self, keys: Bytes) -> tuple[Bytes, Mask]: ...
    def keep(self, keys: Bytes, content: Bytes) -> object: ...


class Ours:
    """The library's."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._store = RecordStore(folder, limit)
        self.keep = self._store.keep

    def read(self, keys: Bytes) -> tuple[Bytes, Mask]:
        return self._store.read(keys, SIZE)


class Lmdb:
    """LMDB without fsync, as ours; the order of arrival in a second table."""

    def __init__(self, folder: Path, limit: int, checked: bool = False) -> None:
        import lmdb

        self._limit, self._checked = limit, checked
        self._env = lmdb.open(str(folder), map_size=2 * limit, max_dbs=1, sync=False, metasync=False, readahead=False)
        self._order = self._env.open_db(b"order")

    def read(self, keys: Bytes) -> tuple[Bytes, Mask]:
        content, found = np.empty((len(keys), SIZE), np.uint8), np.zeros(len(keys), bool)
        with self._env.begin(buffers=True) as transaction:
            for row, key in enumerate(keys):
                value = transaction.get(key.tobytes())
                if value is not None and (not self._checked or hashes([value[16:]]).tobytes() == value[:16]):
                    content[row] = np.frombuffer(value, np.uint8)[16 if self._checked else 0 :]
                    found[row] = True
        return content, found

    def keep(self, keys: Bytes, content: Bytes) -> None:
        heads = hashes(content) if self._checked else np.empty((len(keys), 0), np.uint8)
        with self._env.begin(write=True) as transaction, transaction.cursor(self._order) as order:
            last = int.from_bytes(order.key(), "big") if order.last() else 0
            for row, (key, head, value) in enumerate(zip(keys, heads, content, strict=True)):
                transaction.put(key.tobytes(), head.tobytes() + value.tobytes())
                order.put((last + 1 + row).to_bytes(8, "big"), key.tobytes())
            while transaction.stat()["entries"] - 1 > self._limit // (2 * SIZE):  # half of its pages are full
                order.first()
                transaction.delete(order.value())
                order.delete()


class Diskcache:
    """diskcache, which is SQLite; it chooses what goes by itself."""

    def __init__(self, folder: Path, limit: int) -> None:
        import diskcache

        self._cache = diskcache.Cache(str(folder), size_limit=limit, eviction_policy="least-recently-stored")

    def read(self, keys: Bytes) -> tuple[Bytes, Mask]:
        values = [self._cache.get(key.tobytes()) for key in keys]
        content = np.frombuffer(b"".join(value or bytes(SIZE) for value in values), np.uint8).reshape(-1, SIZE)
        return content, np.array([value is not None for value in values])

    def keep(self, keys: Bytes, content: Bytes) -> None:
        with self._cache.transact():
            for key, value in zip(keys, content, strict=True):
                self._cache.set(key.tobytes(), value.tobytes())


STORES: dict[str, Callable[[Path, int], Store]] = {
    "ours": Ours,
    "LMDB": Lmdb,
    "LMDB with checksums": partial(Lmdb, checked=True),
    "diskcache": Diskcache,
}


def value_of(keys: Bytes) -> Bytes:
    """The record that belongs to a key, so that a reader knows a wrong one."""
    return np.tile(keys, (1, SIZE // keys.shape[1]))


def batches(seed: int, number: int) -> list[Bytes]:
    """Random keys."""
    return list(np.random.default_rng(seed).integers(256, size=(number, BATCH, 16), dtype=np.uint8))


def milliseconds(work: Callable[..., object], *arguments: object) -> float:
    """Wall time of a call."""
    start = time.perf_counter()
    work(*arguments)
    return 1000 * (time.perf_counter() - start)


def on_disk(folder: Path) -> int:
    """Bytes that the disk spends on a folder."""
    return sum(512 * path.stat().st_blocks for path in folder.iterdir())


def speeds(folder: Path, limit: int, repeats: int) -> dict[str, dict[str, list[float]]]:
    """Milliseconds for a batch, and what a record takes on the disk."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    stores = {}
    for name, kind in STORES.items():
        (folder / name).mkdir()
        stores[name] = kind(folder / name, limit)
    half = batches(0, limit // (4 * SIZE * BATCH))
    for keys in half:
        for name, store in stores.items():
            found["put, ms"][name].append(milliseconds(store.keep, keys, value_of(keys)))
    for name in stores:
        found["bytes on the disk for a record"][name].append(on_disk(folder / name) / (len(half) * BATCH))
    rng = np.random.default_rng(1)
    for _ in range(repeats):
        mixed = np.concatenate(half)[rng.integers(len(half) * BATCH, size=BATCH)]
        for name, store in stores.items():
            found["get, ms"][name].append(milliseconds(store.read, mixed))
    for keys in (more := batches(2, 4 * len(half) + repeats))[: 4 * len(half)]:
        for store in stores.values():
            store.keep(keys, value_of(keys))
    for keys in more[4 * len(half) :]:
        for name, store in stores.items():
            found["put into a full one, ms"][name].append(milliseconds(store.keep, keys, value_of(keys)))
    for name in stores:
        found["its files then, share of the limit"][name].append(on_disk(folder / name) / limit)
    return found


def fill(folder: Path, kind: Callable[[Path, int], Store], limit: int) -> None:
    """A store with a few records."""
    store = kind(folder, limit)
    for keys in batches(0, 16):
        store.keep(keys, value_of(keys))


def look(folder: Path, kind: Callable[[Path, int], Store], limit: int, outcome: Any) -> None:
    """Reads all of it, and says whether what came was right."""
    try:
        store = kind(folder, limit)
        answers = [(keys, *store.read(keys)) for keys in batches(0, 16)]
    except Exception as error:
        outcome.put(f"error ({type(error).__name__})")
        return
    wrong = any((content[found] != value_of(keys)[found]).any() for keys, content, found in answers)
    outcome.put("wrong records" if wrong else "right or missing")


def damage(folder: Path, rng: np.random.Generator) -> None:
    """Writes nonsense over a few blocks of each file, as a disk or an unfinished write might."""
    for path in folder.iterdir():
        blocks = path.stat().st_blocks  # of 512 bytes, and at the beginning of the file
        with path.open("rb+") as file:
            for block in rng.choice(blocks, min(blocks, BLOCKS), replace=False).tolist():
                file.seek(512 * block)
                file.write(rng.bytes(512))


def outcomes(folder: Path, trials: int) -> dict[str, Counter[str]]:
    """What becomes of a reader of damaged files: how often, by store."""
    context, limit = multiprocessing.get_context("fork"), 2**24
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for trial in range(trials):
        for name, kind in STORES.items():
            place = folder / f"{name}-{trial}"
            place.mkdir()
            filler = context.Process(target=fill, args=(place, kind, limit))
            filler.start()
            filler.join()
            damage(place, np.random.default_rng(trial))
            outcome = context.SimpleQueue()
            reader = context.Process(target=look, args=(place, kind, limit, outcome))
            reader.start()
            reader.join(SECONDS)
            if reader.exitcode is None:
                reader.kill()
            found["hangs" if reader.exitcode is None else outcome.get() if not outcome.empty() else "killed"][name] += 1
    return found


def hashing(repeats: int) -> dict[str, list[float]]:
    """Milliseconds for the hashes of a batch of images."""
    images = np.random.default_rng(0).integers(256, size=(BATCH, 112 * 112 * 3), dtype=np.uint8)
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(repeats):
        found["blake2b"].append(milliseconds(lambda: [blake2b(image, digest_size=16).digest() for image in images]))
        found["xxh3_128"].append(milliseconds(hashes, images))
    return found


def shown(values: list[float]) -> str:
    """Median (range)."""
    return f"{statistics.median(values):.3g} ({min(values):.3g}-{max(values):.3g})"


def main() -> None:
    """Measures and prints Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit-mib", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--folder", help="on the disk that is measured")
    parsed = parser.parse_args()
    machine = describe_machine(torch.device("cpu"))
    print(f"{machine['cores']} cores of {machine['cpu']}, {machine['system']}; load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory(dir=parsed.folder) as folder:
        print(f"\n| | {' | '.join(STORES)} |\n|{'---|' * (1 + len(STORES))}")
        for what, by_store in speeds(Path(folder), parsed.limit_mib * 2**20, parsed.repeats).items():
            print(f"| {what} | " + " | ".join(map(shown, by_store.values())) + " |", flush=True)
        for outcome, counts in outcomes(Path(folder), parsed.trials).items():
            print(f"| damaged: {outcome} | " + " | ".join(str(counts[name]) for name in STORES) + " |")
    print(f"\n| hash of {BATCH} images of 112 x 112 x 3 | ms |\n|---|---|")
    for name, values in hashing(parsed.repeats).items():
        print(f"| {name} | {shown(values)} |")


if __name__ == "__main__":
    main()
