"""Where a trunk comes from: a VIE checkpoint, a model by name, or a network of timm, torchvision or Hugging Face."""

import difflib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vie import Resize, Sampling, Stream, VieError, create_model, from_hugging_face, is_model, list_models, load

RANDOM = Stream.origin
UNKNOWN = "unknown"

Opener = Callable[[str, dict[str, Any]], Stream]


@dataclass(frozen=True)
class Source:
    """A trunk, and what has to be known to use it rightly.

    Attributes:
        stream: The network; pixels in [0, 1] are normalised by its ``mean`` and ``std``.
        sampling: The clip that it wants: frames, their distance, the side of the square.
        resize: How a picture becomes this square: crop or squash, and by which interpolation, as for the weights' own
            training or test; ``vie.Encoder(stream, sampling)`` does all of it.
        name: As ``open_source`` was called, with the weights' name where the library chose them.
        weights: Where the weights are from; "random weights" where there are none.
        licence: Of the weights, as their library or card says it; "unknown" where it does not; "random weights".
    """

    stream: Stream
    sampling: Sampling
    resize: Resize
    name: str
    weights: str
    licence: str


def open_source(source: str | os.PathLike[str], /, **model_arguments: Any) -> Source:
    """Opens a trunk.

    Args:
        source: One of
            - the folder of a saved VIE encoder, or its id on the Hugging Face hub (``name/encoder``);
            - a model's name (``vie.list_models()``), which has random weights unless ``pretrained`` or ``weights`` are
              given;
            - ``timm:NAME`` or ``timm:NAME.TAG``, with timm's weights: its first choice, or those of the tag;
            - ``torchvision:NAME`` or ``torchvision:NAME.WEIGHTS``, likewise;
            - ``hf:ID`` or ``hf:FOLDER``, a vision network of transformers with its image processor.
        model_arguments: Passed to the network, such as ``size`` or ``embed_dim``; ``weights=None`` asks for random
            ones, ``weights=FILE`` for those of a file (timm and torchvision).

    Raises:
        VieError: There is no such source, its package is missing, or the network or its weights cannot be had.
    """
    text = os.fspath(source)
    prefix, colon, rest = text.partition(":")
    if colon and prefix in OPENERS and rest:
        return _described(OPENERS[prefix](rest, dict(model_arguments)), text)
    if Path(text).is_dir() or (text.count("/") == 1 and not colon and not text.startswith((".", "/"))):
        return _checkpoint(text, model_arguments)
    if is_model(text):
        return _described(create_model(text, **model_arguments), text)
    raise _unknown(text)


def _of_library(library: str) -> Opener:
    def open_named(name: str, arguments: dict[str, Any]) -> Stream:
        name, _, tag = name.partition(".")
        asked = arguments.setdefault("weights", tag or "default")
        if tag and asked not in (tag, None):
            raise VieError(f"{library}:{name} is given two weights, {tag!r} and {asked!r}: give one of them")
        return create_model(f"{library}_{name}", **arguments)

    return open_named


def _of_hugging_face(source: str, arguments: dict[str, Any]) -> Stream:
    try:
        return from_hugging_face(source, **arguments)
    except TypeError as error:
        raise VieError(f"hf:{source} cannot be opened with {arguments} ({error}): give others") from error


OPENERS: dict[str, Opener] = {
    "timm": _of_library("timm"),
    "torchvision": _of_library("torchvision"),
    "hf": _of_hugging_face,
}


def _checkpoint(text: str, arguments: dict[str, Any]) -> Source:
    if arguments:
        raise VieError(f"{text} is a saved encoder, whose card tells how it is built: leave out {', '.join(arguments)}")
    encoder = load(text)
    licence = encoder.card.get("licence") or UNKNOWN
    return Source(encoder.model, encoder.sampling, encoder.model.resize, text, text, str(licence))


def _described(stream: Stream, text: str) -> Source:
    licence = RANDOM if stream.origin == RANDOM else stream.licence or UNKNOWN
    return Source(stream, stream.sampling, stream.resize, text, stream.origin, licence)


def _unknown(text: str) -> VieError:
    prefix, colon, rest = text.partition(":")
    if colon:
        near = difflib.get_close_matches(prefix.lower(), OPENERS, n=1)
        cure = f"did you mean {near[0]}:{rest}?" if near and rest else "give timm:NAME, torchvision:NAME or hf:ID"
        return VieError(f"{text!r} is no source ({prefix!r} is no library that is known): {cure}")
    near = difflib.get_close_matches(text, [*list_models(), *OPENERS], n=1)
    cure = f"did you mean {near[0]!r}?" if near else "give a saved encoder's folder, a model's name, or timm:NAME"
    return VieError(f"{text!r} is no source (no folder, and no model): {cure}")
