"""The results of one run, or of several and of their features joined, in one table."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from pretrain import evaluate
from pretrain.data.corpus import label_columns
from pretrain.monitor import METRICS_NAME
from pretrain.run_folder import CONFIG_NAME
from pretrain.settings import parse_config
from vie import VieError
from vie.video import Shards

Row = dict[str, Any]


def summarise(runs: list[Path]) -> dict[str, Any]:
    """Collects the results of finished runs.

    Args:
        runs: Folders of runs. The features of two and more are also joined and tested together, if one corpus has them.

    Returns:
        ``runs``: seed, corpus, splits, precision, machine and so on of each; ``protocol``; and ``results``: rows with
        stream, stage, label, readout, top1, chance and videos, and with steps where they are one run's. A stream is
        called by its run's folder, joined ones "static + dynamic".
    """
    files = [read_metrics(run) for run in runs]
    results: list[Row] = [
        {"stream": run.resolve().name, **row} for run, file in zip(runs, files, strict=True) for row in file["results"]
    ]
    if len(runs) > 1:
        results += _joined(runs, [last_stage(run) for run in runs], "joined")
        results += _joined(runs, [_stages(file)[0] for file in files], "random")
    provenance = {
        run.resolve().name: {key: value for key, value in file.items() if key not in ("protocol", "results")}
        for run, file in zip(runs, files, strict=True)
    }
    return {"runs": provenance, "protocol": files[0]["protocol"], "results": results}


def last_stage(run: Path) -> str:
    """Name of the last stage that a run has kept features of, whether or not it had labels to test them on."""
    return _stages(read_metrics(run))[-1]


def _stages(metrics: dict[str, Any]) -> list[str]:
    return [str(row["stage"]) for row in metrics.get("stages") or metrics["results"]] or ["random"]


def load_features(run: Path, stage: str) -> dict[str, evaluate.Features]:
    """The train and val features that were tested at the end of a stage."""
    path = run / f"features-{stage}.safetensors"
    if not path.is_file():
        raise VieError(f"{run} has no features of stage {stage!r} ({path.name} is missing): train the run to its end")
    tensors = load_file(path)
    return {
        split: evaluate.Features(tensors[f"{split}.videos"], tensors[f"{split}.pooled"]) for split in ("train", "val")
    }


def _joined(runs: list[Path], stages: list[str], stage: str) -> list[Row]:
    configs = [parse_config([run / CONFIG_NAME]) for run in runs]
    corpora = {Path(config.data.path).resolve() for config in configs}
    if len(corpora) > 1:
        raise VieError(f"the runs were trained on {len(corpora)} corpora: join runs on one corpus")
    config = configs[0]
    shards = Shards(config.data.path, config.data.cache_dir, config.data.cache_bytes)
    joined = evaluate.join([load_features(run, part) for run, part in zip(runs, stages, strict=True)])
    train, val = (shards.split(name, config.data.split) for name in (config.data.train_split, config.data.val_split))
    columns = label_columns(config.monitor.labels, "monitor.labels", shards, train, val)
    knn = config.monitor.knn
    rows = evaluate.as_rows(evaluate.evaluate_features(joined["train"], joined["val"], shards, columns, knn))
    return [{"stream": " + ".join(run.resolve().name for run in runs), "stage": stage, **row} for row in rows]


def read_metrics(run: Path) -> dict[str, Any]:
    """What ``metrics.json`` of a run holds; raises ``VieError`` if there is none yet, or if it is damaged."""
    path = run / METRICS_NAME
    if not path.is_file():
        raise VieError(f"{run} holds no finished run ({METRICS_NAME} is missing): train it first")
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise VieError(f"{path} cannot be read ({error}): train the run again") from error
    return content
