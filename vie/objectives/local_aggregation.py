"""Local aggregation: each video towards its close neighbours and away from its background neighbours.

Zhuang, Zhai, Yamins, "Local Aggregation for Unsupervised Learning of Visual Embeddings" (ICCV 2019), section 3, as used
by VIE (CVPR 2020).
"""

import torch
from torch import Tensor

EPSILON = 1e-7


def local_aggregation_loss(
    embedding: Tensor, background: Tensor, same_cluster: Tensor, temperature: float = 0.07
) -> Tensor:
    """Negative log of the share of the background neighbours' weight that close neighbours hold.

    L = -mean_B log( sum_{j in B and C} exp(v_j.f / tau) / sum_{j in B} exp(v_j.f / tau) + eps ).

    Args:
        embedding: (B, D) unit vectors f of the clips.
        background: (B, k, D) the bank rows nearest to each f (the set B).
        same_cluster: (B, k) bool: whether a background row shares a cluster with the clip's video (the set C).
        temperature: tau.

    Returns:
        Scalar: the mean over the batch. A clip without any close neighbour contributes -log(eps) and no gradient.
    """
    return neighbour_share_loss(torch.einsum("bd,bkd->bk", embedding, background), same_cluster, temperature)


def neighbour_share_loss(background_similarity: Tensor, same_cluster: Tensor, temperature: float = 0.07) -> Tensor:
    """The same loss from the similarities (B, k) of the background rows."""
    weight = torch.softmax(background_similarity / temperature, dim=1)
    return negative_log_share((weight * same_cluster).sum(dim=1)).mean()


def negative_log_share(share: Tensor) -> Tensor:
    """-log(share + eps), of shares of any shape."""
    return -torch.log(share + EPSILON)
