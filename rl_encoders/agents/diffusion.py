"""A diffusion policy: Ho, Jain, Abbeel, Denoising Diffusion Probabilistic Models, 2020, on actions given a state.

Schedule, network and sampling as PA-RL's base policy has them (Sobol Mark et al. 2024, arXiv 2412.06685): five steps of
the cosine schedule (Nichol and Dhariwal 2021), cut to the actions' range after each.
"""

import math

import torch
from torch import Tensor, nn

from rl_encoders.agents.base_policy import PolicyHead


def cosine_betas(steps: int, offset: float = 0.008) -> Tensor:
    """Variances of the noise that each step adds: (T,) float64 (Nichol and Dhariwal 2021, equation 17)."""
    time = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    kept = ((time + offset) / (1 + offset) * math.pi / 2).cos().square()
    return (1 - kept[1:] / kept[:-1]).clamp(0, 0.999)


class Block(nn.Module):
    """A residual block: dropout, layer norm, four times as wide, and back."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Dropout(dropout),
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.SiLU(),
            nn.Linear(4 * width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Denoiser(nn.Module):
    """The noise in an action: eps(a_t, t, z)."""

    def __init__(
        self, state_dim: int, action_dim: int, width: int = 256, blocks: int = 3, dropout: float = 0.1, times: int = 128
    ) -> None:
        super().__init__()
        self.frequencies = nn.Parameter(torch.randn(times // 2) * 0.2)
        self.time = nn.Sequential(nn.Linear(times, 2 * times), nn.SiLU(), nn.Linear(2 * times, times))
        self.of_state = nn.Linear(state_dim, width)
        self.of_rest = nn.Linear(times + action_dim, width, bias=False)
        self.blocks = nn.Sequential(*(Block(width, dropout) for _ in range(blocks)))
        self.last = nn.Linear(width, action_dim)

    def forward(self, action: Tensor, time: Tensor, state: Tensor) -> Tensor:
        """Noisy actions (B, n, A), their steps (B, n) and states (B, Z): the noise (B, n, A)."""
        angle = 2 * math.pi * time[..., None].to(action.dtype) * self.frequencies
        embedded = self.time(torch.cat([angle.cos(), angle.sin()], dim=-1))
        hidden = self.of_state(state)[:, None] + self.of_rest(torch.cat([embedded, action], dim=-1))
        return self.last(nn.functional.silu(self.blocks(hidden)))


class DiffusionHead(PolicyHead):
    """Actions in [low, high] by denoising; a chunk of actions is one long action."""

    betas: Tensor
    kept: Tensor

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        steps: int = 5,
        low: float = -1.0,
        high: float = 1.0,
        width: int = 256,
        blocks: int = 3,
        dropout: float = 0.1,
    ) -> None:
        """Builds the network.

        Args:
            state_dim: Length of the vectors z.
            action_dim: |A|, times the length of a chunk.
            steps: T.
            low: Of every component of an action.
            high: Likewise.
            width: Of the denoiser.
            blocks: Of the denoiser.
            dropout: In these blocks, while it learns.
        """
        super().__init__()
        self.denoiser = Denoiser(state_dim, action_dim, width, blocks, dropout)
        betas = cosine_betas(steps)
        self.register_buffer("betas", betas.float(), persistent=False)
        self.register_buffer("kept", (1 - betas).cumprod(dim=0).float(), persistent=False)
        self.action_dim, self.low, self.high = action_dim, low, high

    def loss(self, state: Tensor, action: Tensor) -> Tensor:
        """|eps - eps(a_t, t, z)|^2 at a random step of each, summed over components and averaged: (B, Z), (B, A)."""
        time = torch.randint(len(self.betas), (len(action),), device=action.device)
        noise = torch.randn_like(action)
        return self.loss_at(state, action, time, noise)

    def loss_at(self, state: Tensor, action: Tensor, time: Tensor, noise: Tensor) -> Tensor:
        """The same for given steps (B,) and noise (B, A)."""
        kept = self.kept[time][:, None]
        noisy = kept.sqrt() * action + (1 - kept).sqrt() * noise
        found = self.denoiser(noisy[:, None], time[:, None], state)[:, 0]
        return (noise - found).square().sum(dim=-1).mean()

    @torch.no_grad()
    def sample(self, state: Tensor, count: int) -> Tensor:
        """Draws n actions for each state (B, Z): (B, n, A); every state's vector is computed once."""
        action = torch.randn(len(state), count, self.action_dim, device=state.device)
        for step in reversed(range(len(self.betas))):
            time = torch.full((len(state), count), step, device=state.device)
            beta, kept = self.betas[step], self.kept[step]
            mean = (action - beta / (1 - kept).sqrt() * self.denoiser(action, time, state)) / (1 - beta).sqrt()
            noise = torch.randn_like(mean) if step else torch.zeros_like(mean)
            action = (mean + beta.sqrt() * noise).clamp(self.low, self.high)
        return action
