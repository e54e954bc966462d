"""What a run has learned, to act outside it: on a robot, in an evaluation of one's own."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from rl_encoders.agents.agent import Agent
from rl_encoders.replay.trajectory import Space, from_unit
from rl_encoders.rollout import Action, Parts
from rl_encoders.training.actor import Actor
from rl_encoders.training.build import build_agent, parts_seen
from rl_encoders.training.checkpoint import load_state
from rl_encoders.training.loop import CHECKPOINT
from rl_encoders.training.settings import TrainConfig, parse_train_config
from vie.errors import VieError
from vie.files import write_text_atomically

CONFIG_NAME = "config.yaml"
SPACE_NAME = "space.json"


class Policy:
    """Acts in one episode after another, always by the best action that it knows."""

    def __init__(self, agent: Agent, space: Space, chunk: int = 1) -> None:
        """Before its first episode.

        Args:
            agent: Trained.
            space: What it is shown and what it gives; parts that are not in it may be shown, and are not looked at.
            chunk: Actions that it chooses at once.
        """
        self.agent, self.space, self.chunk = agent, space, chunk
        self.reset()

    def reset(self) -> None:
        """Begins an episode: what was seen before is forgotten, and so are actions chosen ahead."""
        self._actor = Actor(self.agent, explore=False, chunk=self.chunk, remember=False)

    def __call__(self, observation: Parts) -> Action:
        """The action (A,) for what is seen now, in the space's bounds.

        Args:
            observation: Pictures uint8 (H, W, 3) and numbers (N,), by name.

        Raises:
            VieError: A part of what it sees is missing, or of another kind.
        """
        seen = {name: self._part(name, observation) for name in self.space.observations}
        (action,) = self._actor({0: seen}).values()
        return action if self.space.is_unit else from_unit(action.astype(np.float64), self.space.low, self.space.high)

    def _part(self, name: str, observation: Parts) -> np.ndarray:
        if name not in observation:
            raise VieError(f"there is no {name!r} to see: the observation has {', '.join(observation) or 'nothing'}")
        shape, dtype = self.space.observations[name]
        part = np.asarray(observation[name])
        if dtype == np.uint8 and (part.dtype != np.uint8 or part.ndim != 3 or part.shape[2] != 3):
            raise VieError(f"{name!r} is {part.dtype} {list(part.shape)}: give a picture, uint8 [H, W, 3]")
        if dtype != np.uint8 and part.shape != shape:
            raise VieError(f"{name!r} is of {list(part.shape)} numbers: the agent learned from {list(shape)}")
        return part.astype(dtype, copy=False)


def load_policy(run: str | Path, device: str = "auto", overrides: Sequence[str] = ()) -> Policy:
    """The policy of a run of ``vie-rl train``.

    Its actions are those of the run's environment, in [-1, 1]; of a run on data alone those of the dataset, in its
    units too where ``data.scale_actions`` had been given.

    Args:
        run: Folder of the run; of ``vie-rl ooo`` that of the part, as ``RUN/retrained-20000``.
        device: auto, cpu or cuda.
        overrides: ``key=value`` over the run's settings, as ``encoder.source=FOLDER`` where the encoder lies elsewhere.

    Raises:
        VieError: There is no such run, or it has learned nothing yet.
    """
    run = Path(run)
    config = config_of(run, overrides)
    # What it sees from now on is no part of the data whose features were kept.
    config = replace(config, device=device, encoder=replace(config.encoder, cache=None))
    space = read_space(run)
    seen = {name: kind for name, kind in space.observations.items() if name in parts_seen(config)}
    return Policy(trained_agent(config, space), replace(space, observations=seen), config.data.chunk)


def config_of(run: Path, overrides: Sequence[str]) -> TrainConfig:
    """The settings of a run, and some over them; raises ``VieError`` where there is none."""
    if not (run / CONFIG_NAME).exists():
        raise VieError(f"{run} holds no run: give the folder of one that vie-rl train has begun")
    return parse_train_config([run / CONFIG_NAME], [*overrides, f"run={run}"])


def trained_agent(config: TrainConfig, space: Space) -> Agent:
    """The agent of a run as its last checkpoint has it; raises ``VieError`` where there is none."""
    state = load_state(Path(config.run) / CHECKPOINT)
    if state is None:
        raise VieError(f"{config.run} holds no checkpoint yet: train it first")
    agent = build_agent(config, space)
    agent.load_state_dict(state["agent"])
    return agent


def write_space(run: Path, space: Space) -> None:
    """Keeps what a run's agent is shown and gives; raises ``VieError`` where it was something else before."""
    if (run / SPACE_NAME).exists():
        before = read_space(run)
        if not all(np.allclose(getattr(before, end), getattr(space, end), rtol=1e-6) for end in ("low", "high")):
            raise VieError(
                f"{run} learned actions within other bounds ({SPACE_NAME}): its dataset has changed; give the one that "
                "it had, or another run=FOLDER"
            )
    observations = {name: [list(shape), dtype.name] for name, (shape, dtype) in space.observations.items()}
    content = {"observations": observations, "low": space.low.tolist(), "high": space.high.tolist()}
    write_text_atomically(run / SPACE_NAME, json.dumps(content, indent=2) + "\n")


def read_space(run: Path) -> Space:
    """What ``write_space`` wrote; raises ``VieError`` where it cannot be read."""
    try:
        content = json.loads((run / SPACE_NAME).read_text())
        return Space(
            {name: (tuple(shape), np.dtype(dtype)) for name, (shape, dtype) in content["observations"].items()},
            np.asarray(content["low"], np.float32),
            np.asarray(content["high"], np.float32),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise VieError(f"{run / SPACE_NAME} cannot be read ({error}): go on with the run, which writes it") from error
