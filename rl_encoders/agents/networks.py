"""Small networks on an encoder's vectors: perceptrons, and ensembles of critics that are computed as one."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

Activation = Literal["relu", "swish", "tanh"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "swish": nn.functional.silu,
    "tanh": torch.tanh,
}


class EnsembleLinear(nn.Module):
    """E linear layers, each on its own (E, B, in) or all on one (B, in): to (E, B, out)."""

    def __init__(self, ensemble: int, inputs: int, outputs: int, gain: float = math.sqrt(2), bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(ensemble, inputs, outputs))
        for member in self.weight.data:
            nn.init.orthogonal_(member, gain)
        self.bias = nn.Parameter(torch.zeros(ensemble, 1, outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        product = torch.matmul(x, self.weight)
        return product if self.bias is None else product + self.bias


class EnsembleNorm(nn.Module):
    """E layer norms: (E, B, C) to the same shape."""

    def __init__(self, ensemble: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(ensemble, 1, channels))
        self.bias = nn.Parameter(torch.zeros(ensemble, 1, channels))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.layer_norm(x, x.shape[-1:]) * self.weight + self.bias


class EnsembleMLP(nn.Module):
    """E perceptrons with orthogonal weights, zero biases and a last layer of small gain (Cal-QL's initialisation)."""

    def __init__(
        self,
        ensemble: int,
        inputs: int,
        hidden: Sequence[int],
        outputs: int,
        *,
        activation: str = "relu",
        layer_norm: bool = False,
        last_gain: float = 0.01,
    ) -> None:
        super().__init__()
        self.layers, self.norms = nn.ModuleList(), nn.ModuleList()
        for width in hidden:
            self.layers.append(EnsembleLinear(ensemble, inputs, width))
            self.norms.append(EnsembleNorm(ensemble, width) if layer_norm else nn.Identity())
            inputs = width
        self.last = EnsembleLinear(ensemble, inputs, outputs, last_gain)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        """(B, in) or (E, B, in) to (E, B, out)."""
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = self.activation(norm(layer(x)))
        return self.last(x)


class Critic(nn.Module):
    """E critics Q_i(z, a) of an encoder's vector and an action.

    The state's part of the first layer is computed once for each state, however many actions are scored on it.
    """

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        hidden: Sequence[int] = (256, 256),
        *,
        ensemble: int = 2,
        outputs: int = 1,
        activation: str = "relu",
        layer_norm: bool = False,
        normalise_features: bool = False,
    ) -> None:
        """Builds the critics.

        Args:
            state_dim: Length of z.
            action_dim: |A|.
            hidden: Widths of the hidden layers, at least one.
            ensemble: E.
            outputs: Of each critic: 1, or the bins of a histogram.
            activation: ``relu``, ``swish`` or ``tanh``.
            layer_norm: After every hidden layer.
            normalise_features: Brings what enters the last layer to length 1 (OOO, Sobol Mark et al. 2023).
        """
        super().__init__()
        first = EnsembleLinear(ensemble, state_dim + action_dim, hidden[0])
        self.of_state = EnsembleLinear(ensemble, state_dim, hidden[0])
        self.of_action = EnsembleLinear(ensemble, action_dim, hidden[0], bias=False)
        with torch.no_grad():  # one orthogonal matrix, cut in two
            self.of_state.weight.copy_(first.weight[:, :state_dim])
            self.of_action.weight.copy_(first.weight[:, state_dim:])
        self.norm = EnsembleNorm(ensemble, hidden[0]) if layer_norm else nn.Identity()
        self.rest = EnsembleMLP(ensemble, hidden[0], hidden[1:], outputs, activation=activation, layer_norm=layer_norm)
        self.activation = ACTIVATIONS[activation]
        self.outputs, self.normalise_features = outputs, normalise_features

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """Scores actions.

        Args:
            state: z, (B, state_dim).
            action: (B, |A|), or n for each state (B, n, |A|).

        Returns:
            (E, B) or (E, B, n); with several outputs, these in a last dimension.
        """
        several = action if action.ndim == 3 else action[:, None]
        batch, count = several.shape[:2]
        hidden = self.of_state(state)[:, :, None] + self.of_action(several.flatten(0, 1)).unflatten(1, (batch, count))
        hidden = self.activation(self.norm(hidden.flatten(1, 2)))
        scores = self._finish(hidden).unflatten(1, (batch, count))
        scores = scores if action.ndim == 3 else scores[:, :, 0]
        return scores[..., 0] if self.outputs == 1 else scores

    def _finish(self, hidden: Tensor) -> Tensor:
        if not self.normalise_features:
            return self.rest(hidden)
        for layer, norm in zip(self.rest.layers, self.rest.norms, strict=True):
            hidden = self.rest.activation(norm(layer(hidden)))
        return self.rest.last(nn.functional.normalize(hidden, dim=-1, eps=1e-8))


@torch.no_grad()
def polyak(target: nn.Module, online: nn.Module, tau: float) -> None:
    """Moves a target's parameters towards the online ones: target <- (1 - tau) target + tau online.

    Statistics, which are averages already, are taken over.
    """
    moved: list[Tensor] = list(target.parameters())
    if moved:
        torch._foreach_lerp_(moved, list(online.parameters()), tau)
    for mine, theirs in zip(target.buffers(), online.buffers(), strict=True):
        mine.copy_(theirs)
