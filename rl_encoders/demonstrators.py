"""Who acts where no agent does: chance, an environment's script, or what was recorded."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rl_encoders.environments.guarded import Environment
from rl_encoders.rollout import Act, Action, Parts
from rl_encoders.trajectories.recorded import Recording, read_recordings
from vie import VieError

REPLAY = "replay:"


class Plan(NamedTuple):
    """How an episode goes.

    Attributes:
        act: What is done.
        options: Of its reset.
    """

    act: Act
    options: Mapping[str, Any] | None = None


Policy = Callable[[Environment, int, int], Plan]
"""From the environment of an episode, its number, and the seed of what chance decides in it."""


def make_policy(environment: Environment, name: str, noise: float = 0.0) -> Policy:
    """A policy by name.

    Args:
        environment: In which it will act.
        name: ``random``; one of ``environment.policies``; or ``replay:FILE``, which does what is recorded there from
            the state in which each recording began, one after another and over again. What comes of it is what
            happens, not what was recorded.
        noise: Standard deviation of what is added to scripted and recorded actions, which are then clipped.

    Raises:
        VieError: There is none of this name, or the recordings do not fit.
    """
    if name == "random":
        return lambda environment, number, seed: Plan(random_actions(environment, seed))
    if name.startswith(REPLAY):
        recordings = read_recordings(Path(name.removeprefix(REPLAY)))
        for one in recordings:
            if one.actions.shape[1] != environment.space.action_dim:
                raise VieError(
                    f"{one.name} has actions of {one.actions.shape[1]} numbers where {environment.name} takes "
                    f"{environment.space.action_dim}: give recordings of this environment"
                )
        return lambda environment, number, seed: _replayed(recordings[number % len(recordings)], noise, seed)
    if name not in environment.policies:
        known = ", ".join([*environment.policies, "random", "replay:FILE"])
        raise VieError(f"{environment.name} has no policy {name!r}: it has {known}")
    return lambda environment, number, seed: Plan(scripted_actions(environment, seed, name, noise))


def random_actions(environment: Environment, seed: int) -> Act:
    """Actions drawn evenly from [-1, 1]."""
    draws = np.random.default_rng(seed)
    return lambda seen: draws.uniform(-1.0, 1.0, environment.space.action_dim).astype(np.float32)


def scripted_actions(environment: Environment, seed: int, name: str, noise: float = 0.0) -> Act:
    """Those of a policy that the environment brings along; it knows what the agent has to see."""
    draws = np.random.default_rng(seed)
    return lambda seen: _noisy(environment.demonstrate(name), noise, draws)


def _replayed(recording: Recording, noise: float, seed: int) -> Plan:
    draws = np.random.default_rng(seed)
    step = 0

    def act(seen: Parts) -> Action:
        nonlocal step
        # The environment may go on for longer than the recording.
        action = recording.actions[min(step, len(recording.actions) - 1)]
        step += 1
        return _noisy(action, noise, draws)

    return Plan(act, {"initial_state_dict": dict(recording.state)})


def _noisy(action: Action, noise: float, draws: np.random.Generator) -> Action:
    return np.clip(action + noise * draws.standard_normal(len(action)), -1.0, 1.0).astype(np.float32)
