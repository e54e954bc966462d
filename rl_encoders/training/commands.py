"""What ``vie-rl train`` and ``vie-rl eval`` carry out."""

import json
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from rl_encoders.environments import Environment, make_environment
from rl_encoders.replay.trajectory import Space, Trajectory
from rl_encoders.training.build import build_agent, gamma_of
from rl_encoders.training.loop import Training
from rl_encoders.training.settings import TrainConfig, parse_train_config
from rl_encoders.training.storage import filled, read_offline
from rl_encoders.trajectories import open_trajectories
from vie.errors import VieError
from vie.files import write_text_atomically
from vie.settings import dump_settings, flatten

CONFIG_NAME = "config.yaml"

FREE = (
    *("run", "device", "offline_updates", "online_steps", "evaluate_every", "evaluation_episodes", "log_every"),
    *("checkpoint_every", "encoder.cache"),
)
"""Settings that may differ when a run goes on: they change no update that was taken."""


def train(recipes: Sequence[str | Path], overrides: Sequence[str]) -> dict[str, float]:
    """Carries a run out, or on; returns its last evaluation.

    Raises:
        VieError: A setting is wrong, what is there is another run, or data and environment disagree.
    """
    config = parse_train_config(recipes, overrides)
    if not config.run:
        raise VieError("the run has no folder: give it as run=FOLDER")
    _check_same(config)
    with closing(open_world(config)) if config.environment.name else nullcontext() as world:
        training = build(config, world)
        Path(config.run).mkdir(parents=True, exist_ok=True)
        write_text_atomically(Path(config.run) / CONFIG_NAME, dump_settings(config))
        return training.train()


def evaluate(run: Path, episodes: int) -> dict[str, float]:
    """Evaluates what a run has come to, over some episodes.

    Raises:
        VieError: There is no such run, or it has no environment.
    """
    if not (run / CONFIG_NAME).exists():
        raise VieError(f"{run} holds no run: give the folder of one that vie-rl train has begun")
    config = parse_train_config([run / CONFIG_NAME], [f"run={run}", f"evaluation_episodes={episodes}"])
    if not config.environment.name:
        raise VieError(f"{run} has no environment to act in: it was trained on data alone")
    with closing(open_world(config)) as world:
        return build(config, world).evaluate()


def open_world(config: TrainConfig) -> Environment:
    """The environment of a run."""
    given = config.environment
    return make_environment(given.name, config.seed, given.size, max_steps=given.max_steps, reward=given.reward)


def build(config: TrainConfig, world: Environment | None) -> Training:
    """A run with everything in it, at the place where it was stopped."""
    trajectories = list(open_trajectories(config.dataset)) if config.dataset else []
    if world is None and not trajectories:
        raise VieError("there is nothing to learn from: give dataset, environment.name, or both")
    space = world.space if world is not None else space_of(trajectories[0])
    config = replace(config, data=replace(config.data, gamma=gamma_of(config.agent)))
    agent = build_agent(config, space)
    # Only what the agent sees has to be there.
    seen = {*config.environment.state, *(config.environment.cameras if config.encoder.source else [])}
    wanted = Space({name: kind for name, kind in space.observations.items() if name in seen}, space.low, space.high)
    offline = filled(read_offline(trajectories, wanted, agent.eyes, config.data), agent.eyes, agent.device)
    return Training(config, agent, offline if trajectories else None, world)


def space_of(trajectory: Trajectory) -> Space:
    """The space of data without an environment: actions in [-1, 1]."""
    ones = np.ones(trajectory.actions.shape[1], np.float32)
    parts = {name: (array.shape[1:], array.dtype) for name, array in trajectory.observations.items()}
    return Space(parts, -ones, ones)


def _check_same(config: TrainConfig) -> None:
    path = Path(config.run) / CONFIG_NAME
    if not path.exists():
        return
    before: dict[str, Any] = flatten(yaml.safe_load(path.read_text()))
    now = flatten(json.loads(json.dumps(asdict(config))))
    changed = [key for key in now if key not in FREE and before.get(key, now[key]) != now[key]]
    if changed:
        key = changed[0]
        raise VieError(
            f"{config.run} is a run with {key}={before[key]}, not {now[key]}: give another run=FOLDER, or that setting"
        )
