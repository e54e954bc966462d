"""The stages of a network whose parts are known by name or by the order in which they were made."""

from collections.abc import Iterable

from torch import nn

from vie.models.stream import Stages

STEM = "stem"


def numbered(groups: Iterable[list[str]]) -> Stages:
    """Names for stages: stem, stage1, stage2 and so on."""
    return [(f"stage{number}" if number else STEM, list(places)) for number, places in enumerate(groups)]


def around_blocks(network: nn.Module) -> Stages:
    """The stages of a network whose blocks stand in a list: what was made before the list, each block, what came after.

    What came after, such as a last norm or a pooling head, belongs to the last block. A network without such a list is
    one stage.
    """
    names = tensor_names(network)
    held = {
        at: sum(name.startswith(f"{at}.") for name in names)
        for at, part in network.named_modules()
        if at and isinstance(part, nn.ModuleList | nn.Sequential) and len(part) > 1
    }
    if not any(held.values()):
        return numbered([names])
    # Of lists in lists the outermost, which holds the most; of lists beside each other, too.
    blocks = max(held, key=lambda at: (held[at], -at.count(".")))
    each = [
        [name for name in names if name.startswith(f"{blocks}.{at}.")]
        for at, _ in network.get_submodule(blocks).named_children()
    ]
    first = next(number for number, name in enumerate(names) if name.startswith(f"{blocks}."))
    each[-1] += [name for name in names[first:] if not name.startswith(f"{blocks}.")]
    return numbered(group for group in [names[:first], *each] if group)


def tensor_names(network: nn.Module) -> list[str]:
    """Names of all parameters and buffers in the order of the modules that hold them; of shared ones the first."""
    names = {id(tensor): name for name, tensor in [*network.named_buffers(), *network.named_parameters()]}
    return list(
        dict.fromkeys(
            names[id(tensor)]
            for module in network.modules()
            for tensor in [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        )
    )


def within(module: str, stages: Stages) -> Stages:
    """The stages of a network that is part of another, under the name that it has there."""
    return [(name, [f"{module}.{place}" for place in places]) for name, places in stages]
