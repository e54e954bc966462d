"""Random network distillation."""

import numpy as np
import pytest
import torch

from rl_encoders.agents.rnd import RND, RunningMoments


def test_running_moments_are_those_of_everything():
    generator = np.random.default_rng(0)
    moments, batches = RunningMoments(3), [generator.normal(5, 2, (size, 3)) for size in (1, 7, 32, 5)]
    for batch in batches:
        moments.update(torch.from_numpy(batch))
    together = np.concatenate(batches)
    np.testing.assert_allclose(moments.mean, together.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.std, together.std(0), rtol=1e-6)


def test_what_never_varies_divides_by_one():
    moments = RunningMoments(2)
    moments.update(torch.full((9, 2), 3.0))
    assert moments.std.tolist() == [1, 1]


def test_it_is_familiar_with_where_it_has_been():
    """The predictor really learns: the bonus falls where it trains, and far less where it does not."""
    torch.manual_seed(0)
    rnd = RND(4, width=64, features=32)
    optimizer = torch.optim.Adam(rnd.predictor.parameters(), 1e-3)
    known, new = torch.rand(256, 4), torch.rand(64, 4) * torch.tensor([1.0, 1, 1, -4])
    rnd.loss(torch.cat([known, new]))
    before = rnd.errors(known).mean()
    for _ in range(200):
        optimizer.zero_grad()
        rnd.loss(known).backward()
        optimizer.step()
    assert rnd.errors(known).mean() < 0.1 * before
    assert rnd.bonus(new).mean() > 5 * rnd.bonus(known).mean()
    assert all(parameter.grad is None for parameter in rnd.target.parameters())


def test_the_bonus_is_the_largest_error_in_standard_deviations():
    torch.manual_seed(0)
    rnd = RND(4, width=16, features=8)
    x = torch.randn(32, 4)
    rnd.loss(x)
    rnd.loss(x)
    scaled = ((x - x.double().mean(0)) / x.double().std(0, unbiased=False)).clamp(-5, 5).float()
    errors = (rnd.predictor(scaled) - rnd.target(scaled)).square()
    torch.testing.assert_close(rnd.errors(x), errors, atol=1e-5, rtol=1e-4)
    bonuses = rnd.bonuses.std
    torch.testing.assert_close(rnd.bonus(x), (errors.max(1).values / bonuses).detach(), atol=1e-4, rtol=1e-3)
    assert not rnd.bonus(x).requires_grad


def test_a_quarter_of_the_batch_trains():
    torch.manual_seed(0)
    rnd = RND(2, width=8, features=4)
    x = torch.randn(400, 2)
    rnd.seen.update(x)
    generator = torch.Generator().manual_seed(5)
    drawn = torch.rand(400, generator=torch.Generator().manual_seed(5)) < 0.25
    again = RunningMoments(2)
    again.update(x)
    again.update(x)
    found = rnd.loss(x, generator)
    assert 60 < int(drawn.sum()) < 140
    torch.testing.assert_close(found, rnd.errors(x).mean(1)[drawn].mean(), atol=1e-6, rtol=1e-5)


def test_all_of_it_in_numbers_of_numpy():
    """As OOO has it: inputs in standard deviations of all that was seen, cut at 5; the largest error of a feature in
    those of all bonuses, not centred; the mean over features and a quarter of the batch as the loss."""
    torch.manual_seed(0)
    rnd, chance = RND(3, width=16, features=8), np.random.default_rng(0)
    batches = [chance.normal([0, 5, -2], [1, 0.1, 30], (40, 3)) for _ in range(3)]
    batches[-1][0] = 1e3, -1e3, 1e4  # to be cut

    def features(network, x):
        for layer in network:
            if isinstance(layer, torch.nn.Linear):
                x = x @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy()
            else:
                x = np.maximum(x, 0)
        return x

    bonuses, seen = [], []
    for number, x in enumerate(batches):
        seen.append(x)
        everything = np.concatenate(seen)
        scaled = np.clip((x - everything.mean(0)) / everything.std(0), -5, 5)
        errors = (features(rnd.predictor, scaled) - features(rnd.target, scaled)) ** 2
        bonuses.append(errors.max(1))
        kept = torch.rand(40, generator=torch.Generator().manual_seed(number)).numpy() < 0.25
        given = torch.from_numpy(x).float()
        loss = rnd.loss(given, torch.Generator().manual_seed(number))
        assert float(loss.detach()) == pytest.approx(errors.mean(1)[kept].mean(), rel=1e-4)
        wanted = errors.max(1) / np.concatenate(bonuses).std()
        np.testing.assert_allclose(rnd.bonus(given), wanted, rtol=1e-3)


def test_torchrl_trains_its_predictor_alike():
    """Its bonus is another: the mean error over features where OOO takes the largest; its statistics begin with a
    thousandth of an observation of variance 1, are in float32, and its bonus is cut at 5."""
    pytest.importorskip("torchrl")
    from tensordict import TensorDict
    from torchrl.envs.transforms.rnd import RunningMeanStd
    from torchrl.objectives.rnd import RNDLoss

    torch.manual_seed(0)
    rnd, moments = RND(3, width=16, features=8), RunningMeanStd((3,), epsilon=0.0)
    theirs = RNDLoss(rnd.predictor, rnd.target, obs_rms=moments)
    for number in range(3):
        x = torch.randn(40, 3) * torch.tensor([1.0, 0.1, 30]) + torch.tensor([0.0, 5, -2])
        moments.update(x)
        torch.manual_seed(number)
        found = rnd.loss(x)
        torch.manual_seed(number)
        wanted = theirs(TensorDict({"next": {"observation": x}}, [40]))["loss_predictor"]
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
        gradients = [torch.autograd.grad(loss, list(rnd.predictor.parameters())) for loss in (found, wanted)]
        torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)
