"""Stable-Baselines3: an encoder as features extractor, for its on- and off-policy algorithms.

``PPO("CnnPolicy", env, policy_kwargs=dict(features_extractor_class=VieExtractor, features_extractor_kwargs=dict(
encoder=dict(source="runs/slow/encoder-la", mode="frozen"))))``; "MultiInputPolicy" where observations are mappings.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from rl_encoders.adapters.pixels import frames
from rl_encoders.encoder import VisualEncoder
from rl_encoders.loading import from_config
from vie import VieError

try:
    from gymnasium import spaces
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
except ImportError as error:
    raise VieError(f"the adapter needs Stable-Baselines3 ({error}): pip install 'vie[sb3]'") from error


class VieExtractor(BaseFeaturesExtractor):
    """An encoder between SB3's observations and its networks.

    SB3 moves the channels of pictures to the front and divides them by 255. This undoes both, exactly: the encoder is
    given the pixels that the camera gave. Pictures of 3k channels, as ``VecFrameStack`` makes them, are k frames.
    Algorithms that make several extractors hold the frozen part once.
    """

    def __init__(self, observation_space: spaces.Space[Any], encoder: Mapping[str, Any]) -> None:
        """Loads the encoder.

        Args:
            observation_space: As SB3 hands it over: of one picture, or of a mapping.
            encoder: Arguments of ``rl_encoders.load``; a mapping, because SB3 keeps it with a saved agent and makes
                every extractor from it anew.

        Raises:
            VieError: The space holds no picture where the encoder wants one.
        """
        loaded = from_config(encoder)
        super().__init__(observation_space, features_dim=loaded.output_dim)
        self.encoder = loaded
        self._pictures = {name: _channels_first(name, space) for name, space in self._cameras(observation_space)}

    def forward(self, observations: Tensor | dict[str, Tensor]) -> Tensor:
        """Vectors (B, features_dim) of what SB3's ``preprocess_obs`` gives."""
        if isinstance(observations, Tensor):
            encoded: Tensor = self.encoder(self._camera("", observations))
            return encoded
        restored = {
            name: self._camera(name, value) if name in self._pictures else value for name, value in observations.items()
        }
        encoded = self.encoder(restored)
        return encoded

    def _cameras(self, space: spaces.Space[Any]) -> Iterator[tuple[str, spaces.Space[Any]]]:
        if not isinstance(space, spaces.Dict):
            yield "", space
            return
        for name in self.encoder.heads.views or ("pixels",):
            if name not in space.spaces:
                raise VieError(f"the observations have no camera {name!r}: they have {', '.join(space.spaces)}")
            yield name, space.spaces[name]

    def _camera(self, name: str, scaled: Tensor) -> Tensor:
        cure = "leave normalize_images=True, its default, in policy_kwargs; the encoder undoes that"
        return frames(scaled, name, scaled=True, channels_first=self._pictures[name], cure=cure)


def _channels_first(name: str, space: spaces.Space[Any]) -> bool:
    if not isinstance(space, spaces.Box) or not is_image_space(space):
        raise VieError(f"{name or 'the observation'} is no picture ({space}): it must be uint8, from 0 to 255")
    first = is_image_space_channels_first(space)
    channels = space.shape[0 if first else -1]
    if channels % 3:
        raise VieError(f"{name or 'the observation'} has {channels} channels: give RGB pictures, or stacks of them")
    return first


def encoders(model: BaseAlgorithm) -> list[VisualEncoder]:
    """All encoders of an agent, those of its target networks too."""
    return [module for module in model.policy.modules() if isinstance(module, VisualEncoder)]


def verify(model: BaseAlgorithm, as_loaded: bool = False) -> None:
    """``VisualEncoder.verify`` for every encoder of an agent.

    Raises:
        VieError: There is none, or SB3 has done to it what it should not.
    """
    found = encoders(model)
    if not found:
        raise VieError("the agent has no encoder: give features_extractor_class=VieExtractor in policy_kwargs")
    for encoder in found:
        encoder.verify(as_loaded=as_loaded)


class UnfreezeCallback(BaseCallback):
    """Follows the encoders' schedule: ``model.learn(…, callback=UnfreezeCallback())``. Steps are the environment's."""

    def _on_step(self) -> bool:
        for name, part in self.model.policy.named_children():
            optimizer = getattr(part, "optimizer", None) or getattr(self.model.policy, "optimizer", None)
            targets = name.endswith("_target")
            for module in part.modules():
                if isinstance(module, VisualEncoder):
                    module.advance(self.num_timesteps, None if targets else optimizer)
        return True
