"""VIE's optimiser: SGD with momentum, weight decay on all but norms, a learning rate that drops by ten."""

import bisect

import torch
from torch import nn

from pretrain.config import OptimConfig


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.SGD:
    """SGD with two groups of parameters: with weight decay, and without for the scales and shifts of norms."""
    exempt = norm_parameters(model)
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if id(p) not in exempt], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if id(p) in exempt], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=True)


def norm_parameters(model: nn.Module) -> set[int]:
    """Identities of the scales and shifts of norms.

    A norm is what is called so: PyTorch's share no class, and other libraries write their own as plain modules.
    """
    return {
        id(parameter)
        for module in model.modules()
        if any("norm" in kind.__name__.lower() for kind in type(module).__mro__)
        # Only its own: a block of layers may be named after the norm in it.
        for parameter in module.parameters(recurse=False)
    }


def learning_rate(config: OptimConfig, step: int) -> float:
    """The learning rate of a step: a tenth of the one before, from each step of ``config.drops`` on."""
    return config.lr * 0.1 ** bisect.bisect_right(sorted(config.drops), step)
