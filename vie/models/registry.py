"""Names to networks."""

import difflib
import fnmatch
import os
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from vie.errors import VieError
from vie.models.stream import Stream
from vie.weights import load_weights, one_line

Builder = Callable[..., Stream]
"""A class of streams, or a function that makes one from keyword arguments."""

AnyBuilder = TypeVar("AnyBuilder", bound=Builder)

_MODELS: dict[str, Builder] = {}
_FAMILIES: dict[str, Builder] = {}


def register_model(name: str) -> Callable[[AnyBuilder], AnyBuilder]:
    """Makes a stream known to ``create_model`` under a name."""

    def register(builder: AnyBuilder) -> AnyBuilder:
        _MODELS[name] = builder
        return builder

    return register


def register_family(prefix: str) -> Callable[[AnyBuilder], AnyBuilder]:
    """Makes all names that begin with a prefix known to ``create_model``; the builder's first argument is the rest."""

    def register(builder: AnyBuilder) -> AnyBuilder:
        _FAMILIES[prefix] = builder
        return builder

    return register


def list_models(pattern: str = "*") -> list[str]:
    """Names of the models that match a shell pattern, sorted; of timm's and torchvision's networks only a few."""
    return sorted(fnmatch.filter(_MODELS, pattern))


def create_model(name: str, pretrained: str | os.PathLike[str] | None = None, **arguments: object) -> Stream:
    """Builds a stream by name.

    Args:
        name: One of ``list_models()``; or ``timm_``, ``torchvision_`` or ``hf_`` and the name of an image network in
            timm, of one in torchvision, or of a kind of configuration in transformers.
        pretrained: A folder written by ``save_pretrained``, or a file of weights under the network's own names
            (``vie.read_state_dict`` tells which kinds), whose weights are loaded; None keeps the initialisation.
        arguments: Passed to the network: ``embed_dim`` (default 128); for VIE's own, ``width`` (channels of the first
            stage, default 64; every later stage scales with it); for timm's and torchvision's, ``weights`` (which of
            the library's own to fetch, "default" being its first choice) and ``size`` (of the pictures, in pixels).

    Raises:
        VieError: There is no such model, its package is missing, it cannot be built with these arguments, or the
            weights do not fit it.
    """
    builder = _find(name)
    for argument, value in arguments.items():
        if type(value) is int and value < 1:
            raise VieError(f"model {name!r} cannot be built with {argument}={value}: give a positive number")
    try:
        model = builder(**arguments)
    except VieError:
        raise
    except Exception as error:  # the builders are of many libraries, and so are their errors
        raise VieError(
            f"model {name!r} cannot be built with {arguments} ({one_line(error)}): give it others"
        ) from error
    model.model_name = name
    model.arguments = {**arguments, **model.rebuilt}
    if pretrained is not None:
        load_weights(model, pretrained)
        model.origin, model.licence = os.fspath(pretrained), ""
    return model


def is_model(name: str) -> bool:
    """Whether ``create_model`` has a builder for a name, though a network of another library may be unknown there."""
    return name in _MODELS or name.startswith(tuple(_FAMILIES))


def class_names() -> dict[type[Stream], str]:
    """The names of the streams that were registered as classes."""
    return {builder: name for name, builder in _MODELS.items() if isinstance(builder, type)}


def _find(name: str) -> Builder:
    if not isinstance(name, str):  # it may have been read out of a card
        raise VieError(f"{name!r} is no name of a model: give one of {', '.join(list_models())}")
    if name in _MODELS:
        return _MODELS[name]
    for prefix, family in _FAMILIES.items():
        if name.startswith(prefix):
            return partial(family, name.removeprefix(prefix))
    near = difflib.get_close_matches(name, _MODELS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(list_models())}"
    raise VieError(f"no model is called {name!r}: {hint}")
