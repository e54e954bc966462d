"""The folder of a run: only what goes on with the run that is there may write in it."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pretrain.config import Config
from pretrain.data.corpus import Corpus
from vie import VieError
from vie.settings import flatten

CONFIG_NAME = "config.yaml"

FREE = (
    "run",
    "data.path",
    "data.workers",
    "data.cache",
    "data.device_decode",
    "data.cache_dir",
    "data.cache_bytes",
    "data.short_side",
    "local_aggregation.steps",
    "baseline.steps",
    "bank.layout",
    "runtime.device",
    "runtime.mode",
    "runtime.threads",
)
"""Settings that may differ when a run is continued, besides the monitor's: they change no step that was taken, and of
those to come the rounding at most."""


def check_same_run(run: Path, config: Config, corpus: Corpus, facts: Mapping[str, Any]) -> None:
    """Raises ``VieError`` where a checkpoint is of other settings or of another corpus.

    Args:
        run: Folder of the run.
        config: Resolved.
        corpus: That it is asked to train on.
        facts: Of the checkpoint.
    """
    # Through JSON, which knows no tuples. What was no setting yet was what is now its default.
    given, default = (flatten(json.loads(json.dumps(asdict(one)))) for one in (config, Config()))
    before = default | flatten(facts["config"])
    changed = [
        f"{key}={json.dumps(before.get(key))}"
        for key, value in given.items()
        if key not in FREE and not key.startswith("monitor.") and before.get(key) != value
    ]
    if changed:
        raise VieError(
            f"{run} holds a run with other settings ({', '.join(changed)}): "
            "give these to continue it, or another folder as run=FOLDER"
        )
    if facts["corpus"] != corpus.instance_fingerprint():
        raise VieError(
            f"{corpus.shards.path} holds other training videos than those of the run in {run}: "
            "give the corpus that it began with, or another folder as run=FOLDER"
        )
