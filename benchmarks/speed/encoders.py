"""What an encoder costs an agent: one observation beside the bare trunk, and training on features that are kept."""

import tempfile
from collections.abc import Callable, Iterator
from itertools import count, cycle
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.speed.record import Job, Table, in_turns, medians
from rl_encoders import FeatureCache, VisualEncoder, load
from rl_encoders.recent import forget
from vie.video.pixels import normalise

COLUMNS = {"what": "", "way": "", "ms": ",.3f", "least": ",.3f", "most": ",.3f", "times the first": ".3f"}
BATCHES = 12


def measure(job: Job) -> None:
    """Measures both."""
    table = Table(job, "encoders", COLUMNS)
    width, size, batch = (8, 32, 8) if job.quick else (64, 112, 256 if job.device.type == "cuda" else 32)
    for name, prepare in (("act", _act), ("train", _train)):
        if not table.wants(name):
            continue
        with tempfile.TemporaryDirectory() as folder:
            for what, ways in prepare(job, {"width": width}, size, batch, folder):
                found = in_turns(ways, job.device, *((0.02, 2) if job.quick else (1.0, 7)))
                middles = medians(found)
                first = next(iter(middles.values()))
                for way, seconds in found.items():
                    spread = {"least": 1e3 * min(seconds), "most": 1e3 * max(seconds)}
                    ratio = {"times the first": middles[way] / first}
                    table.add(what=what, way=way, ms=1e3 * middles[way], **spread, **ratio)


Ways = dict[str, Callable[[], object]]
Array = np.ndarray[Any, np.dtype[np.uint8]]


def _act(job: Job, model: dict[str, Any], size: int, batch: int, folder: str) -> list[tuple[str, Ways]]:
    """One picture of the camera after another, from the host's memory to a vector there."""
    pictures = _never_twice(size)

    def ways(name: str) -> Ways:
        frozen = load(name, **model, size=size, device=job.device).eval()
        tuned = load(name, **model, size=size, device=job.device, mode="finetune").eval()
        bare = load(name, **model, size=size, device=job.device).trunk.stream
        compiled = load(name, **model, size=size, device=job.device, compile=True).eval()
        frames = frozen.sampling.frames

        def trunk(picture: Tensor) -> Tensor:
            clip = picture.permute(0, 3, 1, 2).float().div(255).unsqueeze(2).expand(-1, -1, frames, -1, -1)
            return bare.pooled(normalise(clip, bare.mean, bare.std))

        compiled_trunk = torch.compile(trunk)

        @torch.no_grad()
        def alone(trunk: Callable[[Tensor], Tensor]) -> Tensor:
            return trunk(torch.from_numpy(next(pictures))[None].to(job.device)).cpu()

        @torch.no_grad()
        def encoded(encoder: VisualEncoder) -> Tensor:
            vector: Tensor = encoder(next(pictures)[None]).cpu()
            return vector

        return {
            "trunk with mean and std alone": lambda: alone(trunk),
            "encoder, frozen": lambda: encoded(frozen),
            "encoder, fine-tuned": lambda: encoded(tuned),
            "trunk alone, compiled": lambda: alone(compiled_trunk),
            "encoder, frozen and compiled": lambda: encoded(compiled),
        }

    names = ("vie_single_r18", "vie_resnet3d_r18")
    return [(f"act: one picture of {size} pixels, {name}", ways(name)) for name in names]


def _train(job: Job, model: dict[str, Any], size: int, batch: int, folder: str) -> list[tuple[str, Ways]]:
    """Steps of behaviour cloning on a frozen trunk, on pictures from a dataset in the host's memory."""
    pictures = [_pictures(batch, size, seed) for seed in range(BATCHES)]
    plain = load("vie_single_r18", **model, size=size, device=job.device)
    cache = FeatureCache(folder, 2**28)
    cached = load("vie_single_r18", **model, size=size, device=job.device, cache=cache)
    head = nn.Sequential(nn.Linear(plain.output_dim, 256), nn.ReLU(), nn.Linear(256, 4)).to(job.device)
    optimizer = torch.optim.Adam(head.parameters())
    actions = torch.zeros(batch, 4, device=job.device)
    fingerprint = cached.feature_fingerprint()
    for each in pictures:
        cached(each)
    keys = [cache.keys(fingerprint, torch.from_numpy(each)[:, None]) for each in pictures]
    kept = [cache.get(each, cached.kept_shape, cached.kept_dtype).to(job.device) for each in keys]
    turns = cycle(range(BATCHES))

    def update(encode: Callable[[int], Tensor]) -> None:
        optimizer.zero_grad()
        F.mse_loss(head(encode(next(turns))), actions).backward()
        optimizer.step()

    def again(number: int) -> Tensor:
        forget()  # or batches that were seen a few steps ago would be found
        vectors: Tensor = plain(pictures[number])
        return vectors

    def by_key(number: int) -> Tensor:
        features = cache.get(keys[number], cached.kept_shape, cached.kept_dtype)
        return cached.read([features.to(job.device)])

    ways: Ways = {
        "encoded again": lambda: update(again),
        "from the cache, by the pixels": lambda: update(lambda number: cached(pictures[number])),
        "from the cache, by kept keys": lambda: update(by_key),
        "all features in the device's memory": lambda: update(lambda number: cached.read([kept[number]])),
    }
    return [(f"train: a batch of {batch} pictures of {size} pixels, vie_single_r18", ways)]


def _never_twice(size: int) -> Iterator[Array]:
    """Pictures of which none is remembered from before, as those of a camera."""
    picture = _pictures(1, size)[0]
    for number in count():
        picture[0, :4] = np.frombuffer(number.to_bytes(12, "little"), np.uint8).reshape(4, 3)
        yield picture.copy()


def _pictures(number: int, size: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (number, size, size, 3), np.uint8)
