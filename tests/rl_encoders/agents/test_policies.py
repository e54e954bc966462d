"""Gaussian, diffusion and autoregressive policies."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution

from rl_encoders.agents.autoregressive import AutoregressiveHead
from rl_encoders.agents.diffusion import DiffusionHead, cosine_betas
from rl_encoders.agents.gaussian import Gaussian, TanhGaussian

Z, A, B = 4, 3, 6


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


class TestTanhGaussian:
    def reference(self, policy, state):
        """By PyTorch's own transformed distributions."""
        mean, raw = policy.network(state)[0].chunk(2, dim=-1)
        log_std = (policy.log_std_multiplier * raw + policy.log_std_offset).clamp(-20, 2)
        return TransformedDistribution(Independent(Normal(mean, log_std.exp()), 1), [TanhTransform()])

    def test_densities(self):
        policy, state = TanhGaussian(Z, A, (16,)).double(), torch.randn(B, Z).double()
        actions, log_pi = policy.sample(state, 9)
        assert actions.shape == (B, 9, A)
        wanted = self.reference(policy, state).log_prob(actions.transpose(0, 1)).T
        torch.testing.assert_close(log_pi, wanted, atol=1e-8, rtol=1e-6)
        torch.testing.assert_close(policy.log_prob(state, actions), wanted, atol=1e-8, rtol=1e-6)
        torch.testing.assert_close(policy.log_prob(state, actions[:, 4]), wanted[:, 4], atol=1e-8, rtol=1e-6)

    def test_it_begins_narrow_and_near_the_middle(self):
        policy, state = TanhGaussian(Z, A), torch.randn(B, Z)
        normal = policy.distribution(state)
        np.testing.assert_allclose(normal.stddev.detach(), math.exp(-1), rtol=0.2)
        assert policy.mode(state).abs().max() < 0.1

    def test_actions_at_the_edge_have_a_density(self):
        found = TanhGaussian(Z, A).log_prob(torch.zeros(2, Z), torch.tensor([[1.0] * A, [-1.0] * A]))
        assert found.isfinite().all()

    def test_far_out_nothing_overflows(self):
        policy = TanhGaussian(Z, A)
        policy.network.last.bias.data[..., :A] = 50
        _, log_pi = policy.sample(torch.zeros(2, Z), 5)
        assert log_pi.isfinite().all()

    def test_the_spread_is_bounded(self):
        """Between e^-20 and e^2, whatever the network says."""
        policy = TanhGaussian(Z, A)
        for said, log_std in ((500.0, 2.0), (-500.0, -20.0)):
            policy.network.last.bias.data[..., A:] = said
            torch.testing.assert_close(
                policy.distribution(torch.zeros(2, Z)).stddev.detach().log(), torch.full((2, A), log_std)
            )

    def test_gradients_pass_through_samples(self):
        policy = TanhGaussian(Z, A)
        actions, _ = policy.sample(torch.randn(B, Z), 2)
        actions.sum().backward()
        assert policy.network.last.weight.grad.any()
        assert policy.log_std_offset.grad is not None


def test_the_plain_gaussian():
    policy, state = Gaussian(Z, A).double(), torch.randn(B, Z).double()
    policy.log_std.data.fill_(-9)
    action = torch.rand(B, A).double()
    wanted = Independent(Normal(policy.mode(state), torch.full((A,), math.exp(-5)).double()), 1).log_prob(action)
    torch.testing.assert_close(policy.log_prob(state, action), wanted)
    actions, log_pi = policy.sample(state, 4)
    assert actions.shape == (B, 4, A)
    assert log_pi.shape == (B, 4)
    assert actions.abs().max() <= 1


