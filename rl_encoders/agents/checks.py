"""Settings that make no sense, named before a network is built of them."""

from collections.abc import Sequence

from vie import VieError


def at_least(least: float, **settings: float) -> None:
    """Raises ``VieError`` naming the first of some settings that is below what makes sense."""
    for name, value in settings.items():
        if value < least:
            raise VieError(f"{name}={value} is too few: give at least {least}")


def one_of(allowed: Sequence[str], **settings: str) -> None:
    """Raises ``VieError`` naming the first of some settings that is none of the values that there are."""
    for name, value in settings.items():
        if value not in allowed:
            raise VieError(f"{name}={value} is not known: give one of {', '.join(allowed)}")


def widths(**settings: Sequence[int]) -> None:
    """Raises ``VieError`` naming the first of some settings that holds no widths of hidden layers."""
    for name, value in settings.items():
        if not value or min(value) < 1:
            raise VieError(
                f"{name}={list(value)} is no list of widths: give one or more, each at least 1, as [256,256]"
            )


def at_most(name: str, limit: int, **settings: int | None) -> None:
    """Raises ``VieError`` naming the first of some settings that is more than another, which has a name too."""
    for own, value in settings.items():
        if value is not None and value > limit:
            raise VieError(f"{own}={value} is more than {name}={limit}: give {own} at most {limit}, or more {name}")
