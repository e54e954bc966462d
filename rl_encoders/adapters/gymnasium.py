"""Gymnasium: environments whose observations are vectors of a frozen encoder instead of pictures."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from rl_encoders.clip_buffer import ClipBuffer
from rl_encoders.encoder import VisualEncoder
from vie import VieError

try:
    import gymnasium as gym
    from gymnasium import spaces
except ImportError as error:
    raise VieError(f"the adapter needs Gymnasium ({error}): pip install 'vie[gymnasium]'") from error

EMBEDDING = "embedding"


class EncodeObservation(gym.Wrapper[Any, Any, Any, Any]):
    """One environment. Pictures and proprioception become one vector, float32.

    Where observations are mappings with more than the encoder takes, they stay mappings: the rest, and the vector as
    ``"embedding"``.
    """

    def __init__(self, env: gym.Env[Any, Any], encoder: VisualEncoder, control_hz: float | None = None) -> None:
        """Wraps an environment.

        Args:
            env: Its observations are uint8 pictures (H, W, 3), or mappings with such ones.
            encoder: Frozen, with nothing learned on top: a replay buffer would hold vectors that have changed since.
            control_hz: Steps in a second, for an encoder of clips: it then sees the last frames, as far apart in time
                as it was trained on. Without it, it sees every picture as a still.
        """
        super().__init__(env)
        self._encode = _Encode(encoder, 1, control_hz)
        self.observation_space = _space(env.observation_space, self._encode)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        return self._one(observation, begins=True), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._one(observation, begins=False), reward, terminated, truncated, info

    def _one(self, observation: Any, begins: bool) -> Any:
        return _pick(self._encode(_batch(observation), np.array([begins])), 0)


class VectorEncodeObservation(gym.vector.VectorWrapper):
    """Several environments at once: one forward pass for all. Else as ``EncodeObservation``."""

    def __init__(
        self, env: gym.vector.VectorEnv[Any, Any, Any], encoder: VisualEncoder, control_hz: float | None = None
    ) -> None:
        super().__init__(env)
        mode = (env.metadata or {}).get("autoreset_mode")
        self._same_step = mode is not None and getattr(mode, "value", mode) == "SameStep"
        self._encode = _Encode(encoder, env.num_envs, control_hz)
        self._single = env.single_observation_space
        self.single_observation_space = _space(self._single, self._encode)
        self.observation_space = gym.vector.utils.batch_space(self.single_observation_space, env.num_envs)
        self._begins = np.ones(env.num_envs, dtype=bool)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observations, infos = self.env.reset(seed=seed, options=options)
        self._begins[:] = False
        if options and "reset_mask" in options and self._encode.remembers:
            raise VieError(
                "clips of some environments alone cannot be begun anew: let the environments reset themselves"
            )
        return self._encode(observations, np.ones(self.num_envs, dtype=bool)), infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        ended = np.logical_or(terminated, truncated)
        # An environment that has ended gives its next episode's first observation now, or at the next step.
        begins = ended if self._same_step else self._begins
        if self._same_step and "final_obs" in infos:
            infos = {**infos, "final_obs": self._final(infos["final_obs"], ended)}
        encoded = self._encode(observations, begins)
        self._begins = ended.copy()
        return encoded, rewards, terminated, truncated, infos

    def _final(self, finals: Any, ended: Any) -> Any:
        """Last observations of episodes, before the buffers begin the next ones."""
        encoded = np.empty(self.num_envs, dtype=object)
        for number in np.flatnonzero(ended):
            one = (
                {name: value[number] for name, value in finals.items()}
                if isinstance(finals, Mapping)
                else finals[number]
            )
            batch = (
                {name: np.asarray(value)[None] for name, value in one.items()}
                if isinstance(one, Mapping)
                else np.asarray(one)[None]
            )
            found = self._encode(batch, np.array([False]), [int(number)])
            encoded[number] = {k: v[0] for k, v in found.items()} if isinstance(found, dict) else found[0]
        return encoded


class _Encode:
    """Observations of some environments into vectors; remembers the frames that a clip needs."""

    def __init__(self, encoder: VisualEncoder, count: int, control_hz: float | None) -> None:
        learned = [name for name, value in encoder.named_parameters() if value.requires_grad]
        if learned:
            raise VieError(
                f"the encoder learns ({learned[0]} and {len(learned) - 1} more), and a wrapper gives no gradient: "
                "load it with mode=frozen, pool=mean or cls, and no projection, or use the adapter of the agent's "
                "library"
            )
        if encoder.heads.history > 1:
            raise VieError(
                "history is for observations that hold several clips: wrap in gymnasium's frame stack instead"
            )
        self.encoder = encoder.eval()
        several = bool(encoder.heads.views or encoder.heads.proprio)
        self.cameras = encoder.heads.cameras if several else []
        self.taken = encoder.heads.parts if several else []
        clips = encoder.sampling.frames > 1 and control_hz is not None
        self._buffers = (
            [{name: ClipBuffer(encoder.sampling, control_hz) for name in self.cameras or [""]} for _ in range(count)]
            if clips and control_hz is not None
            else None
        )

    @property
    def remembers(self) -> bool:
        """Whether a vector depends on earlier observations."""
        return self._buffers is not None

    def __call__(self, observations: Any, begins: Any, which: Sequence[int] | None = None) -> Any:
        if isinstance(observations, Mapping):
            taken: Any = {name: np.asarray(observations[name]) for name in self.taken}
            for name in self.cameras:
                taken[name] = self._clips(name, taken[name], begins, which)
        else:
            taken = self._clips("", np.asarray(observations), begins, which)
        with torch.no_grad():
            encoded = self.encoder(taken).cpu().numpy()
        if not isinstance(observations, Mapping):
            return encoded
        rest = {name: value for name, value in observations.items() if name not in self.taken}
        return {**rest, EMBEDDING: encoded} if rest else encoded

    def _clips(self, name: str, frames: Any, begins: Any, which: Sequence[int] | None) -> Any:
        if self._buffers is None:
            return frames
        buffers = [self._buffers[number][name] for number in (which or range(len(frames)))]
        return np.stack(
            [
                buffer.reset(frame) if new else buffer.append(frame)
                for buffer, frame, new in zip(buffers, frames, begins, strict=True)
            ]
        )


def _batch(observation: Any) -> Any:
    if isinstance(observation, Mapping):
        return {name: np.asarray(value)[None] for name, value in observation.items()}
    return np.asarray(observation)[None]


def _pick(batch: Any, number: int) -> Any:
    return {name: value[number] for name, value in batch.items()} if isinstance(batch, Mapping) else batch[number]


def _space(before: spaces.Space[Any], encode: _Encode) -> spaces.Space[Any]:
    vector = spaces.Box(-np.inf, np.inf, (encode.encoder.output_dim,), np.float32)
    if not isinstance(before, spaces.Dict):
        return vector
    if not encode.taken:
        raise VieError(
            f"the environment's observations are a mapping of {', '.join(before.spaces)}: load the encoder with "
            "views=[NAME]"
        )
    for name in encode.taken:
        if name not in before.spaces:
            raise VieError(f"the environment's observations have no {name!r}: they have {', '.join(before.spaces)}")
    rest = {name: space for name, space in before.spaces.items() if name not in encode.taken}
    return spaces.Dict({**rest, EMBEDDING: vector}) if rest else vector
