"""Whole updates beside d3rlpy's: the same weights, transitions and draws, in float64, where the options meet.

Each test's first lines say where they do not.
"""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal

from rl_encoders.agents.calql import CalQL, CalQLConfig
from rl_encoders.agents.iql import IQL, IQLConfig, advantage_weights, policy_loss, value_loss
from rl_encoders.agents.perception import States
from rl_encoders.agents.sac import SAC, SACConfig
from rl_encoders.replay.buffer import Batch

pytest.importorskip("d3rlpy")

from d3rlpy import algos
from d3rlpy.models import VectorEncoderFactory
from d3rlpy.torch_utility import TorchMiniBatch

Z, A, B, N, HIDDEN = 4, 3, 7, 5, (16, 8)
GAMMA, TAU, POLICY_LR, CRITIC_LR = 0.9, 0.05, 1e-3, 3e-3
OURS = {
    **{"policy_hidden": HIDDEN, "critic_hidden": HIDDEN, "gamma": GAMMA, "tau": TAU},
    **{"policy_lr": POLICY_LR, "critic_lr": CRITIC_LR},
}
ENCODER = VectorEncoderFactory(hidden_units=list(HIDDEN))
THEIRS = {
    **{"actor_encoder_factory": ENCODER, "critic_encoder_factory": ENCODER, "gamma": GAMMA, "tau": TAU},
    **{"actor_learning_rate": POLICY_LR, "critic_learning_rate": CRITIC_LR},
}


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(autouse=True)
def _draws(monkeypatch):
    """Both draw the same in whatever order they ask: of how many numbers there are follows what they are."""

    def normal(self, shape=()):
        noise = np.random.default_rng(math.prod(shape)).standard_normal((*shape, *self.loc.shape))
        return self.loc + self.scale * torch.from_numpy(noise)

    def uniform(low, high, *shape):
        empty = torch.empty(*shape)
        return torch.from_numpy(np.random.default_rng(1).uniform(low, high, empty.numel())).view_as(empty)

    monkeypatch.setattr(Normal, "rsample", normal)
    monkeypatch.setattr(
        torch.Tensor, "uniform_", lambda self, low, high, **_: self.copy_(uniform(low, high, self.shape))
    )
    monkeypatch.setattr(torch, "rand", lambda *shape, device=None: uniform(0.0, 1.0, *shape))


def batches(count):
    """The same transitions as both want them."""
    for _ in range(count):
        seen, next_seen = torch.randn(2, B, Z)
        action, reward = torch.rand_like(torch.empty(B, A)) * 1.8 - 0.9, torch.randn(B)
        terminal, returns = (torch.arange(B) % 3 == 0).double(), 0.3 * torch.randn(B)
        column = (reward[:, None], next_seen, torch.zeros_like(action), returns[:, None], terminal[:, None])
        yield (
            Batch({"state": seen}, {"state": next_seen}, action, reward, terminal, returns),
            TorchMiniBatch(seen, action, *column, torch.ones(B, 1), "cpu"),
        )


def linears(module):
    return [one for one in module.modules() if isinstance(one, torch.nn.Linear)]


def put(layer, weight, bias):
    layer.weight.data.copy_(weight.T)
    layer.bias.data.copy_(bias.flatten())


def critic_layers(critic, member):
    """Weights (in, out) and biases of one of our critics, layer by layer."""
    first = torch.cat([critic.of_state.weight[member], critic.of_action.weight[member]])
    rest = [*critic.rest.layers, critic.rest.last]
    return [(first, critic.of_state.bias[member]), *((one.weight[member], one.bias[member]) for one in rest)]


def perceptron_layers(network):
    return [(one.weight[0], one.bias[0]) for one in [*network.layers, network.last]]


def policy_layers(policy):
    """Of a squashed Gaussian with the trained numbers that theirs lacks in its weights: mean and log std apart."""
    *hidden, (weight, bias) = perceptron_layers(policy.network)
    scale, offset = policy.log_std_multiplier, policy.log_std_offset
    means, spreads = (weight[:, :A], bias[:, :A]), (scale * weight[:, A:], scale * bias[:, A:] + offset)
    return [*hidden, means, spreads]


def same_layers(ours, theirs):
    for (weight, bias), layer in zip(ours, linears(theirs), strict=True):
        torch.testing.assert_close(weight.T, layer.weight, atol=1e-7, rtol=1e-6)
        torch.testing.assert_close(bias.flatten(), layer.bias, atol=1e-7, rtol=1e-6)


def give(ours, theirs):
    for (weight, bias), layer in zip(ours, linears(theirs), strict=True):
        put(layer, weight, bias)


