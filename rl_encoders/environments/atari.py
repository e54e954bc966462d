"""``ale:Game``: Atari with continuous actions (CALE: radius and angle of the stick, and the button)."""

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from rl_encoders.environments.kinds import Opened, need


def open_environment(task: str, size: int, arguments: Mapping[str, Any]) -> Opened:
    """Opens version 5 of a game as ``ale:Pong``."""
    need("ale_py", "atari")
    if f"ALE/{task}-v5" not in gym.registry:
        # Importing it registers its games only if Gymnasium is at least 1.1: it hides a failed import of its own.
        need("ale_py.registration", "atari").register_v5_envs()
    env = gym.make(f"ALE/{task}-v5", obs_type="rgb", **{"continuous": True, **arguments})
    return Opened(
        env, lambda seen: {"pixels": np.asarray(seen)}, None, max_steps=_steps(env), packages=("gymnasium", "ale-py")
    )


def _steps(env: gym.Env[Any, Any]) -> int | None:
    # The emulator counts frames, and cuts off by itself.
    settings = env.spec.kwargs if env.spec else {}
    frames, skip = settings.get("max_num_frames_per_episode"), settings.get("frameskip")
    return frames // skip if isinstance(frames, int) and isinstance(skip, int) else None
