"""What the report reads of a run's folder."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from pretrain.config import Config
from pretrain.evaluate import Features
from pretrain.monitor import METRICS_NAME
from pretrain.run_folder import CONFIG_NAME
from pretrain.runtime import resolve_sampling
from pretrain.settings import parse_config
from pretrain.summary import Row, last_stage, load_features, read_metrics
from vie import Sampling, VieError, create_model
from vie.history import HISTORY_NAME, read_history
from vie.reporting.page import attempt
from vie.video import Shards
from vie.video.remote import is_url

Found = TypeVar("Found")


@dataclass(frozen=True, eq=False)
class Run:
    """What a run's folder holds; None and empty for what it does not."""

    path: Path
    colour: str
    config: Config
    config_text: str
    history: list[Row]
    shards: Shards | None
    sampling: Sampling | None
    parameters: int | None
    features: dict[str, Features] | None
    machine: str | None

    @property
    def name(self) -> str:
        """What its stream is called."""
        return self.path.name

    @property
    def corpus(self) -> str:
        """Name of the corpus."""
        return Path(self.config.data.path).resolve().name

    @property
    def steps(self) -> int:
        """Steps taken so far."""
        return int(self.history[-1]["step"]) if self.history else 0

    @property
    def switch(self) -> int | None:
        """Step at which local aggregation took over, if it has."""
        step = self.config.instance_recognition.steps
        return step if self.config.method == "vie" and 0 < step < self.steps else None


def read_run(path: Path, colour: str, notes: list[str]) -> Run:
    """Reads what a run's folder holds.

    Args:
        path: The folder.
        colour: Of the run, on the page.
        notes: Takes what is missing or damaged.

    Raises:
        VieError: The folder holds no run.
    """
    if not (path / CONFIG_NAME).is_file():
        raise VieError(
            f"{path} holds no run ({CONFIG_NAME} is missing): give the folder that was trained with run=FOLDER"
        )
    config = parse_config([path / CONFIG_NAME])

    def part(thing: str, read: Callable[[], Found]) -> Found | None:
        return attempt(f"{thing} of {path.name}", read, notes)

    history = part(HISTORY_NAME, lambda: read_history(path)) or []
    shards = part("corpus", lambda: _open_shards(config))
    sampling, parameters = part("model", lambda: _describe_model(config)) or (None, None)
    metrics = part(METRICS_NAME, lambda: read_metrics(path)) or {}
    features = part("features", lambda: load_features(path, last_stage(path))) if metrics else None
    if shards and features and max(int(part.videos.max()) for part in features.values()) >= len(shards):
        notes.append(f"corpus of {path.name}: it has shrunk since the training, so its videos are not shown")
        shards = None
    text = (path / CONFIG_NAME).read_text()
    machine = metrics.get("machine")
    return Run(path, colour, config, text, history, shards, sampling, parameters, features, machine)


def _open_shards(config: Config) -> Shards:
    data = config.data
    if not is_url(data.path) and not Path(data.path).is_absolute() and not Path(data.path).is_dir():
        raise VieError(
            f"{data.path} is not in the current folder: write the report from the folder that the run was started in"
        )
    return Shards(data.path, data.cache_dir, data.cache_bytes)


def _describe_model(config: Config) -> tuple[Sampling, int]:
    with torch.device("meta"):  # shapes are enough
        model = create_model(config.model.name, **config.model.arguments())
    return resolve_sampling(config, model.sampling), sum(parameter.numel() for parameter in model.parameters())
