"""What an encoder knows: nearest-neighbour and linear accuracy of its features on held-out videos."""

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
from vie import MemoryBank, Sampling, Stream, VieError, knn_scores
from vie.distributed import ALONE, Ranks
from vie.knn import vote
from vie.linear import linear_readout
from vie.video import Shards
from vie.video.pixels import crop_resize, normalise


@dataclass(frozen=True)
class Features:
    """Features of videos, each averaged over its test clips.

    Attributes:
        videos: (N,) row numbers in the corpus.
        pooled: (N, num_features) mean of the last tap over time, space and clips.
    """

    videos: Tensor
    pooled: Tensor


@dataclass(frozen=True)
class ClipFeatures(Features):
    """The same, and what the single clips were embedded as.

    Attributes:
        clip_embeddings: (C, embed_dim) unit vectors of the single clips.
        clip_positions: (C,) which of the N videos each clip shows.
    """

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
def extract(model: Stream, clips: EvalClips, device: torch.device, autocast: Autocast, workers: int) -> ClipFeatures:
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
    return ClipFeatures(
        torch.from_numpy(clips.videos).to(device)[present], _mean_by(pooled, positions), embeddings, positions
    )


def check_any(found: int, asked: int) -> None:
    """Raises ``VieError`` if none of the test videos could be read."""
    if found == 0:
        raise VieError(f"none of the {asked} test videos can be read: prepare the corpus again")


def collect(features: Features, ranks: Ranks) -> Features:
    """Features of all ranks' videos, in the order of ranks: in the first's host memory, none on the others."""
    return Features(ranks.collect(features.videos), ranks.collect(features.pooled))


def evaluate_on_bank(
    test: ClipFeatures,
    shards: Shards,
    columns: list[str],
    bank: MemoryBank,
    row_videos: npt.NDArray[np.int64],
    knn: KnnConfig,
    ranks: Ranks = ALONE,
) -> list[Result]:
    """VIE's monitor: the bank rows nearest to each test clip vote with their videos' labels, averaged over clips.

    Args:
        test: Features of the held-out videos; of several ranks, each gives its own.
        shards: The prepared corpus.
        columns: Label columns.
        bank: The memory bank, of N rows.
        row_videos: (N,) the video, as a row of the corpus, that each row of the bank is of.
        knn: How the rows vote.
        ranks: That the held-out videos are divided between; the first is told the results, the others none.
    """
    device = test.videos.device
    clips = len(test.clip_embeddings)
    # All ranks ask the bank as often.
    most = int(ranks.largest(torch.tensor(clips, device=device)))
    asked = F.pad(test.clip_embeddings, (0, 0, 0, most - clips))
    rows = torch.from_numpy(row_videos).to(device)
    results = []
    for column in columns:
        labels = torch.from_numpy(shards.labels(column)).to(device)
        similarity, numbers = (found[:clips] for found in bank.nearest(asked, knn.neighbours, labels[rows] >= 0))
        # A row without a label does not vote: its similarity is -inf.
        votes = labels[rows[numbers]].clamp(min=0)
        scores = vote(similarity, votes, len(shards.classes(column)), knn.temperature)
        guess = ranks.collect(_mean_by(scores, test.clip_positions).argmax(dim=1))
        videos = ranks.collect(test.videos)
        if ranks.rank == 0:
            results.append(_result(column, "knn_bank", labels.cpu(), rows.cpu(), videos, guess))
    return results


def evaluate_features(
    train: Features, test: Features, shards: Shards, columns: list[str], knn: KnnConfig
) -> list[Result]:
    """Nearest-neighbour and linear accuracy of pooled features, for every label column."""
    results = []
    for column in columns:
        labels = torch.from_numpy(shards.labels(column)).to(train.videos.device)
        classes = len(shards.classes(column))
        known = labels[train.videos] >= 0
        rows, row_labels = train.pooled[known], labels[train.videos][known]
        _check_labelled(column, row_labels, labels[test.videos])
        units = F.normalize(test.pooled, dim=1), F.normalize(rows, dim=1)
        for readout, scores in (
            ("knn", knn_scores(*units, row_labels, classes, knn.neighbours, knn.temperature)),
            ("linear", linear_readout(rows, row_labels, classes)(test.pooled)),
        ):
            results.append(_result(column, readout, labels, train.videos, test.videos, scores.argmax(dim=1)))
    return results


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


def _check_labelled(column: str, train_labels: Tensor, test_labels: Tensor) -> None:
    if not (train_labels >= 0).any() or not (test_labels >= 0).any():
        raise VieError(f"label column {column!r} is empty in a split: choose others with monitor.labels")


def _result(
    column: str, readout: str, labels: Tensor, train_videos: Tensor, test_videos: Tensor, guess: Tensor
) -> Result:
    """Accuracy of guessed classes of the test videos, of those that have a label."""
    test_labels = labels[test_videos]
    _check_labelled(column, labels[train_videos], test_labels)
    asked = test_labels >= 0
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
