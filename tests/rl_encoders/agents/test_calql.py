"""The regulariser of CQL and Cal-QL beside its definition and beside d3rlpy."""

import math

import numpy as np
import pytest
import torch

from rl_encoders.agents.calql import cql_regularizer, lagrange_losses, max_backup, uniform_log_density

E, B, N, A = 2, 5, 10, 3


@pytest.fixture
def given():
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return {
        "q_data": normal(E, B),
        "q_random": normal(E, B, N),
        "q_current": normal(E, B, N),
        "q_next": normal(E, B, N),
        "logp_random": A * math.log(0.5),
        "logp_current": normal(B, N),
        "logp_next": normal(B, N),
        "mc_return": normal(B),
    }


def by_definition(q_data, q_random, q_current, q_next, logp_random, logp_current, logp_next, mc_return, **options):
    """A sum at a time, in float64 numbers of Python."""
    temperature = options["temperature"]
    found = np.empty((E, B))
    for i in range(E):
        for b in range(B):
            terms = []
            for n in range(N):
                current, following = float(q_current[i, b, n]), float(q_next[i, b, n])
                if options["calibrated"]:
                    current, following = (max(value, float(mc_return[b])) for value in (current, following))
                density = (0.0, 0.0, 0.0)
                if options["importance_sampling"]:
                    density = logp_random, float(logp_current[b, n]), float(logp_next[b, n])
                terms += [
                    math.exp((value - log) / temperature)
                    for value, log in zip((float(q_random[i, b, n]), current, following), density, strict=True)
                ]
            if not options["importance_sampling"]:
                terms.append(math.exp(float(q_data[i, b]) / temperature))
            found[i, b] = temperature * math.log(sum(terms)) - float(q_data[i, b])
    return found


@pytest.mark.parametrize("temperature", [1.0, 0.3])
@pytest.mark.parametrize("importance_sampling", [True, False])
@pytest.mark.parametrize("calibrated", [True, False])
def test_it_is_its_definition(given, calibrated, importance_sampling, temperature):
    options = {"calibrated": calibrated, "importance_sampling": importance_sampling, "temperature": temperature}
    found = cql_regularizer(**given, **options)
    np.testing.assert_allclose(found.numpy(), by_definition(**given, **options), rtol=1e-12)


def test_a_density_for_each_random_action(given):
    uniform = {**given, "logp_random": torch.full((B, N), given["logp_random"], dtype=torch.float64)}
    torch.testing.assert_close(cql_regularizer(**uniform), cql_regularizer(**given))


def test_calibration_touches_the_policys_actions_only(given):
    """Where Q is below the return, the policy's action is not pushed down; all others are, and the data's is up."""
    for name in ("q_data", "q_random", "q_current", "q_next"):
        given[name].requires_grad_()
    low = torch.full((B,), 100.0, dtype=torch.float64)
    cql_regularizer(**{**given, "mc_return": low}).sum().backward()
    assert not given["q_current"].grad.any()
    assert not given["q_next"].grad.any()
    assert (given["q_random"].grad > 0).all()
    assert (given["q_data"].grad == -1).all()


@pytest.mark.parametrize("importance_sampling", [True, False])
def test_every_action_is_pushed_by_its_share_but_the_policys_below_the_return(given, importance_sampling):
    """Gradients by hand, with values of all kinds on both sides of the return."""
    kinds = ("q_random", "q_next", "q_current")
    for name in (*kinds, "q_data"):
        given[name].requires_grad_()
    cql_regularizer(**given, importance_sampling=importance_sampling).sum().backward()
    floor = given["mc_return"][:, None]
    below = {name: given[name].detach() < floor for name in kinds}
    assert all(0 < float(where.double().mean()) < 1 for where in below.values())
    counted = [given["q_random"], *(torch.where(below[name], floor, given[name]) for name in kinds[1:])]
    if importance_sampling:
        logs = (given["logp_random"], given["logp_next"], given["logp_current"])
        counted = [q - log for q, log in zip(counted, logs, strict=True)]
    else:
        counted.append(given["q_data"][..., None])
    shares = torch.cat(counted, dim=-1).detach().softmax(dim=-1)
    random, following, current = shares[..., : 3 * N].split(N, dim=-1)
    torch.testing.assert_close(given["q_random"].grad, random)
    torch.testing.assert_close(given["q_next"].grad, following.masked_fill(below["q_next"], 0))
    torch.testing.assert_close(given["q_current"].grad, current.masked_fill(below["q_current"], 0))
    pulled = -torch.ones(E, B, dtype=torch.float64)
    torch.testing.assert_close(given["q_data"].grad, pulled if importance_sampling else shares[..., -1] - 1)


