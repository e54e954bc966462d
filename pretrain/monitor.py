"""Measurements on the way: accuracies of the network as it is, and the encoders saved at the ends of the stages."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch import Tensor

from pretrain import evaluate
from pretrain.clips import TestClips
from pretrain.config import Config
from pretrain.corpus import Corpus
from pretrain.runtime import Autocast, describe_machine
from vie import Sampling, Stream, save_pretrained

METRICS_NAME = "metrics.json"

Row = dict[str, object]


class Monitor:
    """Tests a network on the held-out videos of its corpus; without any, every test is empty."""

    def __init__(
        self, config: Config, corpus: Corpus, sampling: Sampling, device: torch.device, autocast: Autocast
    ) -> None:
        self.config = config
        self.run = Path(config.run)
        self.corpus = corpus
        self.sampling = sampling
        self.device = device
        self.autocast = autocast

    def test(self, model: Stream) -> tuple[list[Row], dict[str, Tensor]]:
        """Nearest-neighbour and linear accuracy of pooled features, and these features by name."""
        corpus = self.corpus
        if len(corpus.val_videos) == 0:
            return [], {}
        features = {"train": self._extract(model, corpus.train_videos), "val": self._extract(model, corpus.val_videos)}
        results = evaluate.test_features(features["train"], features["val"], corpus.shards, corpus.columns)
        tensors = {
            f"{split}.{name}": getattr(part, name).contiguous()
            for split, part in features.items()
            for name in ("videos", "pooled")
        }
        return evaluate.as_rows(results), tensors

    def test_on_bank(self, model: Stream, bank: Tensor) -> list[Row]:
        """VIE's own monitor: nearest-neighbour accuracy of test clips against the memory bank (N, D)."""
        corpus = self.corpus
        if len(corpus.val_videos) == 0 or not corpus.columns:
            return []
        val = self._extract(model, corpus.val_videos)
        return evaluate.as_rows(evaluate.test_on_bank(val, corpus.shards, corpus.columns, bank, corpus.train_videos))

    def keep_stage(self, stage: str, step: int, model: Stream) -> list[Row]:
        """Tests a network and keeps it as ``encoder-<stage>``, with its features and its lines in ``metrics.json``."""
        rows, features = self.test(model)
        protocol = evaluate.protocol(self.config.monitor.clips)
        card = {
            "training": {
                "method": "VIE (Zhuang et al., CVPR 2020)",
                "stage": stage,
                "steps": step,
                "batch_size": self.config.data.batch_size,
                "seed": self.config.seed,
                "corpus": self.corpus.shards.path.name,
                "videos": len(self.corpus.train_videos),
            },
            "metrics": {"protocol": protocol, "results": rows},
            "licence": "the weights carry the terms of the videos they were trained on",
        }
        save_pretrained(model, self.run / f"encoder-{stage}", self.sampling, card)
        if features:
            save_file(features, self.run / f"features-{stage}.safetensors")
        path = self.run / METRICS_NAME
        before = json.loads(path.read_text())["results"] if path.exists() and step else []
        results = [row for row in before if row["stage"] != stage]
        results += [{"stage": stage, "steps": step, **row} for row in rows]
        _write_json(path, {"machine": describe_machine(self.device), "protocol": protocol, "results": results})
        return rows

    def _extract(self, model: Stream, videos: npt.NDArray[np.int64]) -> evaluate.Features:
        clips = TestClips(
            self.corpus.shards,
            videos,
            self.corpus.reader,
            self.sampling,
            clips=self.config.monitor.clips,
            batch_size=2 * self.config.data.batch_size,
        )
        return evaluate.extract(model, clips, self.device, self.autocast, self.config.data.workers)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(partial, path)
