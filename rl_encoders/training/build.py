"""From settings to an agent in an environment."""

import copy
import math
from dataclasses import replace
from typing import Any

import torch

from rl_encoders.agents.agent import Agent
from rl_encoders.agents.autoregressive import AutoregressiveHead
from rl_encoders.agents.base_policy import GaussianHead, PolicyHead, SeeingPolicy
from rl_encoders.agents.bc import BC, RegressionHead
from rl_encoders.agents.calql import CalQL
from rl_encoders.agents.diffusion import DiffusionHead
from rl_encoders.agents.exploration import Exploring
from rl_encoders.agents.iql import IQL
from rl_encoders.agents.parl import PARL
from rl_encoders.agents.perception import Eyes, Perception, States
from rl_encoders.agents.sac import SAC
from rl_encoders.loading import load
from rl_encoders.replay.trajectory import Space
from rl_encoders.training.seeding import BUILD, SEE, seeded
from rl_encoders.training.settings import AgentConfig, TrainConfig
from vie.errors import VieError

HEADS: dict[str, type[PolicyHead]] = {
    "diffusion": DiffusionHead,
    "transformer": AutoregressiveHead,
    "gaussian": GaussianHead,
    "regression": RegressionHead,
}


def parts_seen(config: TrainConfig) -> list[str]:
    """Parts of an observation that an agent sees."""
    return [*config.environment.state, *(config.environment.cameras if config.encoder.source else [])]


def build_eyes(config: TrainConfig, space: Space) -> Perception:
    """What an agent sees through, in an environment or on data of some space; the same whenever it is built.

    Raises:
        VieError: It is to see what is not there, or nothing.
    """
    world, given = config.environment, config.encoder
    for name in parts_seen(config):
        if name not in space.observations:
            raise VieError(f"there is no {name!r} to see: observations have {', '.join(space.observations)}")
    lengths = {name: math.prod(space.observations[name][0]) for name in world.state}
    if not given.source:
        if not lengths:
            raise VieError("the agent sees nothing: give encoder.source, or parts of the state as environment.state")
        return States(lengths)
    # A trunk without weights is drawn here, and what it has kept of the data is of use to no other.
    seeded(config.seed, SEE, 0)
    arguments: dict[str, Any] = given.arguments | ({"size": given.size} if given.size else {})
    encoder = load(
        given.source,
        given.mode,
        train_from=given.train_from,
        pool=given.pool,
        project=given.project,
        precision=given.precision,
        compile=given.compile,
        cache=given.cache,
        cache_dtype=given.cache_dtype,
        views=() if world.cameras == ["pixels"] else world.cameras,
        proprio=lengths or None,
        device=device_of(config.device),
        **arguments,
    )
    return Eyes(encoder, world.control_hz, given.most_shift)


def build_agent(config: TrainConfig, space: Space, eyes: Perception | None = None) -> Agent:
    """An agent on its device, with its optimizers made and its weights drawn by the seed."""
    if config.agent.algorithm == "bc" and config.online_steps:
        raise VieError(f"algorithm=bc imitates data alone: give online_steps=0, not {config.online_steps}")
    eyes = eyes or build_eyes(config, space)
    seeded(config.seed, BUILD, 0)
    chunk = config.data.chunk
    agent = _agent(in_chunks(config.agent, chunk), eyes, chunk * space.action_dim).to(device_of(config.device))
    agent.make_optimizers()
    return agent


def _agent(config: AgentConfig, eyes: Perception, action_dim: int) -> Agent:
    made: Agent
    if config.algorithm in {"parl", "bc"}:
        head = HEADS[config.policy](eyes.dim, action_dim)
        policy = SeeingPolicy(copy.deepcopy(eyes), head, config.policy_lr, config.policy_ema, config.imitation_lr)
        made = BC(policy) if config.algorithm == "bc" else PARL(eyes, action_dim, config.parl, policy)
    elif config.algorithm == "sac":
        made = SAC(eyes, action_dim, config.sac)
    elif config.algorithm == "iql":
        made = IQL(eyes, action_dim, config.iql)
    else:
        calibrated = config.calql.calibrated and config.algorithm == "calql"
        made = CalQL(eyes, action_dim, replace(config.calql, calibrated=calibrated))
    return Exploring(made, config.exploration) if config.exploration else made


def gamma_of(config: AgentConfig) -> float:
    """The discount of the agent that counts."""
    return float(getattr(config, _section(config)).gamma)


def in_chunks(config: AgentConfig, length: int) -> AgentConfig:
    """The same for actions that take several steps, over which values are discounted."""
    return _with(config, gamma=gamma_of(config) ** length)


def bounded_agent(config: AgentConfig, low: float, high: float) -> AgentConfig:
    """The same with values between two bounds where it gives none itself."""
    own = getattr(config, _section(config))
    bounds = {"q_low": low if own.q_low is None else own.q_low, "q_high": high if own.q_high is None else own.q_high}
    return _with(config, **bounds)


def _with(config: AgentConfig, **changes: Any) -> AgentConfig:
    section: dict[str, Any] = {_section(config): replace(getattr(config, _section(config)), **changes)}
    return replace(config, **section)


def _section(config: AgentConfig) -> str:
    # Behaviour cloning has no values: nothing depends on its discount.
    return {"cql": "calql", "bc": "parl"}.get(config.algorithm, config.algorithm)


def device_of(name: str) -> torch.device:
    """The device of a name; "auto" is the GPU if there is one."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
