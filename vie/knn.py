"""The weighted nearest-neighbour classifier that VIE monitors its training with."""

import torch
from torch import Tensor

from vie.neighbours import nearest


def knn_scores(
    queries: Tensor, rows: Tensor, labels: Tensor, num_classes: int, k: int = 10, temperature: float = 0.07
) -> Tensor:
    """Class scores by the votes of the k nearest rows, each weighing exp(similarity / temperature).

    Wu et al. 2018, section 3.4; VIE uses k = 10. Scores of several clips of one video are averaged by the caller.

    Args:
        queries: (Q, D) unit vectors.
        rows: (N, D) unit vectors.
        labels: (N,) class of every row, in [0, num_classes).
        num_classes: Number of classes.
        k: Neighbours that vote; fewer where there are fewer rows.
        temperature: Of the votes' weights.

    Returns:
        (Q, num_classes) float32.
    """
    similarity, neighbours = nearest(queries, rows, min(k, len(rows)))
    return vote(similarity, labels[neighbours], num_classes, temperature) / k


def vote(similarity: Tensor, labels: Tensor, num_classes: int, temperature: float = 0.07) -> Tensor:
    """Class scores of neighbours that are already known: sums of exp(similarity / temperature).

    Args:
        similarity: (Q, k); -inf for one that does not vote.
        labels: (Q, k) classes, in [0, num_classes).
        num_classes: Number of classes.
        temperature: Of the votes' weights.

    Returns:
        (Q, num_classes) float32.
    """
    scores = torch.zeros(len(similarity), num_classes, device=similarity.device)
    return scores.scatter_add_(1, labels, torch.exp(similarity / temperature).float())
