"""What a critic's outputs mean: a number, or a histogram of HL-Gauss.

HL-Gauss (Farebrother et al., Stop Regressing, ICML 2024, arXiv 2403.03950): a target becomes a normal distribution
around it, cut to the bins; a critic learns it by cross-entropy, and its value is the expectation over their centres.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SQRT2 = 2.0**0.5


class Scalar(nn.Module):
    """A critic says the value itself, and learns it by squared errors."""

    outputs = 1

    def loss(self, q: Tensor, target: Tensor) -> Tensor:
        """Of (E, B) critics against targets (B,): averaged over the batch, summed over critics."""
        return F.mse_loss(q, target.detach().expand_as(q), reduction="none").mean(dim=1).sum()

    def value(self, q: Tensor) -> Tensor:
        return q


class HLGauss(nn.Module):
    """A critic says a histogram.

    Attributes:
        outputs: Number of bins.
        edges: (bins + 1,).
        centres: (bins,).
        sigma: Standard deviation of a target.
    """

    edges: Tensor
    centres: Tensor

    def __init__(self, low: float, high: float, bins: int = 128, sigma_bins: float = 0.75) -> None:
        """Lays bins out.

        Args:
            low: Lower end of the first bin.
            high: Upper end of the last. Values at the ends are cut off and read a little towards the middle, so leave
                a few bins of room beyond what can be returned.
            bins: Number of them.
            sigma_bins: Standard deviation of a target in widths of a bin.
        """
        super().__init__()
        edges = torch.linspace(low, high, bins + 1, dtype=torch.float64)
        self.register_buffer("edges", edges.float(), persistent=False)
        self.register_buffer("centres", ((edges[1:] + edges[:-1]) / 2).float(), persistent=False)
        self.outputs = bins
        self.sigma = sigma_bins * (high - low) / bins

    def probabilities(self, target: Tensor) -> Tensor:
        """Share of each bin in the distribution of a target: (...) to (..., bins); outside, the nearest end's."""
        target = target.clamp(self.edges[0], self.edges[-1])
        below = torch.special.erf((self.edges - target[..., None]) / (SQRT2 * self.sigma))
        return below.diff(dim=-1) / (below[..., -1:] - below[..., :1])

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy of (E, B, bins) critics against targets (B,): averaged over the batch, summed over critics."""
        wanted = self.probabilities(target.detach())
        return -(wanted * logits.log_softmax(dim=-1)).sum(dim=-1).mean(dim=1).sum()

    def value(self, logits: Tensor) -> Tensor:
        """Expectations: (..., bins) to (...)."""
        return logits.softmax(dim=-1) @ self.centres
