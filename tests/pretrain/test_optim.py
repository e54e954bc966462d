import pytest
import torch
from torch import nn

from pretrain.config import OptimConfig
from pretrain.optim import learning_rate, make_optimizer
from vie import create_model, list_models


@pytest.mark.parametrize("name", list_models("vie_*"))
def test_decay_spares_batch_norm_alone(name):
    model = create_model(name, width=4, embed_dim=8)
    optimizer = make_optimizer(model, OptimConfig(weight_decay=0.25))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert len(decay) == len(list(model.parameters())) == sum(len(group["params"]) for group in optimizer.param_groups)
    spared = 0
    for module in model.modules():
        norm = isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d)
        for parameter in module.parameters(recurse=False):
            assert decay[id(parameter)] == (0.0 if norm else 0.25)
            spared += norm
    trunks = {"vie_slowfast_r18": 2, "vie_two_pathway_sf_r18": 3}.get(name, 2 if "two_pathway" in name else 1)
    assert spared == 2 * 17 * trunks


class PlainNorm(nn.Module):
    """As timm's are: a plain module with a scale."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))


class Centred(nn.LayerNorm):
    """A norm by descent, not by its own name."""


class ConvNormAct(nn.Module):
    """A block that is named after the norm in it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.act = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.PReLU()


def test_a_norm_is_what_is_called_so():
    model = nn.ModuleDict(
        {"plain": PlainNorm(), "centred": Centred(4), "block": ConvNormAct(), "head": nn.Linear(4, 2)}
    )
    spared = {id(p) for p in make_optimizer(model, OptimConfig()).param_groups[1]["params"]}
    assert {name for name, p in model.named_parameters() if id(p) in spared} == {
        "plain.weight",
        "centred.weight",
        "centred.bias",
        "block.bn.weight",
        "block.bn.bias",
    }


@pytest.mark.parametrize("norm", ["RmsNorm", "RmsNorm2d", "RmsNormFp32", "RmsNormAct2d"])
def test_timms_norms_are_spared(norm):
    layers = pytest.importorskip("timm.layers", reason="timm is not installed")
    groups = make_optimizer(nn.Sequential(getattr(layers, norm)(4), nn.Linear(4, 2)), OptimConfig()).param_groups
    assert [len(group["params"]) for group in groups] == [2, len(list(getattr(layers, norm)(4).parameters()))]


def test_steps_equal_the_formula():
    """v <- 0.9 v + (g + decay w); w <- w - lr v."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 4 * 4, 2)).double()
    config = OptimConfig(lr=0.1, momentum=0.9, weight_decay=0.05)
    optimizer = make_optimizer(model, config)
    norm = {id(parameter) for parameter in model[1].parameters()}
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    velocity = [torch.zeros_like(weight) for weight in weights]
    for step in range(3):
        optimizer.zero_grad()
        model(torch.randn(5, 3, 6, 6, dtype=torch.float64)).square().sum().backward()
        gradients = [parameter.grad.clone() for parameter in model.parameters()]
        rate = config.lr / (step + 1)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        for number, parameter in enumerate(model.parameters()):
            decay = 0.0 if id(parameter) in norm else config.weight_decay
            velocity[number] = 0.9 * velocity[number] + gradients[number] + decay * weights[number]
            weights[number] = weights[number] - rate * velocity[number]
            torch.testing.assert_close(parameter.detach(), weights[number])


def test_rate_falls_at_the_given_steps():
    config = OptimConfig(lr=0.03, drops=[300, 100])
    rates = [learning_rate(config, step) for step in (0, 99, 100, 299, 300, 10_000)]
    assert rates == pytest.approx([0.03, 0.03, 0.003, 0.003, 0.0003, 0.0003])
    assert learning_rate(OptimConfig(lr=0.5), 10**6) == 0.5


def test_defaults_are_vies():
    config = OptimConfig()
    assert (config.lr, config.momentum, config.weight_decay, config.drops) == (0.03, 0.9, 1e-4, [])
    optimizer = make_optimizer(create_model("vie_single_r18", width=4), config)
    assert not any(group["nesterov"] for group in optimizer.param_groups)
