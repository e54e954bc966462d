"""A transformer that writes an action down component by component, each as one of many bins (PA-RL's second policy)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rl_encoders.agents.base_policy import PolicyHead
from rl_encoders.agents.draws import draw_by_logits


class AutoregressiveHead(PolicyHead):
    """p(a|z) = prod_i p(a_i | a_<i, z) over bins of equal width; a chunk of actions is one long action."""

    centres: Tensor

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        bins: int = 128,
        low: float = -1.0,
        high: float = 1.0,
        width: int = 256,
        layers: int = 4,
        heads: int = 8,
        dropout: float = 0.1,
    ) -> None:
        """Builds the network, of the size that PA-RL takes (arXiv 2412.06685).

        Args:
            state_dim: Length of the vectors z.
            action_dim: |A|, times the length of a chunk.
            bins: Of each component.
            low: Of every component.
            high: Likewise.
            width: Of the transformer.
            layers: Of the transformer.
            heads: Of its attention.
            dropout: While it learns.
        """
        super().__init__()
        self.register_buffer("centres", torch.linspace(low, high, bins), persistent=False)
        self.action_dim = action_dim
        self.state = nn.Linear(state_dim, width)
        self.tokens = nn.Embedding(bins, width)
        self.places = nn.Parameter(torch.randn(action_dim, width) * 0.02)
        block = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, bins)

    def nearest(self, action: Tensor) -> Tensor:
        """The bins of actions, whatever their shape."""
        spacing = self.centres[1] - self.centres[0]
        return ((action - self.centres[0]) / spacing).round().long().clamp(0, len(self.centres) - 1)

    def logits(self, state: Tensor, before: Tensor) -> Tensor:
        """Of each component, given the bins (B, i) of those before it: (B, i + 1, bins)."""
        seen = torch.cat([self.state(state)[:, None], self.tokens(before)], dim=1) + self.places[: before.shape[1] + 1]
        mask = nn.Transformer.generate_square_subsequent_mask(seen.shape[1], device=seen.device)
        return self.head(self.blocks(seen, mask=mask, is_causal=True))

    def loss(self, state: Tensor, action: Tensor) -> Tensor:
        """Cross-entropy of the nearest bins, summed over components and averaged: (B, Z), (B, A)."""
        return -self.log_prob(state, action).mean()

    def log_prob(self, state: Tensor, action: Tensor) -> Tensor:
        """Log-probability of the bins of actions (B, A): (B,)."""
        bins = self.nearest(action)
        logits = self.logits(state, bins[:, :-1])
        return -F.cross_entropy(logits.transpose(1, 2), bins, reduction="none").sum(dim=1)

    @torch.no_grad()
    def sample(self, state: Tensor, count: int) -> Tensor:
        """Draws n actions for each state (B, Z): (B, n, A), each component drawn by its own chance."""
        rows = state.repeat_interleave(count, dim=0)
        bins = torch.empty(len(rows), 0, dtype=torch.long, device=state.device)
        for _ in range(self.action_dim):
            drawn = draw_by_logits(self.logits(rows, bins)[:, -1])
            bins = torch.cat([bins, drawn[:, None]], dim=1)
        return self.centres[bins].unflatten(0, (len(state), count))
