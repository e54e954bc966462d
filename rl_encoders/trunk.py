"""A network inside another library's agent: what is frozen of it is out of that library's sight, and held once."""

import copy
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Optimizer

from rl_encoders.sharing import digest, shared
from vie import Stream, VieError

Stages = Sequence[tuple[str, Sequence[str]]]
"""Of a stream, from the pixels up: the name of a stage, and those of its parameters and buffers."""


class Trunk(nn.Module):
    """The taps of a stream, of whose stages the last few can be trained.

    Agents' libraries initialise, average, copy, save and set to training whatever they find among their modules. So
    the network is no submodule: they find a tree of plain modules that hold the parameters to be trained, under the
    network's own names, and nothing of what is frozen. Frozen tensors are one for all trunks of a process that have
    the same: a deep copy holds them too, and no checkpoint does.

    Batch norms keep their statistics, in trained stages too, unless ``update_statistics``: an agent's batches are
    small, and of the few places that it has been to.

    Attributes:
        stages: Names of the stages, from the pixels up.
        first_trained: Number of the lowest stage that is trained; the number of stages if none is.
        weights: The tensors that are trained.
        frozen_digest: (16,) uint8 that tell what is frozen; a checkpoint holds them in place of it.
    """

    frozen_digest: Tensor
    _network: "_Taps"

    def __init__(self, stream: Stream, stages: Stages, update_statistics: bool = False) -> None:
        """Takes over a network, all frozen.

        Args:
            stream: Made for this trunk alone, which replaces its tensors. Its heads are taken off.
            stages: All tensors of the stream but its heads', each in one stage.
            update_statistics: Whether batch norms of trained stages update their running statistics.
        """
        super().__init__()
        for head in stream.heads:
            setattr(stream, head, nn.Identity())
        self.__dict__["_network"] = _Taps(stream)  # not as an attribute: that would make it a submodule
        self._update_statistics = update_statistics
        self.stages = tuple(name for name, _ in stages)
        self._tensors = [list(names) for _, names in stages]
        self._digests: dict[str, bytes] = {}
        self.first_trained = len(self.stages)
        self.weights = nn.Module()
        self._places: list[_Place] = []
        tied = {*dict(stream.named_parameters(remove_duplicate=False))} - {*dict(stream.named_parameters())}
        if tied:
            raise VieError(f"{stream.model_name} holds one weight in several places ({min(tied)}): take another trunk")
        for name in self._names():
            tensor = _get(stream, name)
            self._digests[name] = digest(tensor)
            _set(stream, name, shared(tensor, self._digests[name]), _kind(stream, name))
        self._loaded = dict(self._digests)
        self.register_buffer("frozen_digest", self._summary())
        stream.eval()
        self._followers: list[nn.Module] = []

    def forward(self, clip: Tensor) -> dict[str, Tensor]:
        """The taps of a normalised clip (B, 3, T, H, W); see ``vie.Stream.forward_features``."""
        if not self.is_trained:
            with torch.no_grad():
                return self._network(clip)
        if torch.compiler.is_compiling():
            trained = {f"stream.{name}": tensor for name, tensor in self._trained().items()}
            return functional_call(self._network, trained, (clip,))
        self._bring()
        return self._network(clip)

    @property
    def stream(self) -> Stream:
        """The network, for what it knows of itself; tensors of trained stages are not in it."""
        return self._network.stream

    @property
    def is_trained(self) -> bool:
        """Whether any stage is."""
        return self.first_trained < len(self.stages)

    def stage(self, name: str) -> int:
        """The number of a stage; raises ``VieError`` if there is none of this name."""
        if name not in self.stages:
            raise VieError(f"{self.stream.model_name} has no stage {name!r}: it has {', '.join(self.stages)}")
        return self.stages.index(name)

    def train_from(self, first: int) -> list[nn.Parameter]:
        """Has the stages from a number on trained; those that are trained stay so, as no checkpoint would hold them.

        Returns:
            The parameters that were not trained before, from the lowest stage up.
        """
        new: list[nn.Parameter] = []
        for name in self._names(first, self.first_trained):
            frozen = _get(self.stream, name)
            kind = _kind(self.stream, name)
            if kind == "_buffers" and not self._update_statistics:
                continue
            tensor: Tensor = frozen.detach().clone()
            if kind == "_parameters":
                parameter = tensor = nn.Parameter(tensor)
                new.append(parameter)
            _set(self.weights, name, tensor, kind)
            owners = [_owner(module, name)[0] for module in (self.weights, self.stream)]
            self._places.append(_Place(name, name.rpartition(".")[2], *(getattr(owner, kind) for owner in owners)))
            # So that a trunk that forgot to bring a trained tensor fails, rather than compute with an old one.
            _set(self.stream, name, nn.Parameter(torch.empty_like(tensor, device="meta"), requires_grad=False), kind)
            del self._digests[name]
        self.first_trained = min(first, self.first_trained)
        self.frozen_digest = self._summary()
        self._followers = self._find_followers()
        self.train(self.training)
        return new

    def trained_parameters(self, number: int) -> list[nn.Parameter]:
        """Those of a stage, none if it is frozen."""
        trained = self._trained()
        found = (trained.get(name) for name in self._tensors[number])
        return [tensor for tensor in found if isinstance(tensor, nn.Parameter)]

    def fingerprint(self) -> str:
        """32 hexadecimal digits that change with any weight, frozen or trained."""
        now = self._digests | {name: digest(tensor) for name, tensor in self._trained().items()}
        return _summarise(now).hex()

    def verify(self, optimizer: Optimizer | None = None, as_loaded: bool = False) -> None:
        """Raises ``VieError``, which names the layer, if what is frozen has changed, or could.

        Args:
            optimizer: Of the host: it must hold every trained parameter, once.
            as_loaded: What is trained has to be as it was loaded, too: after construction, before the first update.
        """
        for name, known in self._digests.items():
            if digest(_get(self.stream, name)) != known:
                raise VieError(f"{name} is frozen and has changed: it was written to past the encoder")
            if _get(self.stream, name).requires_grad:
                raise VieError(
                    f"{name} is frozen and asks for gradients: something has set requires_grad past the encoder"
                )
        followers = {id(module) for module in self._followers}
        for name, module in self.stream.named_modules():
            if module.training and id(module) not in followers:
                raise VieError(f"{name} is frozen and in training mode: something has called train() past the encoder")
        if self._summary().tolist() != self.frozen_digest.tolist():
            raise VieError("frozen_digest has changed: the host averages or initialises buffers of integers")
        trained = self._trained()
        if as_loaded:
            for name, tensor in trained.items():
                if digest(tensor) != self._loaded[name]:
                    raise VieError(
                        f"{name} is not as it was loaded: the host has initialised it anew (Stable-Baselines3: "
                        "ortho_init=False), or has trained already"
                    )
        if optimizer is not None:
            held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
            for name, tensor in trained.items():
                if isinstance(tensor, nn.Parameter) and held.count(id(tensor)) != 1:
                    raise VieError(
                        f"{name} is to be trained and is {held.count(id(tensor))} times in the optimizer: give it "
                        "param_groups(), and what a schedule unfreezes"
                    )

    def train(self, mode: bool = True) -> Self:
        """Sets what is trained to training; what is frozen, and batch norms that keep their statistics, never."""
        super().train(mode)
        for module in self._followers:
            module.training = mode
        return self

    def _find_followers(self) -> list[nn.Module]:
        """Modules of the network that are in training mode when the host says so."""
        trained = self._trained()

        def visit(module: nn.Module, name: str) -> Iterator[nn.Module]:
            frozen = any(at.startswith(name) for at in self._digests) and not any(at.startswith(name) for at in trained)
            keeps = isinstance(module, nn.modules.batchnorm._BatchNorm) and not self._update_statistics
            if frozen or keeps:
                return
            yield module
            for child_name, child in module.named_children():
                yield from visit(child, f"{name}{child_name}.")

        return list(visit(self.stream, "")) if trained else []

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Moves and casts; what is frozen as well."""
        super()._apply(fn, recurse)
        self._bring()
        for name, known in self._digests.items():
            before = _get(self.stream, name)
            with torch.no_grad():
                after = fn(before)
            if after is not before:
                content = known if after.dtype == before.dtype else digest(after)
                self._digests[name] = content
                _set(self.stream, name, shared(after, content), _kind(self.stream, name))
        self.frozen_digest = self._summary()
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        for name in self._digests:
            frozen = _get(self.stream, name)
            memo[id(frozen)] = frozen
        made = type(self).__new__(type(self))
        memo[id(self)] = made
        made.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return made

    def __setstate__(self, state: dict[str, Any]) -> None:
        """In another process, or out of a file of the host's: what is frozen may be here already."""
        super().__setstate__(state)
        for name, known in self._digests.items():
            _set(self.stream, name, shared(_get(self.stream, name), known), _kind(self.stream, name))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        saved = {name.removeprefix(f"{prefix}weights.") for name in state_dict if name.startswith(f"{prefix}weights.")}
        trained_there = [number for number, names in enumerate(self._tensors) if saved.intersection(names)]
        self.train_from(min(trained_there, default=self.first_trained))
        there = state_dict.get(f"{prefix}frozen_digest")
        if there is not None and there.tolist() != self.frozen_digest.tolist():
            raise VieError(
                f"the checkpoint belongs to another encoder: what it left frozen is not what is frozen here "
                f"({self.stream.model_name} below stage {self.first_trained}): load the same source first"
            )
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def _names(self, first: int = 0, end: int | None = None) -> list[str]:
        return [name for names in self._tensors[first:end] for name in names]

    def _bring(self) -> None:
        """Has the network compute with the trained tensors as they are now: hosts exchange them for the time of a call.

        ``functional_call`` does so too, and puts back what was there; that takes longer than a small network.
        """
        for place in self._places:
            place.within[place.leaf] = place.registered[place.leaf]

    def _trained(self) -> dict[str, Tensor]:
        return {place.name: place.registered[place.leaf] for place in self._places}

    def _summary(self) -> Tensor:
        some = next(iter([*self._trained().values(), _get(self.stream, self._names()[0])]))
        return torch.tensor(list(_summarise(self._digests)), dtype=torch.uint8, device=some.device)


