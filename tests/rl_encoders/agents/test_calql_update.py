"""The critics' loss of Cal-QL and of PA-RL as a whole, beside sums of single numbers in float64.

Networks are asked for one value of one action at a time; everything else is the papers' formulas over Python's numbers.
"""

import math

import pytest
import torch

from rl_encoders.agents.action_optimiser import Candidates
from rl_encoders.agents.base_policy import BasePolicy
from rl_encoders.agents.calql import CalQL, CalQLConfig
from rl_encoders.agents.draws import draw_members
from rl_encoders.agents.parl import PARL, PARLConfig
from rl_encoders.agents.perception import States
from rl_encoders.replay.buffer import Batch

Z, A, B, N, E, GAMMA = 3, 2, 4, 3, 3, 0.9
SMALL = {"critic_hidden": (8, 8), "critics": E, "gamma": GAMMA, "action_samples": N, "weight": 1.7}


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def batch():
    actions, rewards = torch.rand(B, A) - 0.5, torch.randn(B)
    states, next_states = torch.randn(2, B, Z)
    terminal = torch.tensor([0.0, 1.0, 0.0, 0.0])
    return Batch({"s": states}, {"s": next_states}, actions, rewards, terminal, 0.3 * torch.randn(B))


def stirred(agent):
    for part in (agent.critic, agent.target):
        for parameter in part.parameters():
            parameter.data.add_(0.3 * torch.randn_like(parameter))
    return agent


def value(critic, member, state, action):
    return float(critic(state[None], action[None]).detach()[member, 0])


def temporal(agent, batch, member, careful):
    """Mean squared error of a critic, for V(s') that are given."""
    total = 0.0
    for b in range(B):
        target = float(batch.reward[b]) + (0.0 if batch.terminal[b] else GAMMA * careful[b])
        total += (value(agent.critic, member, batch.seen["s"][b], batch.action[b]) - target) ** 2
    return total / B


def log_sum_exp(terms):
    return math.log(sum(math.exp(term) for term in terms))


def gap(agent, batch, member, random, current, following, densities=None):
    """Mean over states of the regulariser; without densities the data's action is among those that are summed."""
    total = 0.0
    for b in range(B):
        state, floor = batch.seen["s"][b], float(batch.mc_return[b])
        q = [[value(agent.critic, member, state, a) for a in of[b]] for of in (random, current, following)]
        if agent.config.calibrated:
            q[1:] = [[max(one, floor) for one in values] for values in q[1:]]
        of_data = value(agent.critic, member, state, batch.action[b])
        if densities is None:
            terms = [of_data, *q[0], *q[1], *q[2]]
        else:
            logs = [*[A * math.log(0.5)] * N, *(log for of in densities for log in of[b].tolist())]
            terms = [one - log for one, log in zip([*q[0], *q[1], *q[2]], logs, strict=True)]
        total += log_sum_exp(terms) - of_data
    return total / B


@pytest.fixture
def drawn(monkeypatch):
    """Actions (B, n, |A|) that are drawn uniformly from [0, 1]."""
    kept, real = [], torch.rand

    def rand(*given, **more):
        found = real(*given, **more)
        if found.shape == (B, N, A):
            kept.append(found)
        return found

    monkeypatch.setattr(torch, "rand", rand)
    return kept