def begun(kind, config, their_config):
    """Two agents of the same weights, none of them small, and critics that do not agree."""
    ours = kind(States({"state": Z}), A, config)
    for parameter in ours.parameters():
        if parameter.ndim:
            parameter.data.add_(0.2 * torch.randn_like(parameter))
    ours.make_optimizers()
    theirs = their_config.create(device="cpu:0")
    theirs.create_impl((Z,), A)
    modules = theirs.impl._modules
    for member in range(2):
        give(critic_layers(ours.critic, member), modules.q_funcs[member])
        give(critic_layers(ours.target, member), modules.targ_q_funcs[member])
    return ours, theirs.impl


def begun_sac(kind, config, their_config):
    """Likewise with squashed Gaussians, and temperatures that stay: theirs would move before the actor does."""
    ours, theirs = begun(kind, config, their_config)
    give(policy_layers(ours.policy), theirs._modules.policy)
    ours.actor_optimizer = torch.optim.Adam(ours.policy.network.parameters(), POLICY_LR)
    ours.alpha_optimizer = torch.optim.SGD([ours.log_alpha], 0.0)
    return ours, theirs


def learn_alike(ours, theirs, updates=3):
    for step, (batch, their_batch) in enumerate(batches(updates)):
        metrics = ours.update(batch)
        theirs.inner_update(their_batch, step)
    same_critics(ours, theirs)
    same_layers(policy_layers(ours.policy), theirs._modules.policy)
    return metrics


def same_critics(ours, theirs):
    modules = theirs._modules
    for member in range(2):
        same_layers(critic_layers(ours.critic, member), modules.q_funcs[member])
        same_layers(critic_layers(ours.target, member), modules.targ_q_funcs[member])


def test_sac():
    """Theirs has a spread's offset in the bias, and takes its step of the temperature before that of the actor."""
    theirs = algos.SACConfig(**THEIRS, temp_learning_rate=0.0, initial_temperature=1.0)
    learn_alike(*begun_sac(SAC, SACConfig(**OURS), theirs))


CONSERVATIVE = {"temp_learning_rate": 0.0, "alpha_learning_rate": 0.0, "n_action_samples": N, "alpha_threshold": 0.0}


@pytest.mark.parametrize("calibrated", [True, False])
def test_cal_ql_and_cql_with_the_best_of_several_actions_in_the_backup(calibrated):
    """Theirs always samples by importance, at temperature 1, and knows no other pessimism than two critics."""
    config = (algos.CalQLConfig if calibrated else algos.CQLConfig)(
        **THEIRS, **CONSERVATIVE, conservative_weight=2.0, initial_alpha=1.0, max_q_backup=True
    )
    ours = CalQLConfig(**OURS, action_samples=N, weight=2.0, calibrated=calibrated)
    metrics = learn_alike(*begun_sac(CalQL, ours, config))
    assert 0 < metrics["calibrated"] < 1


def test_cal_ql_with_the_entropy_in_the_backup():
    """Where the backup has one action and no entropy, theirs takes the policy's mode, and ours draws it."""
    config = algos.CalQLConfig(**THEIRS, **CONSERVATIVE, conservative_weight=2.0, initial_alpha=1.0, soft_q_backup=True)
    ours = CalQLConfig(**OURS, action_samples=N, weight=2.0, max_target_backup=False, backup_entropy=True)
    learn_alike(*begun_sac(CalQL, ours, config))


def test_cal_ql_under_a_multiplier():
    """The multiplier stays here: theirs takes its step before the critics', ours after, as the authors' release."""
    their_options = {**CONSERVATIVE, "alpha_threshold": 0.8}
    config = algos.CalQLConfig(
        **THEIRS, **their_options, conservative_weight=5.0, initial_alpha=math.e, max_q_backup=True
    )
    ours, theirs = begun_sac(CalQL, CalQLConfig(**OURS, action_samples=N, weight=5.0, target_gap=0.8), config)
    with torch.no_grad():
        theirs._modules.log_alpha._parameter.fill_(1.0)
    ours.alpha_prime_optimizer = torch.optim.SGD([ours.log_alpha_prime], 0.0)
    learn_alike(ours, theirs)


