"""The weights that the libraries of other networks fetch: refusals, in words that tell the cure."""

from collections.abc import Iterable

from vie.errors import VieError
from vie.weights import FILES, list_names, one_line

DEFAULT = "default"
"""The first choice of a library among the weights that it has for a network."""


def is_file(weights: str) -> bool:
    """Whether these weights are named by a file rather than by the library."""
    return weights.endswith(FILES)


def no_such_weights(model: str, weights: str, known: Iterable[str]) -> VieError:
    """What to raise where a library has no weights of this name."""
    names = list(known)
    cure = f"give {DEFAULT!r} or one of {list_names(names)}" if names else "there are none; leave weights out"
    return VieError(f"{model} has no weights {weights!r}: {cure}")


def not_loaded(model: str, weights: str, error: Exception) -> VieError:
    """What to raise where weights cannot be fetched, read or fitted."""
    return VieError(
        f"the weights {weights!r} of {model} cannot be loaded ({one_line(error)}): check the network and the "
        "free space of the cache, or give the file of others"
    )
