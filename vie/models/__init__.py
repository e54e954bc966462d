"""The streams, and the factory that builds them by name."""

from vie.models import fast, resnet3d, single, slow, slowfast, trn  # noqa: F401  (importing a stream registers it)
from vie.models.registry import create_model, list_models, register_model
from vie.models.stream import TAPS, Stream

__all__ = ["TAPS", "Stream", "create_model", "list_models", "register_model"]
