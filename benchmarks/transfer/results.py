"""The results file of one evaluation: what was measured, and everything that it depends on."""

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.transfer.config import TransferConfig
from benchmarks.transfer.modes import MODES
from benchmarks.transfer.task import open_task
from benchmarks.transfer.training import Bench
from pretrain.data.readers import ClipReader, DeviceReader, ShardReader
from pretrain.evaluate import describe_crop
from pretrain.runtime import describe_machine, resolve_device, resolve_precision, use_channels_last
from pretrain.transfer_results import FORMAT, differences, read_results
from vie import Encoder, VieError, load
from vie.digests import digest, summary
from vie.files import write_text_atomically

logger = logging.getLogger(__name__)


def evaluate(config: TransferConfig, source: str, out: Path, name: str | None = None) -> Iterator[Path]:
    """Measures one encoder on one task in every mode of the config, and writes a results file for each.

    Args:
        config: The task and its protocol.
        source: A saved encoder: its folder or hub id.
        out: Folder of the results.
        name: What tables call it; by default the last two parts of its path (run and stage).

    Yields:
        The files, ``TASK-NAME-MODE-seedN[-splitN].json``, as they come. One that is there already, of the same encoder,
        corpus and protocol, is measured anew.

    Raises:
        VieError: The encoder, the corpus or a setting is at fault, or a file holds other results.
    """
    encoder = load(source)
    training = encoder.card.get("training") or {}
    _warn_of_seen_videos(config, training)
    name = name or "-".join(Path(source).resolve().parts[-2:])
    for part in (config.task, name):
        if Path(part).name != part:
            raise VieError(f"{part!r} cannot be part of a file's name: give another task or --name")
    device = resolve_device(config.runtime.device)
    precision = resolve_precision(config.runtime.precision, device, encoder.sampling.size)
    config = replace(config, runtime=replace(config.runtime, precision=precision))
    bench = open_bench(config, encoder, device)
    model = encoder.model.to(device)
    if config.runtime.channels_last:
        use_channels_last(model, device)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    content_of_weights = summary({name: digest(tensor) for name, tensor in weights.items()}).hex()
    split = f"-split{config.data.split}" if config.data.split else ""
    contents: dict[Path, dict[str, Any]] = {}
    for mode in config.modes:
        # New weights are the read-outs' own draw; whatever begins from the encoder counts under the encoder's seed.
        seed = bench.seed if mode in ("random", "scratch") else int(training.get("seed", bench.seed))
        path = out / f"{config.task}-{name}-{mode}-seed{seed}{split}.json"
        contents[path] = {
            "format": FORMAT,
            "task": config.task,
            "mode": mode,
            "seed": seed,
            "encoder": {
                "name": name,
                "model": model.model_name,
                "arguments": model.arguments,
                "training": training or None,
                "weights": content_of_weights,
            },
            "protocol": _protocol(bench, mode),
        }
        _refuse_others(path, contents[path])  # of all modes, before any is measured
    for path, content in contents.items():
        model.load_state_dict(weights)  # fine-tuning moves them
        try:
            content["results"] = MODES[content["mode"]](bench, model)
            out.mkdir(parents=True, exist_ok=True)
            write_text_atomically(path, json.dumps(content, indent=1) + "\n")
        except torch.OutOfMemoryError as error:
            raise VieError(f"{device} has too little memory for {content['mode']}: lower data.batch_size") from error
        except OSError as error:
            raise VieError(f"{path} cannot be written ({error}): give another folder by --out") from error
        yield path


def open_bench(config: TransferConfig, encoder: Encoder, device: torch.device) -> Bench:
    """The corpus of a task, read as the encoder wants it."""
    task = open_task(config.data)
    reader: ClipReader = ShardReader(task.shards)
    if config.data.cache != "none":
        videos, kept = np.concatenate([task.train, task.test]), config.data.cache == "device+disk"
        reader = DeviceReader(task.shards, videos, device, config.data.workers, kept)
    training = encoder.card.get("training") or {}
    seed = int(training.get("seed", 0)) if config.seed is None else config.seed
    embeds = training.get("embedding") != "untrained"
    return Bench(config, seed, task, reader, encoder.sampling, device, embeds)


def _warn_of_seen_videos(config: TransferConfig, training: dict[str, Any]) -> None:
    """Warns where an encoder was trained on this corpus in another split: then it may have seen the test videos."""
    # A hybrid's halves may have been trained on different splits.
    trainings = [training[half] for half in ("static", "dynamic") if training.get(half)] or [training]
    for one in trainings:
        if one.get("corpus") == Path(config.data.path).name and one.get("split") != config.data.split:
            logger.warning(
                "the encoder was trained on %s by split %s, and may have seen test videos of split %s: "
                "train it with data.split=%s to keep them apart",
                *(one["corpus"], one.get("split"), config.data.split, config.data.split),
            )
            return


def _refuse_others(path: Path, content: dict[str, Any]) -> None:
    """Raises ``VieError`` where a file holds what was measured of another encoder, or by other rules."""
    if not path.exists():
        return
    (found,) = read_results([path])
    if apart := differences(found, json.loads(json.dumps(content))):
        raise VieError(
            f"{path} holds results of which {', '.join(apart)} differ: delete it to measure anew, or give another "
            "--name, task or --out"
        )


def _protocol(bench: Bench, mode: str) -> dict[str, Any]:
    config, task = bench.config, bench.task
    trained = mode != "knn"
    schedule = getattr(config, "linear" if mode == "random" else mode) if trained else None
    return {
        "metric": "per cent of the labelled test videos, at the last step (best_top1: at the best)",
        "corpus": task.shards.name,
        "split": config.data.split,
        "train": [config.data.train_split, len(task.train)],
        "test": [config.data.test_split, len(task.test)],
        "classes": {column: len(names) for column, names in task.classes.items()},
        "clips_per_video": config.data.clips,
        "clip": asdict(bench.sampling),
        "crop": describe_crop(bench.sampling),
        "readout_seed": bench.seed,
        "batch_size": bench.batch_size if trained else None,
        "augmentation": asdict(config.augmentation) if trained else None,
        "schedule": asdict(schedule) if schedule else None,
        "knn": asdict(config.knn) if mode in ("knn", "random") else None,
        "precision": config.runtime.precision,
        "machine": describe_machine(bench.device),
    }
