"""Environments in processes of their own: one that hangs or crashes is ended, and says so, and can be begun anew."""

import multiprocessing
import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from pebble import ProcessExpired, ProcessPool

from rl_encoders.environments.kinds import open_kind, versions
from rl_encoders.environments.plain import PlainEnvironment, Reward
from rl_encoders.replay.trajectory import Space
from rl_encoders.rollout import Parts
from vie import VieError

MADE = "being made"


@dataclass(frozen=True)
class Wanted:
    """Which environment; see ``make_environment``."""

    name: str
    size: int
    max_steps: int | None
    reward: Reward
    arguments: Mapping[str, Any]
    parts: Sequence[str] | None


@dataclass(frozen=True)
class _Facts:
    """What the process tells of its environment."""

    space: Space
    spaces: tuple[gym.Space[Any], gym.Space[Any]]
    max_steps: int
    control_hz: float | None
    policies: tuple[str, ...]
    versions: Mapping[str, str]
    bounds: tuple[list[float], list[float]]


def make_environment(
    name: str,
    seed: int = 0,
    size: int = 64,
    *,
    max_steps: int | None = None,
    reward: Reward = "task",
    timeout: float = 60.0,
    arguments: Mapping[str, Any] | None = None,
    parts: Sequence[str] | None = None,
) -> "Environment":
    """Makes an environment of any kind.

    Args:
        name: ``ale:Pong`` (continuous actions; extra ``atari``), ``gym:Pendulum-v1`` or ``gym:module:ID-v0`` (any with
            a Box of actions; rendered if its observations hold no picture), ``metaworld:door-open-v3``,
            ``robotics:AdroitHandDoor-v1``, ``robotics:PointMaze_UMaze-v3``, ``maze:PointMaze_UMaze-v3`` (the same from
            above, which needs no renderer), ``ogbench:visual-cube-single-play-singletask-v0``.
        seed: Of its episodes: that of ``reset()`` number k is ``episode_seed(seed, k)``.
        size: Side of the pictures in pixels.
        max_steps: After which an episode is truncated; by default as the environment has it.
        reward: Its own; or 1 for success, which then ends the episode too, and 0 before.
        timeout: Seconds that making it, a reset or a step may take.
        arguments: For its own constructor.
        parts: Of observations that are wanted, by name; it is rendered only for a picture that is. None for all.

    Raises:
        VieError: It cannot be made, or lacks a part; an extra is missing, which is named.
    """
    return Environment(Wanted(name, size, max_steps, reward, dict(arguments or {}), parts), seed, timeout)


