"""Parameters and buffers of a module by their names, wherever they stand."""

from typing import NamedTuple

from torch import Tensor, nn


class Place(NamedTuple):
    """Where a trained tensor stands: in a module that a host sees, and among those of the network itself.

    Attributes:
        name: In the network.
        leaf: The last part of it.
        seen: The module that the host sees.
        within: Parameters or buffers of the network's own module.
        empty: What stands there when the network does not compute.
    """

    name: str
    leaf: str
    seen: nn.Module
    within: dict[str, Tensor | None]
    empty: Tensor

    def tensor(self) -> Tensor:
        """As it is now: hosts put others in its place for the time of a call, some where no module lists them."""
        found: Tensor = getattr(self.seen, self.leaf)
        return found


def owner(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that holds a tensor itself, and the tensor's name there."""
    path, _, leaf = name.rpartition(".")
    return module.get_submodule(path), leaf


def get(module: nn.Module, name: str) -> Tensor:
    """A parameter or buffer."""
    holder, leaf = owner(module, name)
    found: Tensor = getattr(holder, leaf)
    return found


def kind(module: nn.Module, name: str) -> str:
    """``"_parameters"`` or ``"_buffers"``."""
    holder, leaf = owner(module, name)
    return "_parameters" if leaf in holder._parameters else "_buffers"


def put(module: nn.Module, name: str, tensor: Tensor, where: str) -> None:
    """Puts a tensor among the parameters or buffers of a module; modules on the way are made."""
    *path, leaf = name.split(".")
    for part in path:
        if part not in module._modules:
            module.add_module(part, nn.Module())
        module = module.get_submodule(part)
    getattr(module, where)[leaf] = tensor
