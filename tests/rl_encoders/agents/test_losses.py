"""Soft actor-critic's and IQL's losses, and values as histograms, beside float64 numbers of Python."""

import itertools
import math

import numpy as np
import pytest
import torch

from rl_encoders.agents import critics, iql, sac
from rl_encoders.agents.perception import States
from rl_encoders.agents.values import HLGauss, Scalar
from rl_encoders.replay.buffer import Batch

B = 6


@pytest.fixture
def numbers():
    generator = torch.Generator().manual_seed(3)
    return lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)


class TestSAC:
    def test_the_target(self, numbers):
        reward, value = numbers(B), numbers(B)
        terminal = torch.tensor([0.0, 1.0] * 3, dtype=torch.float64)
        found = critics.td_target(reward, terminal, value, 0.9)
        for b in range(B):
            assert float(found[b]) == pytest.approx(float(reward[b]) + (0.9 * float(value[b]) if b % 2 == 0 else 0))

    def test_squares_are_averaged_and_critics_summed(self, numbers):
        q, target = numbers(3, B), numbers(B)
        wanted = sum(np.mean([(float(q[i, b]) - float(target[b])) ** 2 for b in range(B)]) for i in range(3))
        assert float(Scalar().loss(q, target)) == pytest.approx(wanted)

    def test_the_actor_takes_the_careful_critic(self, numbers):
        q, log_pi, alpha = numbers(2, B), numbers(B), torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        wanted = np.mean([0.3 * float(log_pi[b]) - min(float(q[0, b]), float(q[1, b])) for b in range(B)])
        found = sac.actor_loss(q, log_pi.requires_grad_(), alpha)
        assert float(found.detach()) == pytest.approx(wanted)
        found.backward()
        assert alpha.grad is None

    def test_the_actor_of_many_critics_takes_their_mean(self, numbers):
        q, log_pi, alpha = numbers(3, B), numbers(B), torch.tensor(0.3, dtype=torch.float64)
        wanted = np.mean([0.3 * float(log_pi[b]) - sum(float(q[i, b]) for i in range(3)) / 3 for b in range(B)])
        assert float(sac.actor_loss(q, log_pi, alpha, "mean")) == pytest.approx(wanted)

    @pytest.mark.parametrize("actor_value", ["min", "mean"])
    def test_an_agents_actor_takes_what_it_is_told_to(self, actor_value, monkeypatch):
        agent = sac.SAC(States({"s": 1}), 1, sac.SACConfig(critics=4, careful=2, actor_value=actor_value))
        agent.make_optimizers()
        given, real = [], sac.actor_loss
        monkeypatch.setattr(sac, "actor_loss", lambda q, *rest: given.append((len(q), rest[-1])) or real(q, *rest))
        one = torch.zeros(5)
        agent.update(Batch({"s": torch.randn(5, 1)}, {"s": torch.randn(5, 1)}, torch.rand(5, 1), one, one, one))
        assert given == [(4, actor_value)]

    def test_entropy_below_its_target_makes_the_temperature_grow(self):
        log_alpha = torch.zeros((), requires_grad=True)
        log_pi = torch.tensor([3.0, 5.0], requires_grad=True)
        sac.temperature_loss(log_alpha, log_pi, target_entropy=-2.0).backward()
        assert float(log_alpha.grad) == -2.0  # -(4 - 2): descent raises log alpha
        assert log_pi.grad is None


