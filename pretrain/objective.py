"""The loss of a step: instance recognition, then local aggregation, over one memory bank."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.config import BankConfig, InstanceRecognitionConfig, LocalAggregationConfig
from pretrain.data.order import step_generator
from pretrain.similarities import Similarities, similarities
from vie import MemoryBank, VieError, cluster
from vie.bank import PADDING
from vie.objectives import instance_softmax, negative_log_share, recognised_positive, rejected_noise

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
        labels: (H, n) cluster of every row of this rank's bank; each is its own cluster before the first clustering.
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
        own = torch.arange(bank.rows.start, bank.rows.stop, device=bank.embeddings.device)
        self.labels = own.repeat(local_aggregation.clusterings, 1)

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
            ranks=self.bank.owners,
        )

    def loss(self, embedding: Tensor, instances: Tensor, step: int) -> Tensor:
        """This rank's part of the mean loss over the clips of all ranks; the bank is not changed.

        Args:
            embedding: (B, D) of this rank's clips, as many as every other rank's.
            instances: (B,) their numbers, or ``PADDING``.
            step: Of the run.
        """
        owners = self.bank.owners
        # Each rank compares the clips of all with the rows that it owns.
        clips, instances = owners.gather(embedding), owners.gather(instances)
        found = similarities(clips, self.bank.embeddings)
        if self.stage(step) == "ir":
            losses = self._instance_recognition(found, instances, step)
        else:
            losses = self._local_aggregation(found, instances)
        counted = instances != PADDING
        # Where every rank has the losses of all clips, each takes its share of them.
        count = self.bank.ranks.sum(counted.sum())
        return torch.where(counted, losses, 0).sum() / count.clamp(min=1)

    def end_step(self, embedding: Tensor, instances: Tensor) -> None:
        """Moves the bank's rows towards the step's embeddings."""
        self.bank.update(instances, embedding.detach())

    def _instance_recognition(self, found: Similarities, instances: Tensor, step: int) -> Tensor:
        owners, temperature = self.bank.owners, self.temperature
        place, owned = self.bank.locate(instances[:, None])
        positive = owners.sum(torch.where(owned, found.at(place, owned), 0).squeeze(1))
        noise = self.instance_recognition.noise
        if noise is None:
            return instance_softmax(positive, self._log_sum(found), temperature)
        place, owned = self.bank.locate(self._noise(len(instances), noise, step))
        rejected = rejected_noise(found.at(place, owned), noise, len(self.bank), temperature)
        recognised = recognised_positive(positive, noise, len(self.bank), temperature)
        return recognised + owners.sum(torch.where(owned, rejected, 0).sum(dim=1))

    def _local_aggregation(self, found: Similarities, instances: Tensor) -> Tensor:
        owners, k = self.bank.owners, self.num_neighbours
        nearest, place = found.nearest(min(k, len(self.bank.rows)), in_order=owners.size > 1)
        background, largest = self._background(nearest)
        weight = torch.exp((found.at(place, background) - largest) / self.temperature) * background
        close = weight * (self.labels[:, place] == self._labels_of(instances)[:, :, None]).any(dim=0)
        of_close, of_background = owners.sum(torch.stack([close.sum(dim=1), weight.sum(dim=1)]))
        return negative_log_share(of_close / of_background)

    def _background(self, nearest: Tensor) -> tuple[Tensor, Tensor]:
        """Which of this rank's nearest are among the k of all ranks, and the largest similarity of each clip (B, 1)."""
        owners, k = self.bank.owners, self.num_neighbours
        if owners.size == 1:
            return torch.ones_like(nearest, dtype=torch.bool), nearest.amax(dim=1, keepdim=True)
        nearest = F.pad(nearest, (0, k - nearest.shape[1]), value=-torch.inf)
        # The first few of each rank's, which are in order.
        first = torch.arange(min(k, len(self.bank.rows)), device=nearest.device)
        return first < self._taken_of(nearest)[:, None], owners.largest(nearest[:, :1])

    def _taken_of(self, nearest: Tensor) -> Tensor:
        """How many of this rank's k nearest rows to each clip of all ranks are among the k nearest of all rows.

        Args:
            nearest: (W B, k) similarities. Each rank decides over its own B clips: none needs those of all.

        Returns:
            (W B,).
        """
        owners, k = self.bank.owners, nearest.shape[1]
        of_own_clips = owners.exchange(nearest).unflatten(0, (owners.size, -1)).transpose(0, 1).flatten(1)
        owner = torch.topk(of_own_clips, k, dim=1).indices // k
        taken = torch.zeros(len(owner), owners.size, dtype=torch.long, device=nearest.device)
        taken.scatter_add_(1, owner, torch.ones_like(owner))
        return owners.exchange(taken.T.flatten())

    def _labels_of(self, instances: Tensor) -> Tensor:
        """Clusters (H, B) of instances, whoever owns them."""
        place, owned = self.bank.locate(instances)
        return self.bank.owners.sum(torch.where(owned, self.labels[:, place], 0))

    def _log_sum(self, found: Similarities) -> Tensor:
        """Log sum over all rows of exp(similarity / temperature)."""
        owners, partial = self.bank.owners, found.log_sum(self.temperature)
        largest = owners.largest(partial)
        return largest + torch.log(owners.sum(torch.exp(partial - largest)))

    def _noise(self, clips: int, draws: int, step: int) -> Tensor:
        """Rows (clips, M) drawn uniformly with replacement, as a function of (seed, step)."""
        device, ranks = self.bank.embeddings.device, self.bank.ranks
        of_all = clips if self.bank.owners is ranks else clips * ranks.size
        generator = step_generator(self.seed, step, device)
        drawn = torch.randint(len(self.bank), (of_all, draws), generator=generator, device=device)
        return drawn if of_all == clips else drawn[ranks.rank * clips : (ranks.rank + 1) * clips]
