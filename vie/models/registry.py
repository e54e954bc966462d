"""Names to networks."""

import difflib
import fnmatch
import os
from collections.abc import Callable
from typing import TypeVar

from vie.errors import VieError
from vie.models.stream import Stream
from vie.weights import load_weights

ModelClass = TypeVar("ModelClass", bound=type[Stream])

_MODELS: dict[str, type[Stream]] = {}


def register_model(name: str) -> Callable[[ModelClass], ModelClass]:
    """Makes a stream known to ``create_model`` under a name."""

    def register(model: ModelClass) -> ModelClass:
        _MODELS[name] = model
        return model

    return register


def list_models(pattern: str = "*") -> list[str]:
    """Names of the models that match a shell pattern, sorted."""
    return sorted(fnmatch.filter(_MODELS, pattern))


def create_model(name: str, pretrained: str | os.PathLike[str] | None = None, **arguments: object) -> Stream:
    """Builds a stream by name.

    Args:
        name: One of ``list_models()``.
        pretrained: A folder written by ``save_pretrained``, whose weights are loaded; None keeps the initialisation.
        arguments: Passed to the network: ``embed_dim`` (default 128) and ``width`` (channels of the first stage,
            default 64; every later stage scales with it).

    Raises:
        VieError: There is no such model, or the weights do not fit it.
    """
    if name not in _MODELS:
        near = difflib.get_close_matches(name, _MODELS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(list_models())}"
        raise VieError(f"no model is called {name!r}: {hint}")
    for argument, value in arguments.items():
        if isinstance(value, int) and value < 1:
            raise VieError(f"model {name!r} cannot be built with {argument}={value}: give a positive number")
    try:
        model = _MODELS[name](**arguments)  # type: ignore[arg-type]
    except TypeError as error:
        raise VieError(f"model {name!r} cannot be built with {arguments}: {error}") from error
    model.model_name = name
    model.arguments = dict(arguments)
    if pretrained is not None:
        load_weights(model, pretrained)
    return model
