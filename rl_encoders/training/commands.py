"""What ``vie-rl train``, ``vie-rl ooo`` and ``vie-rl eval`` carry out."""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path

import yaml

from rl_encoders.agents.perception import Perception
from rl_encoders.environments import Environment, make_environment
from rl_encoders.replay.trajectory import Space
from rl_encoders.training.actor import Actor
from rl_encoders.training.build import bounded_agent, build_agent, build_eyes, gamma_of, parts_seen
from rl_encoders.training.data import read_data, space_of_run
from rl_encoders.training.evaluation import evaluate as evaluate_agent
from rl_encoders.training.evaluation import summary
from rl_encoders.training.inputs import INPUTS_NAME, NAMES, check_inputs, inputs_of, keep_inputs
from rl_encoders.training.loop import Training
from rl_encoders.training.mixture import Parted, transitions
from rl_encoders.training.policy import CONFIG_NAME, config_of, trained_agent, write_space
from rl_encoders.training.rates import check_rates
from rl_encoders.training.retraining import Comparison, retrain, value_bounds
from rl_encoders.training.settings import TrainConfig, parse_ooo_config, parse_train_config
from rl_encoders.training.storage import Stored, filled
from vie.distributed import ALONE
from vie.errors import VieError
from vie.files import locked, write_text_atomically
from vie.settings import dump_settings, flatten

FREE = (
    *("run", "device", "offline_updates", "online_steps", "evaluate_every", "evaluation_episodes", "log_every"),
    *("films", "checkpoint_every", "environment.timeout", "data.device", "encoder.cache", "environment.parallel"),
    "evaluate_every_steps",
)
"""Settings that may differ when a run goes on: they change no update that was taken."""


def train(recipes: Sequence[str | Path], overrides: Sequence[str]) -> dict[str, float]:
    """Carries a run out, or on; returns its last evaluation.

    Raises:
        VieError: A setting is wrong, what is there is another run, or data and environment disagree.
    """
    config = parse_train_config(recipes, overrides)
    _need_folder(config)
    _check_same(config)
    with opened_worlds(config) as worlds:
        space = space_of_run(config, worlds)
        eyes = build_eyes(config, space)
        check_rates(config, worlds, eyes)
        return carry_out(config, worlds, space, read_data(config, space, eyes), eyes)


def offline_retraining(recipes: Sequence[str | Path], overrides: Sequence[str]) -> Comparison:
    """OOO from start to end, or on: a run that explores, then agents trained anew on what it had found by some times.

    Returns:
        What those agents reach, beside the one that explored; see ``retrain``.

    Raises:
        VieError: As ``train``; or there is no time to retrain at.
    """
    config = parse_ooo_config(recipes, overrides)
    _need_folder(config)
    late = [steps for steps in config.retrain.at if not 0 <= steps <= config.online_steps]
    if late or not config.retrain.at:
        raise VieError(
            f"retrain.at={config.retrain.at} with online_steps={config.online_steps}: give steps of the environment "
            "that exploration comes to, as retrain.at=[5000,20000]"
        )
    own = {name.name: getattr(config, name.name) for name in fields(TrainConfig)}
    run, gamma = Path(config.run), gamma_of(config.agent)
    if gamma_of(config.retrain.agent) != gamma:
        raise VieError(
            f"the agents of both phases need one discount, not {gamma} and {gamma_of(config.retrain.agent)}: the "
            "returns in the data are discounted by it"
        )
    with opened_worlds(config) as worlds:
        explore = TrainConfig(**own | {"run": str(run / "explore")})
        space = space_of_run(explore, worlds)
        eyes = build_eyes(explore, space)
        check_rates(explore, worlds, eyes)
        offline = read_data(explore, space, eyes)
        carry_out(explore, worlds, space, list(offline), eyes)

        def train_anew(steps: int, data: list[Stored]) -> dict[str, float]:
            again = config.retrain
            changes = {
                "run": str(run / f"retrained-{steps}"),
                "agent": bounded_agent(again.agent, *value_bounds(data, gamma)),
                "data": replace(config.data, extra=again.extra, mix=again.mix),
                "offline_updates": again.offline_updates,
                "online_steps": 0,
            }
            return carry_out(TrainConfig(**own | changes), worlds, space, data, others=len(offline))

        return retrain(Path(explore.run), offline, config.retrain.at, train_anew, run)