class _Place(NamedTuple):
    """Where a trained tensor stands: among those of a module that the host sees, and of the network's own."""

    name: str
    leaf: str
    registered: dict[str, Tensor]
    within: dict[str, Tensor]


class _Taps(nn.Module):
    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self.stream = stream

    def forward(self, clip: Tensor) -> dict[str, Tensor]:
        return self.stream.forward_features(clip)


def _summarise(digests: dict[str, bytes]) -> bytes:
    content = blake2b(digest_size=16)
    for name in sorted(digests):
        content.update(name.encode() + b"\0" + digests[name])
    return content.digest()


def _owner(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return module.get_submodule(path), leaf


def _get(module: nn.Module, name: str) -> Tensor:
    owner, leaf = _owner(module, name)
    found: Tensor = getattr(owner, leaf)
    return found


def _kind(module: nn.Module, name: str) -> str:
    owner, leaf = _owner(module, name)
    return "_parameters" if leaf in owner._parameters else "_buffers"


def _set(module: nn.Module, name: str, tensor: Tensor, kind: str) -> None:
    """Puts a tensor among the parameters or buffers of a module; modules on the way are made."""
    *path, leaf = name.split(".")
    for part in path:
        if part not in module._modules:
            module.add_module(part, nn.Module())
        module = module.get_submodule(part)
    getattr(module, kind)[leaf] = tensor
