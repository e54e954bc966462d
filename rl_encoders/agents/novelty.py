"""What novelty is measured on: observations as they are kept, which no training of an encoder changes.

OOO (Sobol Mark et al. 2023) measures it on the observation. A vector that is trained would drift under the predictor:
what was familiar would look new, and the other way round.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from rl_encoders.agents.base_policy import Seen
from rl_encoders.agents.perception import Eyes, Perception

GRID = 16
"""Cells along each side of a picture; of each the mean colour counts."""


def novelty_dim(eyes: Perception) -> int:
    """Length of what ``observed`` gives."""
    if not isinstance(eyes, Eyes):
        return eyes.dim
    encoder = eyes.encoder
    of_one = encoder.kept_shape[0] if eyes.keeps_features else 3 * GRID**2
    return int(of_one * len(encoder.heads.cameras) + sum((encoder.heads.proprio or {}).values()))


@torch.no_grad()
def observed(eyes: Perception, seen: Seen) -> Tensor:
    """The observations without anything learned by an agent: (B, ``novelty_dim``).

    Of a frozen trunk the features, averaged over places; of one that is trained the pictures themselves, coarsely, the
    newest of a clip. Then the numbers. No trunk is run.
    """
    if not isinstance(eyes, Eyes):
        return eyes.vector(seen)
    heads = eyes.encoder.heads
    shrink = _averaged if eyes.keeps_features else _coarse
    return torch.cat(
        [*(shrink(seen[name]) for name in heads.cameras), *(seen[name] for name in heads.proprio or {})], dim=1
    )


def _averaged(features: Tensor) -> Tensor:
    return features.float().flatten(2).mean(dim=2) if features.ndim > 2 else features.float()


def _coarse(pictures: Tensor) -> Tensor:
    newest = pictures[:, -1] if pictures.ndim == 5 else pictures
    return F.adaptive_avg_pool2d(newest.permute(0, 3, 1, 2).float() / 255, GRID).flatten(1)