class TestIQL:
    @pytest.mark.parametrize("expectile", [0.5, 0.7, 0.9])
    def test_value_loss(self, numbers, expectile):
        q, value = numbers(2, B).requires_grad_(), numbers(B).requires_grad_()
        total = 0.0
        for b in range(B):
            u = float(q.detach()[:, b].min() - value.detach()[b])
            total += abs(expectile - (u < 0)) * u * u
        loss = iql.value_loss(q, value, expectile)
        assert float(loss.detach()) == pytest.approx(total / B)
        loss.backward()
        assert q.grad is None
        assert value.grad.any()

    def test_the_expectile_lies_where_it_should(self):
        """The value that minimises the loss is the tau-expectile of the samples."""
        samples = torch.linspace(-1, 3, 101, dtype=torch.float64)
        value = torch.zeros((), dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([value], line_search_fn="strong_wolfe", max_iter=100)

        def loss():
            optimizer.zero_grad()
            found = iql.expectile_loss(samples - value, 0.9).mean()
            found.backward()
            return found

        optimizer.step(loss)
        above, below = (samples - value).clamp(min=0).sum(), (value - samples).clamp(min=0).sum()
        assert float(0.9 * above.detach()) == pytest.approx(float(0.1 * below.detach()), rel=1e-5)

    def test_weights_grow_with_the_advantage_up_to_a_bound(self):
        q = torch.tensor([[1.0, 3.0, 50.0], [2.0, 2.0, 60.0]], requires_grad=True)
        weights = iql.advantage_weights(q, torch.tensor([0.5, 2.5, 0.0]), temperature=3.0)
        assert weights.tolist() == pytest.approx([math.exp(1.5), math.exp(-1.5), 100.0], rel=1e-6)
        assert not weights.requires_grad

    def test_the_policy_is_weighted_regression(self):
        assert float(iql.policy_loss(torch.tensor([-1.0, -3.0]), torch.tensor([2.0, 0.5]))) == pytest.approx(1.75)


class TestHLGauss:
    def test_shares_are_those_of_the_normal_distribution(self):
        """Of standard deviation 0.75 bins, not of 1.06 as where the factor sqrt 2 is lost."""
        bins = HLGauss(-100, 0, 128)
        width = 100 / 128
        assert bins.sigma == pytest.approx(0.75 * width)
        target = -37.3
        normal = torch.distributions.Normal(torch.tensor(target, dtype=torch.float64), 0.75 * width)
        edges = torch.linspace(-100, 0, 129, dtype=torch.float64)
        wanted = normal.cdf(edges).diff()
        found = bins.probabilities(torch.tensor(target))
        np.testing.assert_allclose(found, wanted / wanted.sum(), atol=2e-5)
        assert float(found.sum()) == pytest.approx(1, abs=1e-5)

    def test_all_of_it_in_numbers_of_python(self):
        """Shares by the error function, their cross-entropy with a softmax, and the mean over the bins' middles."""
        low, high, count = -7.0, 3.0, 12
        bins, width = HLGauss(low, high, count).double(), (high - low) / count
        logits = torch.randn(2, 3, count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        targets = [-6.9, 0.4, 20.0]
        total = 0.0
        for b, target in enumerate(targets):
            inside = min(max(target, low), high)
            edges = [low + width * k for k in range(count + 1)]
            below = [0.5 * (1 + math.erf((edge - inside) / (math.sqrt(2) * 0.75 * width))) for edge in edges]
            shares = [(after - before) / (below[-1] - below[0]) for before, after in itertools.pairwise(below)]
            for i in range(2):
                powers = [math.exp(one) for one in logits[i, b].tolist()]
                logs = [math.log(power / sum(powers)) for power in powers]
                total -= sum(share * log for share, log in zip(shares, logs, strict=True)) / len(targets)
                middles = [low + width * (k + 0.5) for k in range(count)]
                mean = sum(power * middle for power, middle in zip(powers, middles, strict=True)) / sum(powers)
                assert float(bins.value(logits)[i, b]) == pytest.approx(mean, rel=1e-6)
        assert float(bins.loss(logits, torch.tensor(targets, dtype=torch.float64))) == pytest.approx(total, rel=1e-6)

    def test_values_come_back(self):
        bins = HLGauss(-100, 0, 128)
        targets = torch.tensor([-99.0, -60.25, -3.0, -1.5])
        back = bins.value(bins.probabilities(targets).log())
        np.testing.assert_allclose(back, targets, atol=0.1)

    def test_targets_outside_are_the_ends(self):
        bins = HLGauss(-10, 10, 20)
        assert torch.equal(bins.probabilities(torch.tensor([-50.0])), bins.probabilities(torch.tensor([-10.0])))
        assert bins.probabilities(torch.tensor([1e6])).isfinite().all()

    def test_the_loss_is_a_cross_entropy(self):
        bins = HLGauss(-10, 10, 16)
        logits = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(0), requires_grad=True)
        target = torch.tensor([-2.0, 0.3, 7.0])
        shares = bins.probabilities(target).double()
        logs = logits.detach().double().log_softmax(-1)
        wanted = sum(-(shares[b] * logs[i, b]).sum() / 3 for i in range(2) for b in range(3))
        assert float(bins.loss(logits, target).detach()) == pytest.approx(float(wanted), rel=1e-5)

    def test_learnt_it_gives_the_target(self):
        bins = HLGauss(-10, 10, 64)
        logits = torch.zeros(1, 2, 64, requires_grad=True)
        optimizer = torch.optim.Adam([logits], 0.3)
        target = torch.tensor([-4.4, 6.1])
        for _ in range(300):
            optimizer.zero_grad()
            bins.loss(logits, target).backward()
            optimizer.step()
        np.testing.assert_allclose(bins.value(logits)[0].detach(), target, atol=0.1)
