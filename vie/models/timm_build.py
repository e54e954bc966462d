"""Building a network of timm, with random weights, timm's own, or those of a file."""

import difflib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from vie.errors import VieError
from vie.models.fetched import DEFAULT, is_file, no_such_weights, not_loaded
from vie.weights import list_names

MISSING = "Missing keys ("


def build(name: str, size: int | None, weights: str | None = None) -> Any:
    """A network of timm without classifier.

    Args:
        name: In timm.
        size: Side of its pictures in pixels; None is its own.
        weights: "default", a tag, or a file; None begins at random.

    Raises:
        VieError: timm is missing, knows no such network or weights, or these cannot be had.
    """
    try:
        import timm
    except ImportError as error:
        raise VieError(f"timm_{name} needs timm ({error}): pip install 'vie[timm]'") from error
    known = timm.list_models()
    if name not in known:
        near = ", ".join(difflib.get_close_matches(name, known, n=3))
        raise VieError(
            f"timm knows no network {name!r}: " + (f"did you mean {near}?" if near else "timm.list_models() names them")
        )
    arguments: dict[str, Any] = {}
    full = name
    if weights is not None and is_file(weights):
        arguments["pretrained_cfg_overlay"] = {"file": weights}
    elif weights is not None:
        full = f"{name}.{_tag(timm, name, weights)}"
    # A network that is built for one size is told which, or to adapt, in a word that not all of them know.
    fixed = getattr(timm.get_pretrained_cfg(full), "fixed_input_size", False)
    if fixed and size:
        arguments["img_size"] = size
    create = partial(timm.create_model, full, pretrained=weights is not None, num_classes=0, **arguments)
    if weights is None:
        return _adaptable(create, fixed)
    try:
        with _complete():
            return _adaptable(create, fixed)
    except Exception as error:  # timm, the hub's client and PyTorch have many words for it
        raise not_loaded(f"timm_{name}", weights, error) from error


def _adaptable(create: Any, fixed: bool) -> Any:
    try:
        return create(dynamic_img_size=True) if fixed else create()
    except TypeError:  # a network that cannot adapt does not know the word
        return create()


def _tag(timm: Any, name: str, weights: str) -> str:
    tags = [full.removeprefix(f"{name}.") for full in timm.list_pretrained(f"{name}.*")]
    if weights != DEFAULT:
        if weights not in tags:
            raise no_such_weights(f"timm_{name}", weights, tags)
        return weights
    first = getattr(timm.get_pretrained_cfg(name), "tag", None) or ""
    if first not in tags:
        raise no_such_weights(f"timm_{name}", weights, tags)
    return first


@contextmanager
def _complete() -> Iterator[None]:
    """Raises an error where timm says that weights were missing: without its classifier it merely notes so."""
    logger, heard = logging.getLogger("timm.models._builder"), list[str]()
    level, least = logger.level, logger.getEffectiveLevel()

    def hear(record: logging.LogRecord) -> bool:
        heard.append(record.getMessage())
        return record.levelno >= least

    logger.addFilter(hear)
    logger.setLevel(min(least, logging.INFO))
    try:
        yield
    finally:
        logger.removeFilter(hear)
        logger.setLevel(level)
    for said in heard:
        if said.startswith(MISSING):
            names = said.removeprefix(MISSING).partition(")")[0].split(", ")
            raise VieError(f"{len(names)} tensors of the network are not among them: {list_names(names)}")