class TestDiffusion:
    def test_the_cosine_schedule(self):
        """The share of the signal that is left is cos^2, from one to the floor that the last step has."""
        betas = cosine_betas(5)
        kept = (1 - betas).cumprod(0)
        for step in range(4):
            angle = [((t / 5 + 0.008) / 1.008) * math.pi / 2 for t in (step + 1, 0)]
            assert float(kept[step]) == pytest.approx((math.cos(angle[0]) / math.cos(angle[1])) ** 2, rel=1e-9)
        assert float(betas[-1]) == 0.999

    def test_the_loss_by_hand(self):
        policy = DiffusionHead(Z, A).eval().double()
        state, action, noise = torch.randn(B, Z).double(), torch.rand(B, A).double(), torch.randn(B, A).double()
        time = torch.arange(B) % 5
        total = 0.0
        for b in range(B):
            kept = float((1 - cosine_betas(5)).cumprod(0)[time[b]].float())
            noisy = math.sqrt(kept) * action[b] + math.sqrt(1 - kept) * noise[b]
            found = policy.denoiser(noisy[None, None], time[b][None, None], state[b][None])[0, 0]
            total += float((noise[b] - found).square().sum().detach())
        assert float(policy.loss_at(state, action, time, noise).detach()) == pytest.approx(total / B, rel=1e-6)

    def test_it_learns_two_modes(self):
        """Of one state, half the actions are +0.7 and half -0.7: a mean would be 0."""
        policy = DiffusionHead(1, 1, width=64, blocks=2, dropout=0.0)
        optimizer = torch.optim.Adam(policy.parameters(), 1e-3)
        state = torch.zeros(256, 1)
        for _ in range(600):
            action = 0.7 * (2 * torch.randint(2, (256, 1)) - 1).float()
            optimizer.zero_grad()
            policy.loss(state, action).backward()
            optimizer.step()
        drawn = policy.eval().sample(torch.zeros(1, 1), 500)[0, :, 0]
        assert (drawn.abs() > 0.4).float().mean() > 0.8
        assert 0.3 < float((drawn > 0).float().mean()) < 0.7

    def test_actions_stay_in_their_range(self):
        drawn = DiffusionHead(Z, A, low=-0.2, high=0.1).eval().sample(torch.randn(B, Z), 8)
        assert drawn.shape == (B, 8, A)
        assert float(drawn.min()) >= -0.2 - 1e-6
        assert float(drawn.max()) <= 0.1 + 1e-6


class TestAutoregressive:
    def test_bins_are_the_nearest(self):
        policy = AutoregressiveHead(Z, A, bins=5)
        assert policy.centres.tolist() == [-1, -0.5, 0, 0.5, 1]
        assert policy.nearest(torch.tensor([-3.0, -0.74, -0.76, 0.1, 0.9, 7.0])).tolist() == [0, 1, 0, 2, 4, 4]

    def test_probabilities_sum_to_one(self):
        policy = AutoregressiveHead(Z, 2, bins=4, width=16, layers=1, heads=2).eval()
        state = torch.randn(1, Z)
        every = torch.cartesian_prod(policy.centres, policy.centres)
        total = policy.log_prob(state.expand(16, Z), every).exp().sum()
        assert float(total.detach()) == pytest.approx(1, abs=1e-5)

    def test_no_component_sees_those_after_it(self):
        policy = AutoregressiveHead(Z, A, width=16, layers=2, heads=2).eval()
        state, bins = torch.randn(1, Z), torch.tensor([[3, 9]])
        first = policy.logits(state, bins)
        second = policy.logits(state, torch.tensor([[3, 77]]))
        torch.testing.assert_close(first[:, :2], second[:, :2])
        assert not torch.allclose(first[:, 2], second[:, 2])

    def test_samples_follow_the_probabilities(self):
        policy = AutoregressiveHead(Z, 2, bins=3, width=16, layers=1, heads=2).eval()
        state = torch.randn(1, Z)
        drawn = policy.sample(state, 4000)[0]
        every = torch.cartesian_prod(policy.centres, policy.centres)
        chances = policy.log_prob(state.expand(9, Z), every).exp()
        found = torch.stack([(drawn == action).all(dim=1).float().mean() for action in every])
        np.testing.assert_allclose(found, chances.detach(), atol=0.03)

    def test_it_learns_what_goes_together(self):
        """The second component is the negative of the first, which is drawn by chance."""
        policy = AutoregressiveHead(1, 2, bins=9, width=32, layers=1, heads=2, dropout=0.0)
        optimizer = torch.optim.Adam(policy.parameters(), 3e-3)
        for _ in range(200):
            one = policy.centres[torch.randint(9, (128,))]
            optimizer.zero_grad()
            policy.loss(torch.zeros(128, 1), torch.stack([one, -one], dim=1)).backward()
            optimizer.step()
        drawn = policy.eval().sample(torch.zeros(1, 1), 300)[0]
        assert (drawn.sum(dim=1).abs() < 0.01).float().mean() > 0.95
        assert float(drawn[:, 0].std()) > 0.4
