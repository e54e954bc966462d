"""What settings of a pretraining run there are, and where its recipes lie."""

import math
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from pretrain.config import Config
from vie.settings import dump_settings, parse_settings, settings_parser

RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, 2**63 - 1),
    "bank.momentum": (0, 1),
    "bank.temperature": (1e-3, math.inf),
    # Below this, the weights of a classifier's votes leave the range of float32.
    **dict.fromkeys(("monitor.temperature", "knn.temperature"), (0.02, math.inf)),
    "data.size": (8, math.inf),
    **dict.fromkeys(("data.fraction", "data.device_decode"), (0, 1)),
    "data.short_side": (1, math.inf),
    "instance_recognition.noise": (1, math.inf),
    "runtime.threads": (1, math.inf),
    "augmentation.hue": (0, 0.5),
    "baseline.span": (3, math.inf),
    **{f"augmentation.{name}": (0, 1) for name in ("brightness", "contrast", "saturation", "grey", "flip")},
    **dict.fromkeys(("model.embed_dim", "model.width", "monitor.clips", "monitor.checkpoints"), (1, math.inf)),
    **dict.fromkeys(("monitor.neighbours", "knn.neighbours"), (1, math.inf)),
    **{f"data.{name}": (1, math.inf) for name in ("frames", "stride", "batch_size", "instance_frames")},
    **dict.fromkeys(("data.fps", "data.workers"), (0, math.inf)),
    "data.cache_bytes": (1, math.inf),
    **{f"local_aggregation.{name}": (1, math.inf) for name in ("clusters", "neighbours", "clusterings", "iterations")},
    **dict.fromkeys(("local_aggregation.refresh_epochs",), (1, math.inf)),
    **{f"{group}.steps": (0, math.inf) for group in ("instance_recognition", "local_aggregation", "baseline")},
    **{f"optim.{name}": (0, math.inf) for name in ("lr", "momentum", "weight_decay")},
    **{f"monitor.{name}_every": (0, math.inf) for name in ("log", "knn", "evaluate", "checkpoint")},
}
"""Least and greatest values that make sense."""

RECIPES = Path(__file__).parent / "recipes"

HELP = "vie-pretrain train --help"


def config_parser() -> ArgumentParser:
    """A parser that knows every key of ``Config``, its type and its description."""
    parser = settings_parser(Config)
    parser.usage = "vie-pretrain train --config RECIPE key=value …"
    return parser


def parse_config(recipes: Sequence[str | Path], overrides: Sequence[str] = ()) -> Config:
    """Builds the config of a run from recipes and overrides; see ``vie.settings.parse_settings``."""
    return parse_settings(Config, recipes, overrides, RECIPES, RANGES, HELP)


def dump_config(config: Config) -> str:
    """The whole config as YAML that ``parse_config`` reads back."""
    return dump_settings(config)
