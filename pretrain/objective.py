"""The loss of a step: instance recognition, then local aggregation, over one memory bank."""

from typing import Literal

import torch
from torch import Tensor

from pretrain.config import BankConfig, InstanceRecognitionConfig, LocalAggregationConfig
from pretrain.data.order import step_generator
from vie import MemoryBank, VieError, cluster
from vie.objectives import instance_softmax_loss, neighbour_share_loss, noise_contrastive_loss

Stage = Literal["ir", "la"]

INSTANCES_PER_CLUSTER = 30
"""VIE on Kinetics: 239,888 instances in 8,000 clusters."""


NEIGHBOURS = 512
"""VIE's k, but no more than an eighth of a small corpus."""


def cluster_sizes(config: LocalAggregationConfig, instances: int) -> tuple[int, int]:
    """K and k of a corpus: those of the config, or else VIE's ratios.

    Raises:
        VieError: There are fewer instances than clusters or neighbours.
    """
    clusters = config.clusters or max(1, instances // INSTANCES_PER_CLUSTER)
    neighbours = config.neighbours or min(NEIGHBOURS, max(1, instances // 8))
    for name, number in (("clusters", clusters), ("neighbours", neighbours)):
        if config.steps and number > instances:
            raise VieError(
                f"{instances} instances cannot make {number} {name}: "
                f"set local_aggregation.{name} to {instances} or less"
            )
    return clusters, neighbours


class Objective:
    """VIE's two objectives, and the bank and labels that they are computed from.

    Attributes:
        bank: The memory bank.
        labels: (H, N) cluster of every instance; every instance is its own cluster before the first clustering.
    """

    def __init__(
        self,
        bank: MemoryBank,
        bank_config: BankConfig,
        instance_recognition: InstanceRecognitionConfig,
        local_aggregation: LocalAggregationConfig,
        *,
        seed: int,
        steps_per_epoch: int,
    ) -> None:
        self.bank = bank
        self.temperature = bank_config.temperature
        self.instance_recognition = instance_recognition
        self.local_aggregation = local_aggregation
        self.seed = seed
        self.steps_per_epoch = steps_per_epoch
        instances = len(bank)
        self.num_clusters, self.num_neighbours = cluster_sizes(local_aggregation, instances)
        self.labels = torch.arange(instances, device=bank.embeddings.device)[None]

    def stage(self, step: int) -> Stage:
        return "ir" if step < self.instance_recognition.steps else "la"

    def begin_step(self, step: int) -> None:
        """Clusters the bank before the first step of local aggregation and then at every so many epochs."""
        since_switch = step - self.instance_recognition.steps
        period = self.local_aggregation.refresh_epochs * self.steps_per_epoch
        if since_switch < 0 or since_switch % period:
            return
        self.labels = cluster(
            self.bank.embeddings,
            self.num_clusters,
            self.local_aggregation.clusterings,
            self.local_aggregation.iterations,
        )

    def loss(self, embedding: Tensor, instances: Tensor, step: int) -> Tensor:
        """Loss of embeddings (B, D) of instances (B,); the bank takes no gradient and is not changed."""
        # One product with the whole bank serves both objectives: cheaper than gathering M or k rows for each clip.
        similarity = embedding @ self.bank.embeddings.T
        if self.stage(step) == "ir":
            return self._instance_recognition(similarity, instances, step)
        background = torch.topk(similarity.detach(), self.num_neighbours, dim=1).indices
        same_cluster = (self.labels[:, background] == self.labels[:, instances, None]).any(dim=0)
        return neighbour_share_loss(similarity.gather(1, background), same_cluster, self.temperature)

    def end_step(self, embedding: Tensor, instances: Tensor) -> None:
        """Moves the bank's rows towards the step's embeddings."""
        self.bank.update(instances, embedding.detach())

    def _instance_recognition(self, similarity: Tensor, instances: Tensor, step: int) -> Tensor:
        noise = self.instance_recognition.noise
        if noise is None:
            return instance_softmax_loss(similarity, instances, self.temperature)
        positive = similarity.gather(1, instances[:, None]).squeeze(1)
        drawn = similarity.gather(1, self._noise((len(instances), noise), step))
        return noise_contrastive_loss(positive, drawn, len(self.bank), self.temperature)

    def _noise(self, shape: tuple[int, int], step: int) -> Tensor:
        """Rows (B, M) drawn uniformly with replacement, as a function of (seed, step)."""
        device = self.bank.embeddings.device
        generator = step_generator(self.seed, step, device)
        return torch.randint(len(self.bank), shape, generator=generator, device=device)
