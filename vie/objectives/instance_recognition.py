"""Instance recognition: each video against noise drawn from the bank.

Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination" (CVPR 2018), section 3, with the
constants of VIE (Zhuang et al., CVPR 2020).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

NORMALISER_PER_INSTANCE = 2876934.2 / 1281167
"""Z / N as estimated once on ImageNet by Wu et al.; VIE keeps the ratio for every corpus and never re-estimates it."""

EPSILON = 1e-7


def instance_recognition_loss(
    embedding: Tensor, positive: Tensor, noise: Tensor, num_instances: int, temperature: float = 0.07
) -> Tensor:
    """Noise-contrastive loss of recognising each clip's own video.

    Args:
        embedding: (B, D) unit vectors f of the clips.
        positive: (B, D) bank rows v_i of the same videos.
        noise: (B, M, D) bank rows v_j drawn uniformly with replacement; the positive may be among them.
        num_instances: N, the number of rows of the bank.
        temperature: tau.

    Returns:
        Scalar: the mean over the batch.
    """
    positive_similarity = torch.einsum("bd,bd->b", embedding, positive)
    noise_similarity = torch.einsum("bd,bmd->bm", embedding, noise)
    return noise_contrastive_loss(positive_similarity, noise_similarity, num_instances, temperature)


def noise_contrastive_loss(
    positive_similarity: Tensor, noise_similarity: Tensor, num_instances: int, temperature: float = 0.07
) -> Tensor:
    r"""The same loss from similarities that are already known.

    With P(j) = exp(v_j.f / tau) / Z, Z = 2.24556 N and c = M / N:
    L = mean_B[ -log(P(i) / (P(i) + c + eps)) - sum_j log(c / (P(j) + c + eps)) ].

    Args:
        positive_similarity: (B,) v_i.f.
        noise_similarity: (B, M) v_j.f.
        num_instances: N.
        temperature: tau.

    Returns:
        Scalar: the mean over the batch.
    """
    draws = noise_similarity.shape[1]
    recognised = recognised_positive(positive_similarity, draws, num_instances, temperature)
    rejected = rejected_noise(noise_similarity, draws, num_instances, temperature).sum(dim=1)
    return (recognised + rejected).mean()


def recognised_positive(similarity: Tensor, draws: int, num_instances: int, temperature: float) -> Tensor:
    """-log(P(i) / (P(i) + c + eps)) of similarities of any shape, for M = ``draws`` rows of noise."""
    log_positive = similarity / temperature - math.log(NORMALISER_PER_INSTANCE * num_instances)
    # It keeps the digits that a ratio near one would lose, and the gradient of tiny P finite.
    return F.softplus(math.log(draws / num_instances + EPSILON) - log_positive)


def rejected_noise(similarity: Tensor, draws: int, num_instances: int, temperature: float) -> Tensor:
    """-log(c / (P(j) + c + eps)) of similarities of any shape, for M = ``draws`` rows of noise."""
    p_noise = torch.exp(similarity / temperature) / (NORMALISER_PER_INSTANCE * num_instances)
    return torch.log1p((p_noise + EPSILON) * (num_instances / draws))


def instance_softmax(positive_similarity: Tensor, log_partition: Tensor, temperature: float = 0.07) -> Tensor:
    """The exact non-parametric softmax that the noise-contrastive loss stands in for (Wu et al., equation 2).

    Its cost grows with N, so it suits small corpora; there it also trains where the noise-contrastive loss does not
    (``docs/decisions/0004-small-corpora.md``).

    Args:
        positive_similarity: (B,) v_i.f.
        log_partition: (B,) log sum_j exp(v_j.f / tau) over the whole bank.
        temperature: tau.

    Returns:
        (B,): -log(exp(v_i.f / tau) / sum_j exp(v_j.f / tau)).
    """
    return log_partition - positive_similarity / temperature
