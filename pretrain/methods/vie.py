from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pretrain.config import Config
from pretrain.data.corpus import Corpus
from pretrain.data.order import steps_per_epoch
from pretrain.methods.method import Method
from pretrain.objective import Objective
from vie import MemoryBank, Stream


class VIE(Method):
    """Video instance embedding: instance recognition, then local aggregation, over a memory bank."""

    citation = "VIE (Zhuang et al., CVPR 2020)"
    embeds = True

    def __init__(self, config: Config, model: Stream, corpus: Corpus, device: torch.device) -> None:
        instances = len(corpus.instances)
        bank = MemoryBank(instances, model.embed_dim, config.bank.momentum, seed=config.seed)
        self.network = model
        self.bank = bank.to(device)
        self.objective = Objective(
            self.bank,
            config.bank,
            config.instance_recognition,
            config.local_aggregation,
            seed=config.seed,
            steps_per_epoch=steps_per_epoch(instances, config.data.batch_size),
        )
        self.stages = {"ir": config.instance_recognition.steps, "la": config.total_steps}

    def begin_step(self, step: int) -> None:
        self.objective.begin_step(step)

    def loss(self, output: Tensor, target: Tensor, step: int) -> Tensor:
        return self.objective.loss(output, target, step)

    def end_step(self, output: Tensor, target: Tensor) -> None:
        self.objective.end_step(output, target)

    def state_dict(self) -> dict[str, Any]:
        return {"bank": self.objective.bank.state_dict(), "labels": self.objective.labels}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.objective.bank.load_state_dict(state["bank"])
        self.objective.labels = state["labels"].to(self.objective.bank.embeddings.device)
