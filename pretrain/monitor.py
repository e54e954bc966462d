"""Measurements on the way: accuracies of the network as it is, and the encoders saved at the ends of the stages."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch import Tensor

from pretrain import evaluate
from pretrain.config import Config
from pretrain.data.clips import EvalClips
from pretrain.data.corpus import Corpus
from pretrain.data.readers import ClipReader
from pretrain.evaluate import ClipFeatures, Features
from pretrain.runtime import autocast_to, describe_machine
from vie import MemoryBank, Sampling, Stream, save_pretrained
from vie.distributed import ALONE, Ranks
from vie.files import write_atomically, write_text_atomically

METRICS_NAME = "metrics.json"

Row = dict[str, object]


class Monitor:
    """Tests a network on the held-out videos of its corpus; without any, every test is empty.

    Of several ranks each takes its share of the videos; the first reads the features out and keeps them, and to the
    others the tests are empty.
    """

    def __init__(
        self,
        config: Config,
        corpus: Corpus,
        reader: ClipReader,
        sampling: Sampling,
        device: torch.device,
        provenance: dict[str, object],
    ) -> None:
        """Prepares the tests of a run; ``config`` is resolved, ``provenance`` says what the encoders come from."""
        self.config = config
        self.run = Path(config.run)
        self.corpus = corpus
        self.reader = reader
        self.sampling = sampling
        self.device = device
        self.provenance = provenance
        self.ranks = Ranks.of_job()
        self.autocast = autocast_to(config.runtime.precision, device)

    def test(self, model: Stream) -> tuple[list[Row], dict[str, Tensor]]:
        """Nearest-neighbour and linear accuracy of pooled features, and these features by name."""
        corpus = self.corpus
        if len(corpus.val_videos) == 0:
            return [], {}
        asked = {"train": corpus.train_videos, "val": corpus.val_videos}
        features = {
            split: evaluate.collect(self._extract(model, videos), self._sharers(videos))
            for split, videos in asked.items()
        }
        if self.ranks.rank > 0:
            return [], {}
        train, val = (Features(part.videos.to(self.device), part.pooled.to(self.device)) for part in features.values())
        results = evaluate.evaluate_features(train, val, corpus.shards, corpus.columns, self.config.monitor.knn)
        tensors = {
            f"{split}.{name}": getattr(part, name).contiguous()
            for split, part in features.items()
            for name in ("videos", "pooled")
        }
        return evaluate.as_rows(results), tensors

    @property
    def tests_bank(self) -> bool:
        """Whether there is anything to test the bank on."""
        return len(self.corpus.val_videos) > 0 and bool(self.corpus.columns)

    def test_on_bank(self, model: Stream, bank: MemoryBank) -> list[Row]:
        """VIE's own monitor: nearest-neighbour accuracy of test clips against the memory bank."""
        corpus = self.corpus
        if not self.tests_bank:
            return []
        results = evaluate.evaluate_on_bank(
            self._extract(model, corpus.val_videos),
            corpus.shards,
            corpus.columns,
            bank,
            corpus.instances.videos,
            self.config.monitor.knn,
            self._sharers(corpus.val_videos),
        )
        return evaluate.as_rows(results) if self.ranks.rank == 0 else []

    def keep_stage(self, stage: str, step: int, model: Stream) -> list[Row]:
        """Tests a network and keeps it as ``encoder-<stage>``, with its features and its lines in ``metrics.json``."""
        rows, features = self.test(model)
        if self.ranks.rank > 0:
            return rows
        protocol = evaluate.protocol(self.config.monitor.clips, self.sampling, self.config.monitor.knn)
        provenance = {
            **self.provenance,
            "seed": self.config.seed,
            "corpus": self.corpus.shards.name,
            "split": self.config.data.split,
            "splits": {"train": len(self.corpus.train_videos), "val": len(self.corpus.val_videos)},
            "instances": len(self.corpus.instances),
            "batch_size": self.config.data.batch_size,
            "precision": self.config.runtime.precision,
            "machine": describe_machine(self.device),
            "ranks": self.ranks.size,
        }
        card = {
            "training": {"stage": stage, "steps": step, **provenance, "config": _public(self.config)},
            "metrics": {"protocol": protocol, "results": rows},
            "licence": "the weights carry the terms of the videos they were trained on",
        }
        save_pretrained(model, self.run / f"encoder-{stage}", self.sampling, card)
        if features:
            write_atomically(
                self.run / f"features-{stage}.safetensors",
                lambda partial: save_file(features, partial, {"corpus": self.corpus.fingerprint()}),
            )
        path = self.run / METRICS_NAME
        before = json.loads(path.read_text()) if path.exists() and step else {"stages": [], "results": []}
        stages = [entry for entry in before["stages"] if entry["stage"] != stage] + [{"stage": stage, "steps": step}]
        results = [row for row in before["results"] if row["stage"] != stage]
        results += [{"stage": stage, "steps": step, **row} for row in rows]
        content = {**provenance, "protocol": protocol, "stages": stages, "results": results}
        write_text_atomically(path, json.dumps(content, indent=2) + "\n")
        return rows

    def _sharers(self, videos: npt.NDArray[np.int64]) -> Ranks:
        """All ranks, or each for itself where there are too few videos."""
        return self.ranks if self.ranks.all_share(len(videos)) else ALONE

    def _extract(self, model: Stream, videos: npt.NDArray[np.int64]) -> ClipFeatures:
        """Features of this rank's share of the videos."""
        # Each rank's batch norm has seen its own clips.
        self.ranks.take_first(model.buffers())
        part = self._sharers(videos).share(len(videos))
        clips = EvalClips(
            self.corpus.shards,
            videos[part.start : part.stop],
            self.reader,
            self.sampling,
            clips=self.config.monitor.clips,
            batch_size=2 * self.config.data.batch_size,
        )
        features = evaluate.extract(model, clips, self.device, self.autocast, self.config.data.workers)
        found = self.ranks.sum(torch.tensor(len(features.videos), device=self.device))
        evaluate.check_any(int(found), len(videos))
        return features


def _public(config: Config) -> dict[str, object]:
    """The settings of a run that belong on a card: those that made the weights, without the paths of a machine."""
    settings = asdict(config)
    for group in ("run", "runtime", "monitor"):
        del settings[group]
    for name in ("path", "workers", "cache", "cache_dir", "cache_bytes", "device_decode"):
        del settings["data"][name]
    if config.model.start:
        settings["model"]["start"] = "/".join(Path(config.model.start).parts[-2:])
    return settings
