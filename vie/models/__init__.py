"""The streams, and the factory that builds them by name."""

from vie.models import (  # noqa: F401  (importing a stream registers it)
    fast,
    hf_trunks,
    pytorchvideo_trunks,
    resnet3d,
    single,
    slow,
    slowfast,
    timm_trunks,
    torchvision_images,
    torchvision_networks,
    torchvision_video,
    trn,
)
from vie.models.hf_trunks import from_hugging_face
from vie.models.registry import create_model, is_model, list_models, register_model
from vie.models.stream import TAPS, Stream
from vie.models.two_pathway import join_streams

__all__ = [
    "TAPS",
    "Stream",
    "create_model",
    "from_hugging_face",
    "is_model",
    "join_streams",
    "list_models",
    "register_model",
]
