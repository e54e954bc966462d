"""What an encoder knows: nearest-neighbour and linear accuracy of its features on held-out videos."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from pretrain.config import KnnConfig
from pretrain.data.clips import EvalClips, workers_for
from pretrain.data.prefetch import stream
from pretrain.runtime import Autocast
from vie import Sampling, Stream, VieError, knn_scores
from vie.distributed import Ranks
from vie.linear import linear_readout
from vie.video import Shards
from vie.video.pixels import crop_resize, normalise


@dataclass(frozen=True)
class Features:
    """Features of videos, each averaged over its test clips.

    Attributes:
        videos: (N,) row numbers in the corpus.
        pooled: (N, num_features) mean of the last tap over time, space and clips.
        clip_embeddings: (C, embed_dim) unit vectors of the single clips.
        clip_positions: (C,) which of the N videos each clip shows.
    """

    videos: Tensor
    pooled: Tensor
    clip_embeddings: Tensor
    clip_positions: Tensor


@dataclass(frozen=True)
class Result:
    """One accuracy, in per cent of the test videos, and what it was measured with."""

    label: str
    readout: str
    top1: float
    chance: float
    videos: int


@torch.no_grad()
def extract(model: Stream, clips: EvalClips, device: torch.device, autocast: Autocast, workers: int) -> Features:
    """Features of videos through a network in eval mode (the mode is put back afterwards); none if none can be read."""
    was_training = model.training
    model.eval()
    pooled_parts: list[Tensor] = []
    position_parts: list[npt.NDArray[np.int64]] = []
    numbers = range(len(clips))
    batches = stream(clips, numbers, workers_for(clips.reader, workers), pin_memory=device.type == "cuda")
    for batch in tqdm(batches, "test", len(clips), unit="batch", leave=False, delay=2):
        if len(batch.positions) == 0:
            continue
        frames = batch.frames.to(device, non_blocking=True)
        cropped = crop_resize(frames, torch.from_numpy(batch.boxes).to(device), clips.sampling.size)
        clip = normalise(cropped, model.mean, model.std)
        with autocast():
            pooled_parts.append(model.pooled(clip).float())
        position_parts.append(batch.positions)
    model.train(was_training)
    pooled = torch.cat(pooled_parts) if pooled_parts else torch.zeros(0, model.num_features, device=device)
    with autocast():
        embeddings = model.embed(pooled)
    positions = torch.from_numpy(np.concatenate([np.empty(0, np.int64), *position_parts])).to(device)
    present, positions = torch.unique(positions, return_inverse=True)
    return Features(
        torch.from_numpy(clips.videos).to(device)[present], _mean_by(pooled, positions), embeddings, positions
    )


def check_any(features: Features, asked: int) -> Features:
    """The features; raises ``VieError`` if there are none."""
    if len(features.videos) == 0:
        raise VieError(f"none of the {asked} test videos can be read: prepare the corpus again")
    return features


def gather(features: Features, ranks: Ranks) -> Features:
    """Features of all ranks' videos, in the order of ranks, on every rank."""
    before = sum(ranks.gather(torch.tensor([len(features.videos)], device=features.videos.device))[: ranks.rank])
    return Features(
        ranks.gather_uneven(features.videos),
        ranks.gather_uneven(features.pooled),
        ranks.gather_uneven(features.clip_embeddings),
        ranks.gather_uneven(features.clip_positions + before),
    )


def evaluate_on_bank(
    test: Features,
    shards: Shards,
    columns: list[str],
    bank: Tensor,
    row_videos: npt.NDArray[np.int64],
    knn: KnnConfig,
) -> list[Result]:
    """VIE's monitor: the bank rows nearest to each test clip vote with their videos' labels, averaged over clips.

    Args:
        test: Features of the held-out videos.
        shards: The prepared corpus.
        columns: Label columns.
        bank: (N, D) the memory bank.
        row_videos: (N,) the video, as a row of the corpus, that each row of the bank is of.
        knn: How the rows vote.
    """

    def predict(train_known: Tensor, train_labels: Tensor, classes: int) -> Tensor:
        scores = knn_scores(
            test.clip_embeddings, bank[train_known], train_labels, classes, knn.neighbours, knn.temperature
        )
        return _mean_by(scores, test.clip_positions)

    rows = torch.from_numpy(row_videos).to(bank.device)
    return [_accuracy(shards, column, rows, test.videos, "knn_bank", predict) for column in columns]


