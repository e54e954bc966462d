"""Settings of agents: those that make no sense are named, and none is there without a use."""

from dataclasses import fields

import pytest

from rl_encoders.agents.action_optimiser import Improvement
from rl_encoders.agents.calql import CalQLConfig
from rl_encoders.agents.iql import IQLConfig
from rl_encoders.agents.parl import PARLConfig
from rl_encoders.agents.sac import SACConfig
from rl_encoders.training.settings import parse_train_config
from vie import VieError

KINDS = {"sac": SACConfig, "calql": CalQLConfig, "iql": IQLConfig, "parl": PARLConfig}


@pytest.mark.parametrize("kind", KINDS.values())
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"activation": "gelu"}, "activation=gelu is not known: give one of relu, swish, tanh"),
        ({"critic_hidden": []}, r"critic_hidden=\[\] is no list of widths: give one or more"),
        ({"critic_hidden": [64, 0]}, r"critic_hidden=\[64, 0\] is no list of widths"),
        ({"critics": 0}, "critics=0 is too few: give at least 1"),
        ({"bins": 1}, "bins=1 is too few: give at least 2"),
        ({"q_low": 1.0, "q_high": 0.0}, "q_low=1.0 is above q_high=0.0"),
    ],
)
def test_of_any_critics(kind, given, said):
    with pytest.raises(VieError, match=said):
        kind(**given)


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        (SACConfig, {"careful": 3}, "careful=3 is more than critics=2: give careful at most 2, or more critics"),
        (SACConfig, {"careful": 0}, "careful=0 is too few"),
        (SACConfig, {"actor_value": "max"}, "actor_value=max is not known: give one of min, mean"),
        (IQLConfig, {"dropout": 1.0}, "dropout=1.0 is out of range: give 0 to below 1"),
        (CalQLConfig, {"action_samples": 0}, "action_samples=0 is too few"),
        (CalQLConfig, {"backup_entropy": True}, "backup_entropy=True: .*give max_target_backup=false"),
        (PARLConfig, {"action_samples": 0}, "action_samples=0 is too few"),
        (PARLConfig, {"critics": 4, "careful": 5}, "careful=5 is more than critics=4"),
        (PARLConfig, {"candidates": 4}, "improvement.keep=10 is more than candidates=4: give improvement.keep at most"),
        (PARLConfig, {"critic": "cql"}, "critic=cql is not known: give one of calql, iql"),
        (Improvement, {"keep": 0}, "improvement.keep=0 is too few"),
        (Improvement, {"low": 1.0}, "improvement.low=1.0 is not below improvement.high=1.0"),
    ],
)
def test_of_some(kind, given, said):
    with pytest.raises(VieError, match=said):
        kind(**given)


def test_they_are_named_where_a_run_is_begun():
    with pytest.raises(VieError, match=r"improvement.keep=10 is more than candidates=4"):
        parse_train_config(["parl_diffusion"], ["agent.parl.candidates=4"])
    found = parse_train_config(["parl_diffusion"], ["agent.parl.candidates=4", "agent.parl.improvement.keep=2"])
    assert found.agent.parl.improvement.keep == 2


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("iql", {"careful", "actor_value", "backup_entropy", "target_entropy", "weight"}),
        ("parl", {"target_gap", "max_target_backup", "importance_sampling", "share_encoder", "policy_hidden"}),
        ("parl", {"policy_lr", "backup_entropy", "target_entropy", "actor_value"}),
    ],
)
def test_an_algorithm_has_settings_of_its_own_alone(name, others):
    assert not others & {field.name for field in fields(KINDS[name])}