def test_the_step_of_the_multiplier():
    """Both take half of the sum over two critics; for E critics theirs would take an E-th."""
    config = algos.CalQLConfig(
        **THEIRS,
        **{**CONSERVATIVE, "alpha_threshold": 0.8, "alpha_learning_rate": CRITIC_LR},
        **{"conservative_weight": 5.0, "initial_alpha": math.e, "max_q_backup": True},
    )
    ours, theirs = begun_sac(CalQL, CalQLConfig(**OURS, action_samples=N, weight=5.0, target_gap=0.8), config)
    ((batch, their_batch),) = batches(1)
    ours.alpha_prime_optimizer = torch.optim.SGD([ours.log_alpha_prime], 1e-3)
    parameter = theirs._modules.log_alpha._parameter
    theirs._modules.alpha_optim._optim = torch.optim.SGD([parameter], 1e-3)
    ours.update(batch)
    theirs.inner_update(their_batch, 0)
    assert float(ours.log_alpha_prime.detach()) == pytest.approx(float(parameter.detach()), rel=1e-6)
    assert abs(float(parameter.detach()) - 1) > 1e-3


def test_the_step_of_the_temperature():
    """Theirs descends on alpha itself, ours on its logarithm: one direction, and at alpha = 1 the same length."""
    config = algos.SACConfig(**THEIRS, temp_learning_rate=POLICY_LR, initial_temperature=1.0)
    ours, theirs = begun_sac(SAC, SACConfig(**OURS), config)
    ((batch, their_batch),) = batches(1)
    ours.alpha_optimizer = torch.optim.SGD([ours.log_alpha], 1e-3)
    parameter = theirs._modules.log_temp._parameter
    theirs._modules.temp_optim._optim = torch.optim.SGD([parameter], 1e-3)
    with torch.no_grad():  # the actor's step comes before our temperature's, and would move what it is of
        log_pi = ours.policy.sample(batch.seen["state"], 1)[1]
    theirs.inner_update(their_batch, 0)
    ours.update(batch)
    step = 1e-3 * float((log_pi + ours.target_entropy).mean())
    assert float(ours.log_alpha.detach()) == pytest.approx(step, rel=1e-9)
    assert float(parameter.detach()) == pytest.approx(step, rel=1e-5)


class TestIQL:
    """Theirs keeps log std between bounds by a sigmoid, ours cuts it; ours begins at std 1, theirs at e^-1.5.

    Within an update, theirs weighs actions by the value after its step, ours by the one before. Both cut weights at
    100 by default, as the paper does; AWAC (Nair et al. 2020), of which the policy's loss is, has no cut, and d3rlpy's
    AWAC divides the weights by their sum over the batch instead.
    """

    def pair(self, **options):
        config = algos.IQLConfig(
            **THEIRS, value_encoder_factory=ENCODER, expectile=0.8, weight_temp=3.0, max_weight=0.4
        )
        settings = IQLConfig(**OURS, expectile=0.8, temperature=3.0, largest_weight=0.4, **options)
        ours, theirs = begun(IQL, settings, config)
        ours.policy.log_std.data.fill_(-1.5)
        modules = theirs._modules
        give(perceptron_layers(ours.value), modules.value_func)
        give(perceptron_layers(ours.policy.network), modules.policy)
        return ours, theirs

    def test_losses(self):
        ours, theirs = self.pair()
        ((batch, their_batch),) = batches(1)
        state, next_state = batch.seen["state"], batch.next_seen["state"]
        q, value = ours.target(state, batch.action), ours.value(state)[0, :, 0]
        with torch.no_grad():
            target = theirs.compute_target(their_batch)
            torch.testing.assert_close(ours.value(next_state)[0], target)
        wanted = theirs.compute_critic_loss(their_batch, target)
        torch.testing.assert_close(value_loss(q, value, 0.8), wanted.v_loss)
        weights = advantage_weights(q, value, 3.0, 0.4)
        torch.testing.assert_close(weights[:, None], theirs._compute_weight(their_batch))
        assert (weights == 0.4).any()
        assert (weights < 0.4).any()
        found = policy_loss(ours.policy.log_prob(state, batch.action), weights)
        actor = theirs.compute_actor_loss(their_batch, theirs._modules.policy(state))
        torch.testing.assert_close(found, actor.actor_loss)
        found.backward()
        actor.actor_loss.backward()
        network, modules = ours.policy.network, theirs._modules
        for layer, other in zip([*network.layers, network.last], linears(modules.policy), strict=True):
            torch.testing.assert_close(layer.weight.grad[0].T, other.weight.grad)
        slope = 7 * 0.25  # of 7 sigmoid(x) - 5 where it is -1.5
        mine, other = slope * ours.policy.log_std.grad, modules.policy._logstd.grad[0].double()
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=0)  # theirs is in float32

    def test_critics_and_value(self):
        ours, theirs = self.pair()
        for step, (batch, their_batch) in enumerate(batches(3)):
            ours.update(batch)
            theirs.inner_update(their_batch, step)
        same_critics(ours, theirs)
        same_layers(perceptron_layers(ours.value), theirs._modules.value_func)
