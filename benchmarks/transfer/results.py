"""The results file of one evaluation: what was measured, and everything that it depends on."""

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.transfer.config import TransferConfig
from benchmarks.transfer.modes import MODES, Row
from benchmarks.transfer.task import open_task
from benchmarks.transfer.training import Bench
from pretrain.evaluate import describe_crop
from pretrain.readers import ClipReader, DeviceReader, ShardReader
from pretrain.runtime import describe_machine, resolve_device, resolve_precision, use_channels_last
from vie import Encoder, VieError, load
from vie.files import write_text_atomically

FORMAT = "vie-transfer-1"
logger = logging.getLogger(__name__)


def evaluate(config: TransferConfig, source: str, out: Path, name: str | None = None) -> Iterator[Path]:
    """Measures one encoder on one task in every mode of the config, and writes a results file for each.

    Args:
        config: The task and its protocol.
        source: A saved encoder: its folder or hub id.
        out: Folder of the results.
        name: What tables call it; by default the last two parts of its path (run and stage).

    Yields:
        The files, ``TASK-NAME-MODE-seedN[-splitN].json``, as they come; one that is there already is measured anew.

    Raises:
        VieError: The encoder, the corpus or a setting is at fault.
    """
    encoder = load(source)
    _warn_of_seen_videos(config, encoder)
    name = name or "-".join(Path(source).parts[-2:])
    device = resolve_device(config.runtime.device)
    precision = resolve_precision(config.runtime.precision, device, encoder.sampling.size)
    config = replace(config, runtime=replace(config.runtime, precision=precision))
    bench = open_bench(config, encoder, device)
    model = encoder.model.to(device)
    if config.runtime.channels_last:
        use_channels_last(model, device)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    split = f"-split{config.data.split}" if config.data.split else ""
    out.mkdir(parents=True, exist_ok=True)
    for mode in config.modes:
        model.load_state_dict(weights)  # fine-tuning moves them
        rows = MODES[mode](bench, model)
        path = out / f"{config.task}-{name}-{mode}-seed{_seed(config, encoder)}{split}.json"
        write_text_atomically(path, json.dumps(_content(config, mode, encoder, name, bench, rows), indent=1) + "\n")
        yield path


def open_bench(config: TransferConfig, encoder: Encoder, device: torch.device) -> Bench:
    """The corpus of a task, read as the encoder wants it."""
    task = open_task(config.data)
    reader: ClipReader = ShardReader(task.shards)
    if config.data.cache == "device":
        videos = sorted({*task.train.tolist(), *task.test.tolist()})
        reader = DeviceReader(task.shards, torch.tensor(videos).numpy(), device, config.data.workers)
    return Bench(config, task, reader, encoder.sampling, device)


def read_results(paths: list[Path]) -> list[dict[str, Any]]:
    """The contents of results files, given as files or as folders of them; raises ``VieError`` for anything else."""
    files = [file for path in paths for file in (sorted(path.glob("*.json")) if path.is_dir() else [path])]
    contents = []
    for file in files:
        try:
            content = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise VieError(f"{file} cannot be read ({error}): give results of `vie-bench transfer`") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise VieError(f"{file} is no results file: give results of `vie-bench transfer`")
        contents.append(content)
    if not contents:
        raise VieError(f"{', '.join(map(str, paths))}: no results there: run `vie-bench transfer` first")
    return contents


def _warn_of_seen_videos(config: TransferConfig, encoder: Encoder) -> None:
    """Warns where an encoder was trained on this corpus in another split: then it may have seen the test videos."""
    training = encoder.card.get("training") or {}
    if training.get("corpus") == Path(config.data.path).name and training.get("split") != config.data.split:
        logger.warning(
            "the encoder was trained on %s by split %s, and may have seen test videos of split %s: "
            "train it with data.split=%s to keep them apart",
            *(training["corpus"], training.get("split"), config.data.split, config.data.split),
        )


def _seed(config: TransferConfig, encoder: Encoder) -> int:
    """What tells results of equal runs apart: the seed of the encoder, or of the read-outs where it tells none."""
    return int((encoder.card.get("training") or {}).get("seed", config.seed))


def _content(
    config: TransferConfig, mode: str, encoder: Encoder, name: str, bench: Bench, rows: list[Row]
) -> dict[str, Any]:
    task = bench.task
    schedule = None if mode == "knn" else getattr(config, "linear" if mode == "random" else mode)
    return {
        "format": FORMAT,
        "task": config.task,
        "mode": mode,
        "seed": _seed(config, encoder),
        "encoder": {
            "name": name,
            "model": encoder.model.model_name,
            "arguments": encoder.model.arguments,
            "training": encoder.card.get("training"),
        },
        "protocol": {
            "metric": "per cent of the labelled test videos, at the last step (best_top1: at the best)",
            "corpus": task.shards.path.name,
            "split": config.data.split,
            "train": [config.data.train_split, len(task.train)],
            "test": [config.data.test_split, len(task.test)],
            "classes": {column: len(names) for column, names in task.classes.items()},
            "clips_per_video": config.data.clips,
            "clip": asdict(encoder.sampling),
            "crop": describe_crop(encoder.sampling),
            "readout_seed": config.seed,
            "batch_size": config.data.batch_size,
            "augmentation": asdict(config.augmentation),
            "schedule": asdict(schedule) if schedule else None,
            "knn": asdict(config.knn) if mode == "knn" else None,
            "precision": config.runtime.precision,
            "machine": describe_machine(bench.device),
        },
        "results": rows,
    }
