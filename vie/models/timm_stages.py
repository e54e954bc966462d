"""The stages of timm's networks, by the groups of layers that timm gives them for layer-wise learning rates."""

import re
from typing import Any

from vie.models.places import around_blocks, numbered
from vie.models.stream import Stages


def stages_of(trunk: Any) -> Stages:
    """The stages of a network of timm, from its input to its output.

    Those are timm's: the stages of a convolutional or hierarchical network, the blocks of a ViT. What timm gives no
    group, such as a norm behind the pool, belongs to the last one.
    """
    try:
        matcher = trunk.group_matcher(coarse=True)
    except (AttributeError, AssertionError):  # some networks have no groups, or fine ones alone
        return around_blocks(trunk)
    from timm.models import group_parameters

    group_of: dict[str, int] = group_parameters(trunk, matcher, reverse=True)
    last = max((group for name, group in group_of.items() if _named(name, matcher)), default=0)
    groups: list[list[str]] = [[] for _ in range(last + 1)]
    for name, group in group_of.items():
        groups[min(group, last)].append(name)
    placed = {name.rpartition(".")[0]: number for number, names in enumerate(groups) for name in reversed(names)}
    for name, _ in trunk.named_buffers():
        owner = name.rpartition(".")[0]
        while owner and owner not in placed:
            owner = owner.rpartition(".")[0]
        groups[placed[owner] if owner else 0].append(name)
    return numbered(group for group in groups if group)


def _named(name: str, matcher: Any) -> bool:
    """Whether timm names a group for this parameter; where it gives a function, that names all."""
    if not isinstance(matcher, dict):
        return True
    entries = [entry for entry in matcher.values() if entry is not None]
    patterns = [
        part[0] if isinstance(part, tuple | list) else part
        for entry in entries
        for part in (entry if isinstance(entry, tuple | list) else [entry])
    ]
    return any(re.match(pattern, name) for pattern in patterns)
