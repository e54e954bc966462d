"""Small agents and runs that tests make."""

import torch

from rl_encoders.agents.action_optimiser import Improvement
from rl_encoders.agents.base_policy import GaussianHead, SeeingPolicy
from rl_encoders.agents.calql import CalQL, CalQLConfig
from rl_encoders.agents.iql import IQL, IQLConfig
from rl_encoders.agents.parl import PARL, PARLConfig
from rl_encoders.agents.perception import States
from rl_encoders.training.config import DataConfig, RunConfig
from rl_encoders.training.loop import Training as PlainTraining
from rl_encoders.training.storage import filled, read_offline
from tests.rl_encoders.training.worlds import LENGTH

SMALL = {"critic_hidden": (32, 32), "gamma": 0.9, "tau": 0.05, "critic_lr": 2e-3}


PIXELS = {"source": "vie_single_r18", "width": 4, "size": 32, "proprio": {"place": 1}}


def agent(kind="cal-ql", eyes=None):
    torch.manual_seed(0)
    eyes = eyes or States({"place": 1})
    if kind == "iql":
        made = IQL(eyes, 1, IQLConfig(**SMALL, policy_hidden=(32, 32), policy_lr=2e-3))
    elif kind == "pa-rl":
        config = PARLConfig(
            **SMALL, critics=3, candidates=6, action_samples=4, weight=0.1, improvement=Improvement(3, 2, 0.05)
        )
        made = PARL(eyes, 1, config, SeeingPolicy(States({"place": 1}), GaussianHead(1, 1, (32,)), lr=2e-3))
    else:
        made = CalQL(eyes, 1, CalQLConfig(**SMALL, policy_hidden=(32, 32), policy_lr=2e-3, weight=0.5))
    made.make_optimizers()
    return made


def Training(settings, learner, trajectories=None, world=None):  # noqa: N802
    """On trajectories, checked against the world."""
    offline = None
    if trajectories:
        space = world.space if world else None
        stored = read_offline(trajectories, space, learner.eyes, settings.data)
        offline = filled(stored, learner.eyes, learner.device, settings.data)
    return PlainTraining(settings, learner, offline, [world] if world else [])


def config(folder, **changes):
    given = {
        **{"run": str(folder), "offline_updates": 40, "online_steps": 4 * LENGTH, "log_every": 10},
        **{"imitation_updates": 10, "checkpoint_every": 2, "evaluation_episodes": 3},
        "data": DataConfig(gamma=0.9, batch=32, rows=500),
    }
    return RunConfig(**{**given, **changes})


def same(one, other):
    mine, theirs = one.state_dict(), other.state_dict()
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        same_tensor = torch.equal(tensor, theirs[name]) if isinstance(tensor, torch.Tensor) else tensor == theirs[name]
        assert same_tensor, name
