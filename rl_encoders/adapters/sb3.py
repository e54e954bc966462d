"""Stable-Baselines3: an encoder as features extractor, for its on- and off-policy algorithms.

``PPO("CnnPolicy", env, policy_kwargs=dict(features_extractor_class=VieExtractor, features_extractor_kwargs=dict(
encoder=dict(source="runs/slow/encoder-la", mode="frozen"))))``; "MultiInputPolicy" where observations are mappings.
"""

from collections.abc import Iterator, Mapping
from operator import attrgetter
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.optim import Optimizer

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

Algorithm = TypeVar("Algorithm", bound=BaseAlgorithm)


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
        if loaded.schedule.layer_decay != 1:
            raise VieError("layer_decay: Stable-Baselines3 gives all parameters one learning rate: leave it out")
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
        for name in self.encoder.heads.cameras:
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
    return _within(model.policy)


def verify(model: BaseAlgorithm, as_loaded: bool = False) -> None:
    """``VisualEncoder.verify`` for every encoder of an agent.

    Raises:
        VieError: There is none, SB3 has done to it what it should not, or its schedule is not followed.
    """
    found = encoders(model)
    if not found:
        raise VieError("the agent has no encoder: give features_extractor_class=VieExtractor in policy_kwargs")
    for encoder in found:
        encoder.verify(as_loaded=as_loaded)
        if encoder.schedule.first_trained(encoder.trunk, model.num_timesteps) < encoder.trunk.first_trained:
            raise VieError("the encoder's schedule is not followed: give callback=UnfreezeCallback() to learn()")
    for optimizer, parts in _optimizers(model):
        for encoder in parts:
            encoder.verify(optimizer)


class UnfreezeCallback(BaseCallback):
    """Follows the encoders' schedule: ``model.learn(…, callback=UnfreezeCallback())``. Steps are the environment's."""

    def _on_step(self) -> bool:
        for encoder in encoders(self.model):
            encoder.advance(self.num_timesteps)
        _enter(self.model)
        return True


def load(kind: type[Algorithm], path: str, **arguments: Any) -> Algorithm:
    """``kind.load(path, …)`` of an agent in which a schedule has unfrozen something.

    SB3 reads states of optimizers into new ones, which know nothing yet of what was unfrozen.
    """

    class Loading(kind):  # type: ignore[valid-type, misc]
        def set_parameters(self, load_path_or_dict: Any, exact_match: bool = True, device: Any = "auto") -> None:
            for name, state in load_path_or_dict.items():
                part = attrgetter(name)(self)
                if isinstance(part, nn.Module):
                    part.load_state_dict(state)
            _enter(self)
            super().set_parameters(load_path_or_dict, exact_match, device)

    model: Algorithm = Loading.load(path, **arguments)
    model.__class__ = kind
    return model


def _enter(model: BaseAlgorithm) -> None:
    """Has optimizers hold what was unfrozen, in the one group whose rate SB3 sets."""
    for optimizer, parts in _optimizers(model):
        group = optimizer.param_groups[0]
        trunks = [
            value
            for each in parts
            for number in range(len(each.trunk.stages))
            for value in each.trunk.trained_parameters(number)
        ]
        others = {id(value) for value in group["params"]} - {id(value) for value in trunks}
        if len(others) + len(trunks) > len(group["params"]):
            # In one order however they came, as states are saved by their numbers.
            group["params"] = [value for value in group["params"] if id(value) in others] + trunks


def _optimizers(model: BaseAlgorithm) -> Iterator[tuple[Optimizer, list[VisualEncoder]]]:
    """Each optimizer of a policy and the encoders that it trains; targets have none.

    A critic that shares the actor's extractor leaves it to the actor's optimizer, whether or not its own holds it.
    """
    trained = [part for name, part in model.policy.named_children() if not name.endswith("_target")]
    whole = getattr(model.policy, "optimizer", None)
    if whole:
        yield whole, _within(*trained)
        return
    for part in trained:
        optimizer = getattr(part, "optimizer", None)
        if optimizer:
            yield optimizer, [] if getattr(part, "share_features_extractor", False) else _within(part)


def _within(*parts: nn.Module) -> list[VisualEncoder]:
    return [module for module in nn.ModuleList(parts).modules() if isinstance(module, VisualEncoder)]
