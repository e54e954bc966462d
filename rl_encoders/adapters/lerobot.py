"""LeRobot: an encoder where its ACT and Diffusion policies have a ResNet, trained, saved and loaded with them.

``VieACTPolicy(VieACTConfig(encoder={"source": "runs/slow/encoder-la"}, …))``; on LeRobot's command line
``lerobot-train --policy.discover_packages_path=rl_encoders.adapters.lerobot --policy.type=vie_act
--policy.encoder='{source: runs/slow/encoder-la}' …``, and ``vie_diffusion`` alike.

The policy reads the encoder's last map as it reads its ResNet's: by attention in ACT, by spatial softmax in Diffusion.
LeRobot hands over pictures divided by 255, which is undone, and normalises them unless its config says otherwise: here
it does. Every picture is a still, for dynamic encoders too.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rl_encoders.encoder import Heads, VisualEncoder
from rl_encoders.loading import from_config
from rl_encoders.pooling import Pool
from vie import VieError

try:
    from lerobot.configs.policies import PreTrainedConfig
    from lerobot.configs.types import NormalizationMode
    from lerobot.policies.act.configuration_act import ACTConfig
    from lerobot.policies.act.modeling_act import ACTPolicy
    from lerobot.policies.act.processor_act import make_act_pre_post_processors
    from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
    from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy, SpatialSoftmax
    from lerobot.policies.diffusion.processor_diffusion import make_diffusion_pre_post_processors
except ImportError as error:
    raise VieError(f"the adapter needs LeRobot ({error}): pip install 'vie[lerobot]'") from error

# LeRobot's --policy.discover_packages_path imports what it is given and looks for modules below it.
__path__: list[str] = []

# LeRobot finds the processors of a policy by these names.
make_vie_act_pre_post_processors = make_act_pre_post_processors
make_vie_diffusion_pre_post_processors = make_diffusion_pre_post_processors

RESNET_S = (
    "vision_backbone",
    "pretrained_backbone_weights",
    "replace_final_stride_with_dilation",
    "use_group_norm",
    "resize_shape",
)
"""What LeRobot's configs say of the ResNet that is not there."""


def _pixels_as_they_are(config: type[Any]) -> dict[str, NormalizationMode]:
    theirs = config.__dataclass_fields__["normalization_mapping"].default_factory()
    return {**theirs, "VISUAL": NormalizationMode.IDENTITY}


@PreTrainedConfig.register_subclass("vie_act")
@dataclass
class VieACTConfig(ACTConfig):
    """``ACTConfig``, whose ResNet is an encoder.

    Attributes:
        encoder: Arguments of ``rl_encoders.load``, but for those of what would be learned on top: the policy learns
            that. They are saved with the policy, which needs the same source when it is loaded.
        vision_backbone: No network of torchvision, so that LeRobot's own policy refuses the config.
    """

    encoder: dict[str, Any] = field(default_factory=dict)
    vision_backbone: str = "resnet_replaced_in_VieACTPolicy"
    pretrained_backbone_weights: str | None = None
    normalization_mapping: dict[str, NormalizationMode] = field(default_factory=lambda: _pixels_as_they_are(ACTConfig))


@PreTrainedConfig.register_subclass("vie_diffusion")
@dataclass
class VieDiffusionConfig(DiffusionConfig):
    """``DiffusionConfig``, whose ResNet is an encoder; else as ``VieACTConfig``. Its random crops come before."""

    encoder: dict[str, Any] = field(default_factory=dict)
    vision_backbone: str = "resnet_replaced_in_VieDiffusionPolicy"
    pretrained_backbone_weights: str | None = None
    use_group_norm: bool = False
    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: _pixels_as_they_are(DiffusionConfig)
    )


class Backbone(nn.Module):
    """From pictures, as LeRobot has them, to an encoder's last map.

    Attributes:
        encoder: Of whose parts on top of the trunk none is left.
    """

    def __init__(self, encoder: Mapping[str, Any]) -> None:
        """Loads the encoder.

        Args:
            encoder: Arguments of ``rl_encoders.load``.

        Raises:
            VieError: They ask for what the policy does itself, or what LeRobot has no place for.
        """
        super().__init__()
        given = encoder.get("init_args", {}) if "class_path" in encoder else encoder
        if tops := [part.name for part in fields(Heads) if part.name in given]:
            raise VieError(
                f"the encoder is asked for {', '.join(tops)}: LeRobot's policy reads the last map of every camera by "
                "itself, so leave this out"
            )
        # A pool of maps, so that these are what is kept; it goes, as there is nothing to be learned of it.
        self.encoder = from_config({**given, "pool": "spatial_embeddings", "pool_arguments": {"features": 1}})
        self.encoder.pools = nn.ModuleList([Pool()])
        if len(self.encoder.schedule.trained) > 1:
            raise VieError("LeRobot gives its optimizer to nobody between updates: give train_from one stage")

    @property
    def map_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the map, whatever the pictures' size."""
        channels, _, height, width = self.encoder.kept_shape
        return channels, height, width

    def forward(self, pictures: Tensor) -> Tensor:
        """Maps (B, C, h, w) float32 of pictures (B, 3, H, W): uint8, or such divided by 255.

        Where LeRobot has augmented pictures, their pixels are rounded to the next of 256.

        Raises:
            VieError: The numbers are no pixels.
        """
        if pictures.dtype != torch.uint8:
            if not bool(((pictures >= 0) & (pictures <= 1)).all()):
                raise VieError(
                    "the policy's pictures are not from 0 to 1: something normalises them ahead of the encoder, which "
                    "does so itself; make the preprocessor by make_pre_post_processors(policy.config, …)"
                )
            pictures = (pictures * 255).round().to(torch.uint8)
        maps: Tensor = self.encoder.features(pictures.movedim(1, -1).unsqueeze(1))
        return maps.mean(dim=2)


