"""What the features of held-out videos say: their nearest training videos, and a map of them."""

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from torch import Tensor
from torch.nn.functional import normalize
from torchvision.io import encode_jpeg

from pretrain.config import KnnConfig
from pretrain.evaluate import Features
from pretrain.reporting import figures
from vie import Sampling, knn_scores, nearest
from vie.video import Shards
from vie.video.clips import clip_frames, even_positions
from vie.video.pixels import centre_boxes, crop_resize

NEIGHBOURS = 5
QUERIES = 6
FRAMES = 4
"""Frames of a clip that a thumbnail shows side by side, so that motion can be seen."""

CANDIDATES = 1000
"""Videos that are mapped, and that the queries are chosen from: more would cover one another, and take minutes."""

TSNE_FROM = 50
"""Fewer videos than this make no neighbourhoods for t-SNE: they are projected by PCA."""


@dataclass(frozen=True)
class Thumbnail:
    """Frames of one video side by side.

    Attributes:
        image: JPEG as a data URI.
        label: In words, if it has one.
        agrees: Whether the label is the query's; None for the query itself, and where a label is missing.
    """

    image: str
    label: str | None
    agrees: bool | None


@dataclass(frozen=True)
class Query:
    """A held-out video, the label that its neighbours vote for, and the nearest of them."""

    shown: Thumbnail
    vote: str | None
    neighbours: list[Thumbnail]


@dataclass(frozen=True)
class Gallery:
    """Queries, the label column that frames them (None for none), and the frames in a thumbnail."""

    queries: list[Query]
    column: str | None
    frames: int


def find_neighbours(
    features: dict[str, Features], shards: Shards, sampling: Sampling, column: str | None, knn: KnnConfig
) -> Gallery:
    """Chooses queries from the val features and finds their nearest training videos by cosine.

    With a label column, half of the queries are videos that the nearest-neighbour classifier of ``pretrain.evaluate``
    gets right and half are videos that it gets wrong, as far as there are such. They lie at even distances in the
    split: nobody chooses them.
    """
    train, val = features["train"], features["val"]
    rows, videos = normalize(train.pooled, dim=1), val.videos
    labels = torch.full((len(shards),), -1) if column is None else torch.from_numpy(shards.labels(column))
    classes = [] if column is None else shards.classes(column)
    if column is not None:
        videos = videos[labels[videos] >= 0]
    asked = _spread(videos, CANDIDATES)
    unit = normalize(val.pooled[torch.isin(val.videos, asked)], dim=1)
    if column is None:
        votes, chosen = torch.full((len(asked),), -1), _spread(torch.arange(len(asked)), QUERIES)
    else:
        known = labels[train.videos] >= 0
        scores = knn_scores(
            unit, rows[known], labels[train.videos[known]], len(classes), knn.neighbours, knn.temperature
        )
        votes = scores.argmax(dim=1)
        right = votes == labels[asked]
        wrong = _spread(torch.nonzero(~right)[:, 0], max(QUERIES // 2, QUERIES - int(right.sum())))
        chosen = torch.cat([_spread(torch.nonzero(right)[:, 0], QUERIES - len(wrong)), wrong])
    _, neighbours = nearest(unit[chosen], rows, min(NEIGHBOURS, len(rows)))

    def name(label: int) -> str | None:
        return classes[label] if label >= 0 else None

    def thumbnail(video: int, query: int | None = None) -> Thumbnail:
        label = int(labels[video])
        other = -1 if query is None else int(labels[query])
        agrees = label == other if min(label, other) >= 0 else None
        return Thumbnail(_picture(shards, video, sampling), name(label), agrees)

    queries = [
        Query(thumbnail(query), name(vote), [thumbnail(video, query) for video in near])
        for query, vote, near in zip(
            asked[chosen].tolist(), votes[chosen].tolist(), train.videos[neighbours].tolist(), strict=True
        )
    ]
    return Gallery(queries, column, min(FRAMES, sampling.frames))


def draw_maps(features: Features, shards: Shards, width: int) -> tuple[str, list[str]]:
    """Lays videos out on a plane by their features, and colours them by each label.

    Args:
        features: Of at least two videos.
        shards: Their corpus.
        width: Of a figure, in pixels.

    Returns:
        The name of the projection, and one SVG for each label column (one in all where there are none).
    """
    chosen = _spread(torch.arange(len(features.videos)), CANDIDATES)
    unit = normalize(features.pooled[chosen], dim=1).numpy()
    method = "t-SNE" if len(unit) >= TSNE_FROM else "PCA"
    if method == "PCA":
        points = PCA(2, random_state=0).fit_transform(unit)
    else:
        points = TSNE(2, init="pca", perplexity=min(30, len(unit) / 4), random_state=0).fit_transform(unit)
    videos = features.videos[chosen].numpy()
    maps = [
        figures.map_figure(points, shards.labels(column)[videos], shards.classes(column), column, width)
        for column in shards.label_columns
    ]
    return method, maps or [figures.map_figure(points, np.full(len(videos), -1), [], "", width)]


def _spread(values: Tensor, count: int) -> Tensor:
    """At most ``count`` of the values, at even distances."""
    count = min(count, len(values))
    return values[((torch.arange(count) + 0.5) * len(values) / max(count, 1)).long()]


def _picture(shards: Shards, video: int, sampling: Sampling) -> str:
    """The network's own test crop of the video's middle clip, some frames of it side by side."""
    one: npt.NDArray[Any] = np.array([video])
    clip = clip_frames(sampling, shards.num_frames[one], shards.fps[one], even_positions(1))[0]
    shown = clip[np.linspace(0, len(clip) - 1, min(FRAMES, len(clip))).round().astype(int)]
    frames = shards.read(video, shown)
    boxes = torch.from_numpy(centre_boxes(shards.height[one], shards.width[one], sampling))
    side = 96 if len(shown) > 1 else 160
    cropped = crop_resize(frames[None], boxes, side)[0].mul(255).round().byte()
    jpeg = encode_jpeg(torch.cat(list(cropped.unbind(dim=1)), dim=2), quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(bytes(jpeg.numpy())).decode()