def evaluate(run: Path, episodes: int, overrides: Sequence[str] = ()) -> dict[str, float]:
    """Evaluates what a run has come to, over some episodes; ``overrides`` may change what changes no update.

    Raises:
        VieError: There is no such run, it has no environment, or has learned nothing yet.
    """
    config = config_of(run, [*overrides, f"evaluation_episodes={episodes}"])
    _check_same(config)
    if not config.environment.name:
        raise VieError(f"{run} has no environment to act in: it was trained on data alone")
    with opened_worlds(replace(config, films=0)) as worlds:
        agent = trained_agent(config, worlds[0].space)
        return summary(
            evaluate_agent(
                lambda: Actor(agent, explore=False, chunk=config.data.chunk), worlds, episodes, config.seed, run.name
            )
        )


@contextmanager
def opened_worlds(config: TrainConfig) -> Iterator[list[Environment]]:
    """The environments of a run, as many as an evaluation uses at once; none without a name.

    They show what the agent sees, and where films are kept all that they have.
    """
    given = config.environment
    worlds: list[Environment] = []
    with ExitStack() as stack:
        for _ in range(given.parallel if given.name else 0):
            world = make_environment(
                given.name,
                config.seed,
                given.size,
                max_steps=given.max_steps,
                reward=given.reward,
                timeout=given.timeout,
                arguments=given.arguments,
                parts=None if config.films else parts_seen(config),
            )
            worlds.append(stack.enter_context(closing(world)))
        yield worlds


def carry_out(
    config: TrainConfig,
    worlds: Sequence[Environment],
    space: Space,
    data: list[Stored],
    eyes: Perception | None = None,
    others: int | None = None,
) -> dict[str, float]:
    """Trains a run, or goes on with it.

    Args:
        config: Its settings, which are kept beside it.
        worlds: Of ``opened_worlds``.
        space: Of ``space_of_run``.
        data: What it learns offline; the list is emptied.
        eyes: That have seen it and have learned nothing yet; None for others of the same settings, which see alike.
        others: How many of the trajectories come first and are not the agent's own, so that ``data.mix`` is their
            share in a batch; None draws all alike.

    Returns:
        The last evaluation.
    """
    settings = replace(config, data=replace(config.data, gamma=gamma_of(config.agent)))
    agent = build_agent(config, space, eyes)
    first, inputs = transitions(data[:others], settings.data), inputs_of(agent.eyes, data)
    replay = filled(data, agent.eyes, agent.device, settings.data, emptied=True) if data else None
    source = replay if replay is None or others is None else Parted(replay, first, settings.data.mix)
    with locked(Path(config.run), ALONE):
        _check_same(config)
        check_inputs(Path(config.run), inputs)
        training = Training(settings, agent, source, worlds, config.environment.control_hz)
        write_space(Path(config.run), space)
        keep_inputs(Path(config.run), inputs)
        write_text_atomically(Path(config.run) / CONFIG_NAME, dump_settings(config))
        return training.train()


def _need_folder(config: TrainConfig) -> None:
    if not config.run:
        raise VieError("the run has no folder: give it as run=FOLDER")


def _check_same(config: TrainConfig) -> None:
    path = Path(config.run) / CONFIG_NAME
    if not path.exists():
        return
    known = list(flatten(asdict(TrainConfig())))
    # As they come back from a file, where keys are words.
    given, default, before = (
        flatten(json.loads(json.dumps(one)), known)
        for one in (asdict(config), asdict(TrainConfig()), yaml.safe_load(path.read_text()))
    )
    told = NAMES.values() if (path.parent / INPUTS_NAME).exists() else ()  # by content, wherever they lie now
    for key, value in (default | before).items():
        if key not in (*FREE, *told) and key in given and value != given[key]:
            raise VieError(
                f"{config.run} is a run with {key}={value}, not {given[key]}: give another run=FOLDER, or that setting"
            )
