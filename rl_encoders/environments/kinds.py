"""What each kind of environment brings along, and the kinds by their prefixes."""

import importlib
import importlib.metadata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from rl_encoders.replay.trajectory import Array
from vie import VieError

Demonstration = Callable[[Any], npt.NDArray[np.floating[Any]]]
"""A scripted policy: from the environment's own observation to its own action."""


@dataclass(frozen=True)
class Opened:
    """An environment of some kind.

    Attributes:
        env: Itself.
        look: From its own observation to the named parts of ours that it holds.
        rendered: Name of the picture that rendering it gives; None where ``look`` gives the pictures.
        max_steps: After which an episode is cut off; None if nobody says.
        demonstrations: Scripted policies by name.
        packages: Whose versions decide what it does.
    """

    env: gym.Env[Any, Any]
    look: Callable[[Any], Mapping[str, Array]]
    rendered: str | None = "pixels"
    max_steps: int | None = None
    demonstrations: Mapping[str, Demonstration] = field(default_factory=dict)
    packages: tuple[str, ...] = ("gymnasium",)


class Kind(Protocol):
    """Opens an environment of one kind."""

    def __call__(self, task: str, size: int, arguments: Mapping[str, Any]) -> Opened:
        """Opens one.

        Args:
            task: What follows the prefix.
            size: Side in pixels of the pictures that are wanted; those that come may differ.
            arguments: For its constructor.
        """
        ...


KINDS = {
    "ale": "rl_encoders.environments.atari",
    "gym": "rl_encoders.environments.gymnasium_ids",
    "metaworld": "rl_encoders.environments.metaworld",
    "robotics": "rl_encoders.environments.robotics",
    "ogbench": "rl_encoders.environments.ogbench",
    "maze": "rl_encoders.environments.drawn_mazes",
}
"""Modules by prefix; imported when one is asked for, as their packages are extras."""


def open_kind(name: str, size: int, arguments: Mapping[str, Any]) -> Opened:
    """Opens an environment.

    Args:
        name: ``PREFIX:TASK``.
        size: As ``Kind`` takes it.
        arguments: Likewise.

    Raises:
        VieError: There is no such kind or task, or its package is missing.
    """
    prefix, _, task = name.partition(":")
    if prefix not in KINDS or not task:
        raise VieError(f"{name} is no environment: write one of {', '.join(f'{kind}:TASK' for kind in KINDS)}")
    kind: Kind = importlib.import_module(KINDS[prefix]).open_environment
    try:
        return kind(task, size, arguments)
    except (gym.error.Error, TypeError, ImportError) as error:
        raise VieError(f"{name} cannot be made ({' '.join(str(error).split())}): see its name and arguments") from error


def need(package: str, extra: str) -> Any:
    """Imports a package that an extra brings.

    Raises:
        VieError: It is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise VieError(f"{package} is missing ({error}): pip install 'vie[{extra}]'") from error


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Versions of packages by their names."""
    return {name: importlib.metadata.version(name) for name in packages}