OPTIONS = {
    "the release's": {},
    "as on the kitchen": {"importance_sampling": False},
    "CQL": {"calibrated": False},
    "Lagrange": {"target_gap": 0.8},
    "one action in the backup": {"max_target_backup": False},
    "entropy in the backup": {"max_target_backup": False, "backup_entropy": True},
    "bounded values": {"q_low": -0.4, "q_high": -0.35},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_cal_ql(name, batch, drawn, monkeypatch):
    agent = stirred(CalQL(States({"s": Z}), A, CalQLConfig(**SMALL, policy_hidden=(8,), **OPTIONS[name])))
    agent.make_optimizers()
    agent.log_alpha.data.fill_(0.4)
    config, taken, sample = agent.config, [], agent.policy.sample

    def spy(state, count):
        taken.append(tuple(tensor.detach() for tensor in sample(state, count)))
        return taken[-1]

    monkeypatch.setattr(agent.policy, "sample", spy)
    state, next_state = batch.seen["s"], batch.next_seen["s"]
    loss, metrics = agent.critic_loss(batch, state, next_state, state, next_state)
    (backup, backup_log_pi), (current, logp_current), (following, logp_next) = taken
    assert backup.shape[1] == (N if config.max_target_backup else 1)
    careful, reached = [], []
    for b in range(B):
        worst = [min(value(agent.target, i, next_state[b], a) for i in range(E)) for a in backup[b]]
        best = max(worst)
        if config.backup_entropy:
            best -= math.exp(0.4) * float(backup_log_pi[b, 0])
        if config.q_low is not None:
            reached.append(best)
            best = min(max(best, config.q_low), config.q_high)
        careful.append(best)
    assert config.q_low is None or (min(reached) < config.q_low and max(reached) > config.q_high)
    random = 2 * drawn[0] - 1
    densities = (logp_current, logp_next) if config.importance_sampling else None
    wanted = 0.0
    for i in range(E):
        found = gap(agent, batch, i, random, current, following, densities)
        penalty = config.weight * found
        if config.target_gap is not None:
            penalty = math.e * config.weight * (found - 0.8)
        wanted += temporal(agent, batch, i, careful) + penalty
    assert float(loss.detach()) == pytest.approx(wanted, rel=1e-9)
    assert name == "CQL" or 0 < float(metrics["calibrated"]) < 1


class Nobody(BasePolicy):
    """Never asked: its improved actions are given."""


@pytest.mark.parametrize("careful", [None, 2])
def test_pa_rl(careful, batch, drawn, monkeypatch):
    """The release averages errors over E critics and gaps over those that count: E times that is what this has.

    It has the logarithm of a mean where this has that of a sum: ln 31 in the loss, none in gradients.
    """
    config = PARLConfig(**SMALL, careful=careful, activation="relu", layer_norm=False, tau=0.0)
    agent = stirred(PARL(States({"s": Z}), A, config, Nobody()))
    agent.make_optimizers()
    current, following = torch.rand(2, B, A) - 0.5
    members, counted = [], draw_members

    def draw(*given):
        members.append(counted(*given))
        return members[-1]

    def optimised(state, seen):
        best = current if torch.equal(seen["s"], batch.seen["s"]) else following
        return Candidates(torch.stack([-best, best], dim=1), torch.tensor([[0.0, 1.0]]).expand(B, 2))

    monkeypatch.setattr(agent, "optimised", optimised)
    monkeypatch.setattr("rl_encoders.agents.critics.draw_members", draw)
    monkeypatch.setattr("rl_encoders.agents.parl.descend", lambda optimizer, loss: None)
    found = agent.update(batch)["critic_loss"]
    next_state, random = batch.next_seen["s"], 2 * drawn[0] - 1
    backing, pushed = (one.tolist() for one in members) if careful else [range(E)] * 2
    assert len(backing) == len(pushed) == (careful or E)
    careful_values = [min(value(agent.target, i, next_state[b], following[b]) for i in backing) for b in range(B)]
    copies = [actions[:, None].expand(B, N, A) for actions in (current, following)]
    error = sum(temporal(agent, batch, i, careful_values) for i in range(E)) / E
    excess = sum(gap(agent, batch, i, random, *copies) for i in pushed) / len(pushed)
    assert float(found) == pytest.approx(E * (error + config.weight * excess), rel=1e-9)


@pytest.mark.parametrize("bounds", [{}, {"q_low": -0.3, "q_high": 0.1}])
def test_pa_rl_with_iqls_critics(bounds, batch, monkeypatch):
    """Of the data's actions alone: nobody is asked for others."""
    config = PARLConfig(**SMALL, **bounds, critic="iql", careful=2, expectile=0.8, tau=0.0)
    agent = stirred(PARL(States({"s": Z}), A, config, Nobody()))
    for parameter in agent.value.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    agent.make_optimizers()
    members, descended = [], []

    def draw(*given):
        members.append(draw_members(*given))
        return members[-1]

    monkeypatch.setattr("rl_encoders.agents.critics.draw_members", draw)
    monkeypatch.setattr("rl_encoders.agents.parl.descend", lambda optimizer, loss: descended.append(optimizer))
    bonus = torch.rand(B)
    found = agent.update_with_bonus(batch, bonus)
    assert descended == [agent.critic_optimizer]

    def cut(number):
        return min(max(number, bounds["q_low"]), bounds["q_high"]) if bounds else number

    def worth(state):
        return float(agent.value(state[None]).detach())

    value_loss, td_loss = 0.0, 0.0
    for b in range(B):
        state, following = batch.seen["s"][b], batch.next_seen["s"][b]
        target = float(batch.reward[b]) + (0.0 if batch.terminal[b] else GAMMA * worth(following))
        for i in range(E):
            td_loss += (value(agent.critic, i, state, batch.action[b]) - cut(target) - float(bonus[b])) ** 2 / B
        careful = cut(min(value(agent.target, i, state, batch.action[b]) for i in members[0].tolist()))
        excess = careful - worth(state)
        value_loss += abs(0.8 - (excess < 0)) * excess**2 / B
    assert float(found["td_loss"]) == pytest.approx(td_loss, rel=1e-9)
    assert float(found["value_loss"]) == pytest.approx(value_loss, rel=1e-9)
    assert float(found["critic_loss"]) == pytest.approx(td_loss + value_loss, rel=1e-9)
