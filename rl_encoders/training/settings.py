"""A whole run as settings: what acts where, what it sees through, and how it learns."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rl_encoders.agents.calql import CalQLConfig
from rl_encoders.agents.iql import IQLConfig
from rl_encoders.agents.parl import PARLConfig
from rl_encoders.agents.sac import SACConfig
from rl_encoders.training.config import RunConfig
from vie.settings import parse_settings

RECIPES = Path(__file__).parents[1] / "recipes"
HELP = "vie-rl train --help"


@dataclass
class EnvironmentConfig:
    """Where an agent acts; see ``rl_encoders.environments.make_environment``.

    Attributes:
        name: Such as ``gym:Pendulum-v1``; empty for offline data alone.
        size: Side of its pictures in pixels.
        max_steps: Of an episode; null is the environment's own.
        reward: ``task``, or ``success``: 1 for success, which ends the episode, and 0 before.
        arguments: For its own constructor, as {camera_name: corner3}.
        timeout: Seconds that a step of it may take.
        parallel: Environments, each in a process of its own, in which an evaluation runs at once.
        control_hz: Steps in a second, for encoders of clips.
        cameras: Parts of an observation that are pictures.
        state: Parts of an observation that are numbers, which the agent sees too.
    """

    name: str = ""
    size: int = 64
    max_steps: int | None = None
    reward: Literal["task", "success"] = "task"
    arguments: dict[str, Any] = field(default_factory=dict)
    timeout: float = 60.0
    parallel: int = 1
    control_hz: float = 10.0
    cameras: list[str] = field(default_factory=lambda: ["pixels"])
    state: list[str] = field(default_factory=list)


@dataclass
class EncoderConfig:
    """What an agent sees through; see ``rl_encoders.load``.

    Attributes:
        source: Of the trunk; empty for agents that see numbers alone.
        mode: ``frozen``, ``finetune`` or ``partial``.
        train_from: Stage from which ``partial`` trains; or a schedule that counts updates, as {0: none, 10000: all}.
        pool: Of its maps.
        project: Length of the vectors; null leaves them.
        size: Side of the pictures that the trunk sees; null is its own.
        precision: Of the trunk's arithmetic.
        compile: Whether the trunk runs through torch.compile.
        cache: Folder of features of a frozen trunk, of use where several runs see the same data; null for none.
        cache_dtype: Of features, there and in the replay.
        most_shift: Pixels that the pictures of a trained trunk are shifted by at most.
        arguments: Others of ``rl_encoders.load``, or of the network, as {width: 32}.
    """

    source: str = ""
    mode: Literal["frozen", "finetune", "partial"] = "frozen"
    train_from: str | dict[int, str] | None = None
    pool: str = "mean"
    project: int | None = None
    size: int | None = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    compile: bool = False
    cache: str | None = None
    cache_dtype: Literal["float32", "float16"] = "float32"
    most_shift: int = 4
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass
class AgentConfig:
    """What learns; of the sections the one of the algorithm counts.

    Attributes:
        algorithm: ``cql`` is Cal-QL without calibration.
        exploration: Factor of a bonus for novelty; 0 for none (OOO).
        policy: Of PA-RL and behaviour cloning.
        policy_lr: Its learning rate; PA-RL's policy learns by it what was optimised.
        imitation_lr: The same while it imitates the data; null is ``policy_lr``.
        policy_ema: Share of it in the slow copy that is sampled.
    """

    algorithm: Literal["sac", "cql", "calql", "iql", "parl", "bc"] = "calql"
    exploration: float = 0.0
    policy: Literal["diffusion", "transformer", "gaussian", "regression"] = "diffusion"
    policy_lr: float = 5e-5
    imitation_lr: float | None = None
    policy_ema: float = 0.002
    sac: SACConfig = field(default_factory=SACConfig)
    calql: CalQLConfig = field(default_factory=CalQLConfig)
    iql: IQLConfig = field(default_factory=IQLConfig)
    parl: PARLConfig = field(default_factory=PARLConfig)


@dataclass
class RetrainConfig:
    """OOO's third phase: what is trained anew on the data that had been gathered by some time.

    Attributes:
        at: Steps of the environment by which data counts, one agent each; empty for none.
        offline_updates: Of each agent.
        extra: Transitions of the largest reward that are added to every batch.
        mix: Share of the offline data in a batch, the rest being what was gathered; -1 is as much as there is of it.
        agent: That is trained, which is to be pessimistic. Its values are bounded by the rewards of the data.
    """

    at: list[int] = field(default_factory=list)
    offline_updates: int = 20_000
    extra: int = 32
    mix: float = -1.0
    agent: AgentConfig = field(default_factory=AgentConfig)


@dataclass
class TrainConfig(RunConfig):
    """A run.

    Attributes:
        dataset: Offline data; empty for none.
    """

    dataset: str = ""
    environment: EnvironmentConfig = field(default_factory=EnvironmentConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    agent: AgentConfig = field(default_factory=AgentConfig)


ANY, SOME, SHARE = (0.0, math.inf), (1.0, math.inf), (0.0, 1.0)

AGENT = {
    **dict.fromkeys(("exploration", "policy_lr", "imitation_lr"), ANY),
    "policy_ema": SHARE,
    **{f"{kind}.{name}": SHARE for kind in ("sac", "calql", "iql", "parl") for name in ("gamma", "tau")},
    **{f"{kind}.critic_lr": ANY for kind in ("sac", "calql", "iql", "parl")},
    **{f"{kind}.policy_lr": ANY for kind in ("sac", "calql", "iql")},
    **{f"{kind}.weight": ANY for kind in ("calql", "parl")},
    **{f"{kind}.temperature": (1e-6, math.inf) for kind in ("calql", "parl")},
    **{f"{kind}.expectile": SHARE for kind in ("iql", "parl")},
    **dict.fromkeys(("iql.temperature", "iql.largest_weight"), ANY),
}

RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, 2**63 - 1),
    **dict.fromkeys(("offline_updates", "imitation_updates", "online_steps"), ANY),
    **dict.fromkeys(("updates_per_step", "distil_per_update"), ANY),
    **dict.fromkeys(("evaluate_every", "evaluate_every_steps", "evaluation_episodes", "films"), ANY),
    **dict.fromkeys(("checkpoint_every", "log_every"), SOME),
    **dict.fromkeys(("data.rows", "data.batch", "data.chunk"), SOME),
    **dict.fromkeys(("data.gamma", "data.edge"), SHARE),
    **dict.fromkeys(("data.mix", "retrain.mix"), (-1, 1)),
    **dict.fromkeys(("data.extra", "retrain.extra", "retrain.offline_updates"), ANY),
    **dict.fromkeys(("environment.size", "environment.max_steps", "environment.parallel"), SOME),
    **dict.fromkeys(("environment.timeout", "environment.control_hz"), (1e-3, math.inf)),
    **dict.fromkeys(("encoder.project", "encoder.size"), SOME),
    "encoder.most_shift": ANY,
    **{f"{place}.{key}": interval for place in ("agent", "retrain.agent") for key, interval in AGENT.items()},
}
"""Least and greatest values that make sense."""


@dataclass
class OOOConfig(TrainConfig):
    """Offline retraining: a run that explores, and agents that are trained anew on what it found.

    Attributes:
        retrain: The third phase.
    """

    retrain: RetrainConfig = field(default_factory=RetrainConfig)


def parse_train_config(recipes: Sequence[str | Path], overrides: Sequence[str] = ()) -> TrainConfig:
    """Builds the settings of a run from recipes and overrides; see ``vie.settings.parse_settings``."""
    return parse_settings(TrainConfig, recipes, overrides, RECIPES, RANGES, HELP)


def parse_ooo_config(recipes: Sequence[str | Path], overrides: Sequence[str] = ()) -> OOOConfig:
    """Likewise those of offline retraining."""
    return parse_settings(OOOConfig, recipes, overrides, RECIPES, RANGES, "vie-rl ooo --help")
