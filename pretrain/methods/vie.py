import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.checkpoint import Divided
from pretrain.config import Config
from pretrain.data.corpus import Corpus
from pretrain.data.order import steps_per_epoch
from pretrain.methods.method import Method
from pretrain.objective import Objective
from vie import MemoryBank, Stream
from vie.bank import PADDING


class VIE(Method):
    """Video instance embedding: instance recognition, then local aggregation, over a memory bank."""

    citation = "VIE (Zhuang et al., CVPR 2020)"
    embeds = True

    def __init__(self, config: Config, model: Stream, corpus: Corpus, device: torch.device) -> None:
        instances = len(corpus.instances)
        bank = MemoryBank(
            instances,
            model.embed_dim,
            config.bank.momentum,
            seed=config.seed,
            sharded=config.bank.layout == "sharded",
            dtype=getattr(torch, config.bank.dtype),
        )
        self.network = model
        self.bank: MemoryBank = bank.to(device)
        self.clips = config.data.batch_size // bank.ranks.size
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
        return self.objective.loss(*self._filled(output, target), step)

    def end_step(self, output: Tensor, target: Tensor) -> None:
        self.objective.end_step(*self._filled(output, target))

    def _filled(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Ranks exchange as many clips each, whatever some of them could not read."""
        missing = self.clips - len(target)
        return F.pad(output, (0, 0, 0, missing)), F.pad(target, (0, missing), value=PADDING)

    def state(self) -> dict[str, Tensor | Divided]:
        bank, labels = self.bank.embeddings, self.objective.labels
        if self.bank.owners.size == 1:
            return {"bank": bank, "labels": labels}
        return {"bank": Divided(bank, 0, len(self.bank)), "labels": Divided(labels, 1, len(self.bank))}