class _FeatureMap(Backbone):
    """As ACT takes it."""

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"feature_map": super().forward(pictures)}


class _Seeing(nn.Module):
    """What the policies have in common."""

    config: Any
    config_class: type[Any]

    def __init__(self, config: Any, **arguments: Any) -> None:
        """Makes LeRobot's policy, and puts an encoder into the place of its ResNet.

        Args:
            config: Of this policy.
            arguments: Of LeRobot's factories.

        Raises:
            VieError: The config is another policy's, has no cameras, or says something of the ResNet or its pixels.
        """
        _check(config, self.config_class)
        said, config.vision_backbone = config.vision_backbone, "resnet18"  # made, and thrown away
        try:
            super().__init__(config, **arguments)
        finally:
            config.vision_backbone = said
        self._put_in(config)

    def _put_in(self, config: Any) -> None:
        raise NotImplementedError

    def get_optim_params(self) -> list[dict[str, Any]]:
        """Groups for an optimizer: everything else at its rate, then the encoder's trained stages at theirs.

        The topmost of these has ACT's ``optimizer_lr_backbone``, in Diffusion ``optimizer_lr``, where ``layer_decay``
        is 1; see ``VisualEncoder.param_groups``.
        """
        found = encoders(self)
        held = {id(parameter) for encoder in found for parameter in encoder.parameters()}
        rate = getattr(self.config, "optimizer_lr_backbone", self.config.optimizer_lr)
        groups = [group for encoder in found for group in encoder.param_groups(rate) if group["params"]]
        return [{"params": [value for value in self.parameters() if id(value) not in held]}, *groups]


class VieACTPolicy(_Seeing, ACTPolicy):
    """LeRobot's ACT, which sees through an encoder."""

    config_class = VieACTConfig
    name = "vie_act"

    def _put_in(self, config: Any) -> None:
        backbone = _FeatureMap(config.encoder)
        into = nn.Conv2d(backbone.map_shape[0], config.dim_model, kernel_size=1)
        _replace(self, "model.backbone", backbone)
        _replace(self, "model.encoder_img_feat_input_proj", into)


class VieDiffusionPolicy(_Seeing, DiffusionPolicy):
    """LeRobot's Diffusion Policy, which sees through an encoder."""

    config_class = VieDiffusionConfig
    name = "vie_diffusion"

    def _put_in(self, config: Any) -> None:
        several = config.use_separate_rgb_encoder_per_camera
        for camera in [f".{number}" for number in range(len(config.image_features))] if several else [""]:
            backbone = Backbone(config.encoder)
            if backbone.map_shape[1:] == (1, 1):
                raise VieError(
                    f"the last map of {backbone.encoder.trunk.stream.model_name} is one place, and spatial softmax "
                    "finds where in it something is: give it larger pictures by size=PIXELS"
                )
            pool = SpatialSoftmax(backbone.map_shape, num_kp=config.spatial_softmax_num_keypoints)
            _replace(self, f"diffusion.rgb_encoder{camera}.backbone", backbone)
            _replace(self, f"diffusion.rgb_encoder{camera}.pool", pool)


def encoders(policy: nn.Module) -> list[VisualEncoder]:
    """All encoders of a policy: one, or one for each camera."""
    return [module for module in policy.modules() if isinstance(module, VisualEncoder)]


def verify(policy: nn.Module, optimizer: Optimizer | None = None, as_loaded: bool = False) -> None:
    """``VisualEncoder.verify`` for every encoder of a policy.

    Raises:
        VieError: There is none, or LeRobot has done to it what it should not.
    """
    found = encoders(policy)
    if not found:
        raise VieError("the policy has no encoder: make it with VieACTConfig or VieDiffusionConfig")
    for encoder in found:
        encoder.verify(optimizer, as_loaded)


def _check(config: Any, wanted: type[Any]) -> None:
    if not isinstance(config, wanted):
        raise VieError(
            f"the config is a {type(config).__name__}: give a {wanted.__name__}, or make the policy of its own class"
        )
    if not config.image_features:
        raise VieError("the policy has no cameras (input_features of type VISUAL), so an encoder has nothing to see")
    for name, camera in config.image_features.items():
        if len(camera.shape) != 3 or camera.shape[0] != 3:
            raise VieError(f"{name} has the shape {tuple(camera.shape)}: LeRobot's pictures are (3, H, W)")
    for name in RESNET_S:
        if getattr(config, name, None) != getattr(wanted, name, None):
            raise VieError(f"{name}={getattr(config, name)} is for the ResNet that the encoder replaces: leave it out")
    mode = config.normalization_mapping.get("VISUAL", NormalizationMode.IDENTITY)
    if mode != NormalizationMode.IDENTITY:
        raise VieError(
            f"normalization_mapping has VISUAL={mode.name}: the encoder normalises pixels as its weights want it, so "
            "leave VISUAL at IDENTITY"
        )


def _replace(policy: nn.Module, name: str, module: nn.Module) -> None:
    try:
        policy.set_submodule(name, module, strict=True)
    except AttributeError as error:
        raise VieError(
            f"this LeRobot's {type(policy).__name__} has nothing in the place of {name} ({error}): install one from "
            "0.4.4 to 0.6.1"
        ) from error