def episode_seed(seed: int, number: int) -> int:
    """Seed of an episode: those of different runs and episodes have nothing to do with each other."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


class Environment(gym.Env[Parts, npt.NDArray[np.float32]]):
    """An environment behind a process.

    Attributes:
        name: As it was asked for.
        space: What it gives and takes, for ``Trajectory.check``.
        max_steps: After which an episode is truncated.
        control_hz: Steps in a second of what it simulates; None if it does not tell.
        policies: Names of its scripted policies.
        versions: Of the packages that decide what it does.
        bounds: The least and the largest of each component of its own actions, which it makes of those in [-1, 1].
    """

    def __init__(self, wanted: Wanted, seed: int, timeout: float) -> None:
        self.wanted, self.name, self.timeout = wanted, wanted.name, timeout
        self.seed, self.episodes = seed, 0
        self._pool = ProcessPool(1, initializer=_on_its_own, context=_context())
        self._end = weakref.finalize(self, _stop, self._pool)
        try:
            facts: _Facts = self._ask(MADE, _make, wanted)
        except VieError:
            self.close()
            raise
        self.space, self.max_steps, self.policies = facts.space, facts.max_steps, facts.policies
        self.versions, self.control_hz, self.bounds = facts.versions, facts.control_hz, facts.bounds
        self.observation_space, self.action_space = facts.spaces

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Parts, dict[str, Any]]:
        """Begins an episode, with a seed of its own or the next of this environment.

        Raises:
            VieError: The environment raises, crashes or hangs; it may be reset again.
        """
        if seed is None:
            seed = episode_seed(self.seed, self.episodes)
        self.episodes += 1
        return self._ask("its reset", _reset, self.wanted, seed, options)

    def step(self, action: npt.NDArray[np.float32]) -> tuple[Parts, float, bool, bool, dict[str, Any]]:
        """Takes an action (A,) in [-1, 1]; else as ``reset``."""
        return self._ask("a step", _step, np.asarray(action, np.float32))

    def demonstrate(self, name: str) -> npt.NDArray[np.float32]:
        """What a scripted policy of the environment would do now: an action in [-1, 1]; else as ``reset``."""
        return self._ask("its policy", _demonstrate, name)

    def close(self) -> None:
        """Ends its process."""
        self._end()

    def _ask(self, when: str, function: Callable[..., Any], *arguments: Any) -> Any:
        if not self._end.alive:
            raise VieError(f"{self.name} is closed: make it again")
        try:
            return self._pool.schedule(function, arguments, timeout=self.timeout).result()
        except VieError:
            raise
        except TimeoutError as error:
            raise VieError(
                f"{self.name} hung: no answer to {when} within {self.timeout:g} seconds; mend it, or raise timeout if "
                "it is only slow"
            ) from error
        except (ProcessExpired, BrokenProcessPool, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not isinstance(error, BrokenProcessPool) and self._pool.active:
                raise self._raised(when, error) from error
            self._renew()
            cure = "see whether memory ran out"
            if when == MADE:
                # Its process imports the script that began it.
                cure += ", and whether the script is a file whose work stands under if __name__ == '__main__'"
            raise VieError(f"{self.name} crashed in {when} ({error}): {cure}") from error
        except Exception as error:  # whatever an environment raises
            raise self._raised(when, error) from error

    def _raised(self, when: str, error: Exception) -> VieError:
        return VieError(
            f"{self.name} raised {type(error).__name__} in {when} ({' '.join(str(error).split())}): mend it"
        )

    def _renew(self) -> None:
        if not self._pool.active:
            self._end()
            self._pool = ProcessPool(1, initializer=_on_its_own, context=_context())
            self._end = weakref.finalize(self, _stop, self._pool)


_here: dict[Wanted | str, PlainEnvironment] = {}
"""In the process of an environment: the environment."""


def _make(wanted: Wanted) -> _Facts:
    env = _environment(wanted)
    return _Facts(
        env.space,
        (env.observation_space, env.action_space),
        env.max_steps,
        env.control_hz,
        tuple(env.opened.demonstrations),
        versions(env.opened.packages),
        (env.own_low.tolist(), env.own_high.tolist()),
    )


def _reset(wanted: Wanted, seed: int, options: dict[str, Any] | None) -> Any:
    return _environment(wanted).reset(seed=seed, options=options)


def _step(action: npt.NDArray[np.float32]) -> Any:
    return _begun().step(action)


def _demonstrate(name: str) -> npt.NDArray[np.float32]:
    return _begun().demonstrate(name)


def _environment(wanted: Wanted) -> PlainEnvironment:
    if "" not in _here:
        # Without a display MuJoCo finds a renderer only if it is told to.
        if not os.environ.get("DISPLAY"):
            os.environ.setdefault("MUJOCO_GL", "egl")
        opened = open_kind(wanted.name, wanted.size, wanted.arguments)
        _here[""] = PlainEnvironment(wanted.name, opened, wanted.size, wanted.max_steps, wanted.reward, wanted.parts)
    return _here[""]


def _begun() -> PlainEnvironment:
    if "" not in _here:
        raise VieError("the process of the environment was ended in the middle of an episode: reset it")
    return _here[""]


def _context() -> multiprocessing.context.BaseContext:
    # Renderers and CUDA do not survive a fork.
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rl_encoders.environments.guarded"])
    return context


def _on_its_own() -> None:
    # A signal to all processes of a job asks it to stop; it needs its environments until it does.
    os.setsid()


def _stop(pool: ProcessPool) -> None:
    pool.stop()
    pool.join()
