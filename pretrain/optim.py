"""VIE's optimiser: SGD with momentum, weight decay on all but norms, a learning rate that drops by ten."""

import bisect

import torch
from torch import nn

from pretrain.config import OptimConfig


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.SGD:
    """SGD with two groups of parameters: with weight decay, and without for the scales and shifts of norms."""
    norms = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
    exempt = {id(p) for module in model.modules() if isinstance(module, norms) for p in module.parameters()}
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if id(p) not in exempt], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if id(p) in exempt], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=True)


def learning_rate(config: OptimConfig, step: int) -> float:
    """The learning rate of a step: a tenth of the one before, from each step of ``config.drops`` on."""
    return config.lr * 0.1 ** bisect.bisect_right(sorted(config.drops), step)