@pytest.mark.parametrize("importance_sampling", [True, False])
@pytest.mark.parametrize("low", ["q_random", "q_data"])
def test_random_and_data_actions_count_as_they_are_below_the_return(given, low, importance_sampling):
    given[low] = given[low] - 50
    for name in ("q_current", "q_next"):
        given[name] = given[name] + 50
    options = {"importance_sampling": importance_sampling}
    torch.testing.assert_close(
        cql_regularizer(**given, **options), cql_regularizer(**given, calibrated=False, **options)
    )


def test_below_every_value_calibration_is_nothing(given):
    high = {**given, "mc_return": torch.full((B,), -100.0, dtype=torch.float64)}
    torch.testing.assert_close(cql_regularizer(**high), cql_regularizer(**high, calibrated=False))


@pytest.mark.parametrize("calibrated", [True, False])
def test_d3rlpy_says_the_same(given, calibrated, monkeypatch):
    """Its importance sampling is always on, its temperature is 1, and its threshold and weight come after."""
    pytest.importorskip("d3rlpy")
    from d3rlpy.algos.qlearning.torch import cal_ql_impl, cql_impl

    values = {"policy": (given["q_current"], given["logp_current"]), "next": (given["q_next"], given["logp_next"])}
    monkeypatch.setattr(
        cql_impl.CQLImpl,
        "_compute_policy_is_values",
        lambda self, policy_obs, value_obs, returns_to_go: values[policy_obs],
    )
    peer = object.__new__(cal_ql_impl.CalQLImpl if calibrated else cql_impl.CQLImpl)
    peer._conservative_weight, peer._alpha_threshold = 1.0, 0.0
    peer._compute_random_is_values = lambda obs: (given["q_random"], given["logp_random"])

    class Data:
        def compute_expected_q(self, observation, action, reduction):
            return given["q_data"][..., None]

    peer._q_func_forwarder = Data()
    theirs = peer._compute_conservative_loss("policy", None, "next", given["mc_return"][:, None])
    torch.testing.assert_close(cql_regularizer(**given, calibrated=calibrated).mean(dim=1), theirs)


def test_the_backup_is_the_best_of_careful_values():
    q = torch.tensor([[[1.0, 5.0, 3.0]], [[2.0, 0.0, 2.5]]])
    assert max_backup(q).tolist() == [2.5]


def test_the_multiplier_grows_while_the_gap_is_too_large():
    gap = torch.tensor([[2.0, 4.0], [1.0, 1.0]], requires_grad=True)
    log_alpha = torch.tensor(1.0, requires_grad=True)
    added, loss = lagrange_losses(gap, log_alpha, weight=5.0, target_gap=0.8)
    assert float(added.detach()) == pytest.approx(math.e * 5 * ((3 - 0.8) + (1 - 0.8)), rel=1e-6)
    assert float(loss.detach()) == pytest.approx(-0.5 * float(added.detach()), rel=1e-6)
    loss.backward()
    assert gap.grad is None
    assert log_alpha.grad < 0  # and so a step of descent makes it grow
    added.backward()
    assert float(log_alpha.grad) == pytest.approx(float(loss.detach()), rel=1e-6)  # nothing came from the critics' loss


def test_the_density_of_uniform_actions():
    assert uniform_log_density(4) == pytest.approx(math.log(0.5**4))
