"""Small networks on an encoder's vectors: perceptrons, and ensembles of critics that are computed as one."""

import math
from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Literal, cast

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
        dropout: float = 0.0,
    ) -> None:
        """Builds them; ``dropout`` is the share of what each hidden layer says that is left out in training mode."""
        super().__init__()
        self.layers, self.norms = nn.ModuleList(), nn.ModuleList()
        for width in hidden:
            self.layers.append(EnsembleLinear(ensemble, inputs, width))
            self.norms.append(EnsembleNorm(ensemble, width) if layer_norm else nn.Identity())
            inputs = width
        self.last = EnsembleLinear(ensemble, inputs, outputs, last_gain)
        self.activation = ACTIVATIONS[activation]
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in) or (E, B, in) to (E, B, out)."""
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = self.dropout(self.activation(norm(layer(x))))
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
        action_at_every_layer: bool = False,
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
            action_at_every_layer: Whether the action enters every hidden layer, not the first alone (PTR, Kumar et al.
                2022, arXiv 2210.05178; PA-RL's critics on CALVIN).
        """
        super().__init__()
        self.of_state = EnsembleLinear(ensemble, state_dim, hidden[0])
        self.of_action = _cut_off(self.of_state, action_dim)
        self.norm = EnsembleNorm(ensemble, hidden[0]) if layer_norm else nn.Identity()
        self.rest = EnsembleMLP(ensemble, hidden[0], hidden[1:], outputs, activation=activation, layer_norm=layer_norm)
        later = self.rest.layers if action_at_every_layer else ()
        self.of_action_later = nn.ModuleList(_cut_off(cast(EnsembleLinear, layer), action_dim) for layer in later)
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
        flat = several.flatten(0, 1)
        hidden = self.of_state(state)[:, :, None] + self.of_action(flat).unflatten(1, (batch, count))
        hidden = self.activation(self.norm(hidden.flatten(1, 2)))
        for layer, norm, of_action in zip_longest(self.rest.layers, self.rest.norms, self.of_action_later):
            summed = layer(hidden) if of_action is None else layer(hidden) + of_action(flat)
            hidden = self.activation(norm(summed))
        if self.normalise_features:
            hidden = nn.functional.normalize(hidden, dim=-1, eps=1e-8)
        scores = self.rest.last(hidden).unflatten(1, (batch, count))
        scores = scores if action.ndim == 3 else scores[:, :, 0]
        return scores[..., 0] if self.outputs == 1 else scores


@torch.no_grad()
def _cut_off(layer: EnsembleLinear, inputs: int) -> EnsembleLinear:
    """A layer without bias for further inputs of a given one; both get parts of one orthogonal matrix."""
    ensemble, known, outputs = layer.weight.shape
    whole = EnsembleLinear(ensemble, known + inputs, outputs)
    rest = EnsembleLinear(ensemble, inputs, outputs, bias=False)
    layer.weight.copy_(whole.weight[:, :known])
    rest.weight.copy_(whole.weight[:, known:])
    return rest


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