def evaluate_features(
    train: Features, test: Features, shards: Shards, columns: list[str], knn: KnnConfig
) -> list[Result]:
    """Nearest-neighbour and linear accuracy of pooled features, for every label column."""

    def nearest(known: Tensor, labels: Tensor, classes: int) -> Tensor:
        rows = F.normalize(train.pooled[known], dim=1)
        return knn_scores(F.normalize(test.pooled, dim=1), rows, labels, classes, knn.neighbours, knn.temperature)

    def linear(known: Tensor, labels: Tensor, classes: int) -> Tensor:
        scores: Tensor = linear_readout(train.pooled[known], labels, classes)(test.pooled)
        return scores

    return [
        _accuracy(shards, column, train.videos, test.videos, readout, predict)
        for column in columns
        for readout, predict in (("knn", nearest), ("linear", linear))
    ]


def join(streams: list[dict[str, Features]]) -> dict[str, Features]:
    """Features of several streams side by side.

    Each stream is divided by the mean length of its training features, so that all weigh alike in a cosine; to a linear
    read-out, which standardises its input, this changes nothing.

    Args:
        streams: The features of each stream by split; one of the splits is "train".
    """
    joined: dict[str, Features] = {}
    for split, first in streams[0].items():
        if any(not torch.equal(part[split].videos, first.videos) for part in streams):
            raise VieError("the streams were tested on different videos: train them on one corpus to join them")
        scaled = [part[split].pooled / part["train"].pooled.norm(dim=1).mean() for part in streams]
        joined[split] = replace(first, pooled=torch.cat(scaled, dim=1))
    return joined


def protocol(clips: int, sampling: Sampling, knn: KnnConfig) -> dict[str, object]:
    """What the accuracies of this file mean, for the files that quote them."""
    return {
        "metric": "top-1, per cent of the test videos",
        "clips_per_video": clips,
        "crop": describe_crop(sampling),
        "feature": "the network's own pooled feature, mean over clips, batch norm in eval mode",
        "knn": f"{knn.neighbours} nearest training videos by cosine, votes exp(similarity / {knn.temperature:g})",
        "knn_bank": "as knn, but each clip's embedding against the memory bank, votes averaged over clips",
        "joined": "features of the streams side by side, each divided by the mean length of its training features",
        "linear": "multinomial logistic regression on standardised features, L-BFGS, penalty 1e-3",
    }


def describe_crop(sampling: Sampling) -> str:
    """The test crop in words."""
    return f"short side {Fraction(sampling.short_side).limit_denominator(100)} times the size, centre"


def as_rows(results: list[Result], **where: object) -> list[dict[str, object]]:
    """Results as mappings, with what they all share."""
    return [{**where, **asdict(result)} for result in results]


def _accuracy(
    shards: Shards,
    column: str,
    train_videos: Tensor,
    test_videos: Tensor,
    readout: str,
    predict: Callable[[Tensor, Tensor, int], Tensor],
) -> Result:
    classes = shards.classes(column)
    labels = torch.from_numpy(shards.labels(column)).to(train_videos.device)
    train_labels, test_labels = labels[train_videos], labels[test_videos]
    known, asked = train_labels >= 0, test_labels >= 0
    if not known.any() or not asked.any():
        raise VieError(f"label column {column!r} is empty in a split: choose others with monitor.labels")
    guess = predict(known, train_labels[known], len(classes)).argmax(dim=1)
    correct = (guess == test_labels)[asked].float().mean().item()
    # Each video once, however many rows of a bank it has.
    once = labels[train_videos.unique()]
    most_common = torch.bincount(once[once >= 0]).argmax()
    chance = (test_labels[asked] == most_common).float().mean().item()
    return Result(column, readout, 100 * correct, 100 * chance, int(asked.sum()))


def _mean_by(values: Tensor, groups: Tensor) -> Tensor:
    """Mean of the rows (C, D) of each group (C,), for groups numbered from 0."""
    count = int(groups.max()) + 1 if len(groups) else 0
    sums = torch.zeros(count, values.shape[1], device=values.device, dtype=torch.float64)
    sums.index_add_(0, groups, values.double())
    return (sums / torch.bincount(groups, minlength=count)[:, None]).to(values.dtype)
