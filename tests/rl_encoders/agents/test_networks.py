"""Ensembles that are computed as one, beside each member computed alone."""

import pytest
import torch
import torch.nn.functional as F

from rl_encoders.agents.networks import Critic, EnsembleMLP, polyak

Z, A, E, B, N = 5, 3, 4, 6, 7


def member(critic, number, state, action):
    """One critic by itself, on the state and the action side by side."""
    first = torch.cat([critic.of_state.weight[number], critic.of_action.weight[number]])
    hidden = torch.cat([state, action], dim=-1) @ first + critic.of_state.bias[number]
    norms = [critic.norm, *critic.rest.norms]
    weights = [layer for layer in critic.rest.layers]
    for place, norm in enumerate(norms):
        if place:
            weight = weights[place - 1].weight[number]
            if critic.of_action_later:
                weight = torch.cat([weight, critic.of_action_later[place - 1].weight[number]])
                hidden = torch.cat([hidden, action], dim=-1)
            hidden = hidden @ weight + weights[place - 1].bias[number]
        if not isinstance(norm, torch.nn.Identity):
            hidden = F.layer_norm(hidden, hidden.shape[-1:], norm.weight[number, 0], norm.bias[number, 0])
        hidden = critic.activation(hidden)
    if critic.normalise_features:
        hidden = F.normalize(hidden, dim=-1, eps=1e-8)
    return hidden @ critic.rest.last.weight[number] + critic.rest.last.bias[number]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"layer_norm": True, "activation": "swish"},
        {"normalise_features": True},
        {"action_at_every_layer": True, "layer_norm": True},
    ],
)
@pytest.mark.parametrize("hidden", [(16,), (16, 8)])
def test_every_member_scores_for_itself(hidden, options):
    torch.manual_seed(0)
    critic = Critic(Z, A, hidden, ensemble=E, **options).double()
    for parameter in critic.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    state, actions = torch.randn(B, Z).double(), torch.randn(B, N, A).double()
    scores = critic(state, actions)
    assert scores.shape == (E, B, N)
    for number in range(E):
        for n in range(N):
            torch.testing.assert_close(scores[number, :, n], member(critic, number, state, actions[:, n])[:, 0])
    torch.testing.assert_close(critic(state, actions[:, 2]), scores[:, :, 2])


def test_histograms():
    critic = Critic(Z, A, (8,), ensemble=E, outputs=11)
    assert critic(torch.randn(B, Z), torch.randn(B, A)).shape == (E, B, 11)
    assert critic(torch.randn(B, Z), torch.randn(B, N, A)).shape == (E, B, N, 11)


def test_cal_qls_initialisation():
    torch.manual_seed(0)
    critic = Critic(Z, A, (64, 32), ensemble=E)
    first = torch.cat([critic.of_state.weight, critic.of_action.weight], dim=1)
    for number in range(E):
        torch.testing.assert_close(first[number] @ first[number].T, 2 * torch.eye(Z + A), atol=1e-5, rtol=0)
        second = critic.rest.layers[0].weight[number]
        torch.testing.assert_close(second.T @ second, 2 * torch.eye(32), atol=1e-5, rtol=0)
    assert critic(torch.randn(B, Z), torch.randn(B, A)).abs().max() < 0.1
    assert not torch.equal(first[0], first[1])


def test_orthogonal_with_the_action_at_every_layer():
    torch.manual_seed(0)
    critic = Critic(Z, A, (64, 32, 16), ensemble=E, action_at_every_layer=True)
    for layer, of_action in zip(critic.rest.layers, critic.of_action_later, strict=True):
        whole = torch.cat([layer.weight, of_action.weight], dim=1)
        for member in whole:
            torch.testing.assert_close(member.T @ member, 2 * torch.eye(member.shape[1]), atol=1e-5, rtol=0)


def test_dropout_leaves_out_a_share_of_every_hidden_layer_while_it_learns():
    torch.manual_seed(0)
    network, state = EnsembleMLP(1, Z, (1000,), 3, dropout=0.3), torch.randn(1, Z)
    hidden = []
    network.last.register_forward_pre_hook(lambda module, given: hidden.append(given[0]))
    learning = network(state)
    share = float((hidden[0] == 0).float().mean())
    network.eval()
    network(state)
    at_rest = float((hidden[1] == 0).float().mean())
    assert abs(share - (at_rest + 0.3 * (1 - at_rest))) < 0.05
    kept = (hidden[0] != 0) & (hidden[1] != 0)
    torch.testing.assert_close(hidden[0][kept], hidden[1][kept] / 0.7)
    assert not torch.equal(learning, network(state))


def test_the_states_part_is_computed_once():
    critic = Critic(Z, A, (8, 8), ensemble=E)
    seen = []
    critic.of_state.register_forward_hook(lambda module, given, made: seen.append(tuple(made.shape)))
    critic(torch.randn(B, Z), torch.randn(B, 31, A))
    assert seen == [(E, B, 8)]


def test_a_target_follows():
    online, target = EnsembleMLP(2, 3, (4,), 1), EnsembleMLP(2, 3, (4,), 1)
    before = [parameter.clone() for parameter in target.parameters()]
    polyak(target, online, 0.1)
    for old, new, goal in zip(before, target.parameters(), online.parameters(), strict=True):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * goal)
