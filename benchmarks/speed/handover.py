"""Batches of loader workers in the training process: in memory that is fresh for each, and in slots that are not.

Fresh memory is how PyTorch's loader hands tensors over; slots are ``pretrain.data.slots``, by which training on a GPU
goes. The clips are those of VIE-3DResNet's Kinetics recipe, the workers share the cores, and the two ways take turns.
Nothing is done with the batches, so that what the training process spends goes into taking them over.
"""

import contextlib
import resource
import statistics
import time
from collections.abc import Callable, Generator

import torch

from benchmarks.speed.corpus import synthetic_corpus
from benchmarks.speed.record import Job, Table
from pretrain.data.clips import TrainBatch, TrainClips
from pretrain.data.corpus import open_corpus, open_reader
from pretrain.data.prefetch import EACH_AHEAD, stream
from pretrain.data.slots import Slots
from pretrain.runtime import resolve_sampling
from pretrain.settings import parse_config
from vie import create_model

RECIPE, SHORT_SIDE, STEPS = "kinetics400_resnet3d", 128, range(10**6)
COLUMNS = {
    **{"memory": "", "workers": "d", "batch": "d", "clips/s": ",.0f", "least": ",.0f", "most": ",.0f"},
    "training process, ms a batch": ".2f",
}

Batches = Generator[TrainBatch, None, None]


def measure(job: Job) -> None:
    """Measures both ways."""
    table = Table(job, "handover", COLUMNS)
    clips = _clips(job)
    ways: dict[str, Callable[[], Batches]] = {
        "fresh": lambda: stream(clips, STEPS, job.workers, pin_memory=job.device.type == "cuda"),
        "slots": lambda: Slots(clips, STEPS, job.workers).stream(),
    }
    wanted = [name for name in ways if table.wants(name)]
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in wanted}
    for _ in range(2 if job.quick else 5):
        for name in wanted:
            found[name].append(_taken(ways[name](), job))
    for name, turns in found.items():
        rates = sorted(clips.batch_size * rate for rate, _ in turns)
        table.add(
            **{"memory": name, "workers": job.workers, "batch": clips.batch_size, "clips/s": statistics.median(rates)},
            **{"least": rates[0], "most": rates[-1]},
            **{"training process, ms a batch": 1000 * statistics.median(spent for _, spent in turns)},
        )


def _clips(job: Job) -> TrainClips:
    settings = [f"data.path={synthetic_corpus(SHORT_SIDE, job)}", *(["data.batch_size=8"] if job.quick else [])]
    config = parse_config([RECIPE], settings)
    sampling = resolve_sampling(config, create_model(config.model.name, **config.model.arguments()).sampling)
    corpus = open_corpus(config, sampling)
    return TrainClips(
        corpus.shards,
        corpus.instances,
        open_reader(corpus, config.data, torch.device("cpu")),
        sampling,
        config.augmentation,
        batch_size=config.data.batch_size,
        seed=config.seed,
        steps=len(STEPS),
    )


def _taken(batches: Batches, job: Job) -> tuple[float, float]:
    """Batches a second, and the processor's seconds that each costs this process."""
    with contextlib.closing(batches):
        for _ in range(1 if job.quick else (EACH_AHEAD + 1) * job.workers):  # what was made while nobody took any
            next(batches)
        began, spent, count = time.perf_counter(), _own(), 0
        while time.perf_counter() - began < (0.2 if job.quick else 5.0):
            next(batches)
            count += 1
        return count / (time.perf_counter() - began), (_own() - spent) / count


def _own() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
