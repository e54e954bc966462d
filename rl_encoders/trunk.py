"""A network inside another library's agent: what is frozen of it is out of that library's sight, and held once."""

import copy
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Optimizer

from rl_encoders.sharing import shared
from rl_encoders.tensors import Place, get, kind, owner, put
from vie import Stream, VieError
from vie.digests import digest, summary

_WITHIN = threading.RLock()
"""Held while trained tensors are within a network, which an actor's thread may share with a learner's."""

Stages = Sequence[tuple[str, Sequence[str]]]
"""Of a stream, from the pixels up: the name of a stage, and those of its parameters and buffers."""


class Trunk(nn.Module):
    """The taps of a stream, of whose stages the last few can be trained.

    Agents' libraries initialise, average, copy, save and set to training whatever they find among their modules. So
    the network is no submodule: they find a tree of plain modules that hold the parameters to be trained, under the
    network's own names, and nothing of what is frozen. Frozen tensors are one for all trunks of a process that have
    the same: a deep copy holds them too. A checkpoint holds 16 numbers that tell which they are.

    Batch norms keep their statistics, in trained stages too, unless ``update_statistics``: an agent's batches are
    small, and of the few places that it has been to.

    Attributes:
        stages: Names of the stages, from the pixels up.
        first_trained: Number of the lowest stage that is trained; the number of stages if none is.
        weights: The tensors that are trained.
        frozen_digest: (16,) whole numbers that tell what is frozen; floats, which hosts can average and get the same.
    """

    frozen_digest: Tensor
    _network: "_Taps"

    def __init__(self, stream: Stream, stages: Stages, update_statistics: bool = False) -> None:
        """Takes over a network, all frozen.

        Args:
            stream: Made for this trunk alone, which replaces its tensors. Its heads are taken off.
            stages: All tensors of the stream but its heads', each in one stage.
            update_statistics: Whether batch norms of trained stages update their running statistics.

        Raises:
            VieError: Two modules of the stream hold one tensor.
        """
        super().__init__()
        for head in stream.heads:
            setattr(stream, head, nn.Identity())
        tied = {*dict(stream.named_parameters(remove_duplicate=False))} - {*dict(stream.named_parameters())}
        if tied:
            raise VieError(f"{stream.model_name} holds one weight in several places ({min(tied)}): take another trunk")
        self.__dict__["_network"] = _Taps(stream.eval())  # not as an attribute: that would make it a submodule
        self._update_statistics = update_statistics
        self.stages = tuple(name for name, _ in stages)
        self._tensors = [list(names) for _, names in stages]
        self._digests: dict[str, bytes] = {}
        self._places: list[Place] = []
        self._still: list[nn.Module] = []
        self.first_trained = len(self.stages)
        self.weights = nn.Module()
        for name in self._names():
            tensor = get(stream, name)
            self._digests[name] = digest(tensor)
            put(stream, name, shared(tensor, self._digests[name]), kind(stream, name))
        self._loaded = dict(self._digests)
        self.register_buffer("frozen_digest", self._summary(self._digests))

    def forward(self, clip: Tensor) -> dict[str, Tensor]:
        """The taps of a normalised clip (B, 3, T, H, W); see ``vie.Stream.forward_features``."""
        self._follow(clip.device)
        if not self.is_trained:
            with torch.no_grad():
                return self._network(clip)
        if torch.compiler.is_compiling():
            trained = {f"stream.{place.name}": place.tensor() for place in self._places}
            return functional_call(self._network, trained, (clip,))
        # As functional_call does, which takes longer than a small network.
        with _WITHIN:
            try:
                for place in self._places:
                    place.within[place.leaf] = place.tensor()
                return self._network(clip)
            finally:
                for place in self._places:
                    place.within[place.leaf] = place.empty

    @property
    def stream(self) -> Stream:
        """The network, for what it knows of itself; tensors of trained stages are not in it."""
        return self._network.stream

    @property
    def device(self) -> torch.device:
        """Where the host has put the trunk."""
        return self.frozen_digest.device

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
            frozen, where = get(self.stream, name), kind(self.stream, name)
            if where == "_buffers" and not self._update_statistics:
                continue
            tensor = frozen.detach().to(self.device, copy=True)
            if where == "_parameters":
                tensor = nn.Parameter(tensor)
                new.append(tensor)
            put(self.weights, name, tensor, where)
            # On no device, so that computing without the trained tensor fails rather than takes an old one.
            empty = nn.Parameter(torch.empty_like(tensor, device="meta"), requires_grad=False)
            (seen, leaf), (within, _) = owner(self.weights, name), owner(self.stream, name)
            self._places.append(Place(name, leaf, seen, getattr(within, where), empty))
            put(self.stream, name, empty, where)
            del self._digests[name]
        self.first_trained = min(first, self.first_trained)
        self.frozen_digest = self._summary(self._digests).to(self.device)
        self._still = self._find_still()
        self.train(self.training)
        return new

    def trained_parameters(self, number: int) -> list[nn.Parameter]:
        """Those of a stage, none if it is frozen."""
        trained = self.trained()
        found = (trained.get(name) for name in self._tensors[number])
        return [tensor for tensor in found if isinstance(tensor, nn.Parameter)]

    def trained(self) -> dict[str, Tensor]:
        """What is trained, by its names in the network."""
        return {place.name: place.tensor() for place in self._places}

    def frozen(self) -> dict[str, Tensor]:
        """What is frozen, by its names in the network."""
        return {name: get(self.stream, name) for name in self._digests}

    def fingerprint(self) -> str:
        """32 hexadecimal digits that change with any weight, frozen or trained."""
        return summary(self._digests | {name: digest(tensor) for name, tensor in self.trained().items()}).hex()

    def verify(self, optimizer: Optimizer | None = None, as_loaded: bool = False) -> None:
        """Raises ``VieError``, which names the layer, if what is frozen has changed, or could.

        Args:
            optimizer: Of the host: it must hold every trained parameter, once.
            as_loaded: What is trained has to be as it was loaded, too: after construction, before the first update.
        """
        for name, tensor in self.frozen().items():
            if digest(tensor) != self._digests[name]:
                raise VieError(f"{name} is frozen and has changed: it was written to past the encoder")
            if tensor.requires_grad:
                raise VieError(
                    f"{name} is frozen and asks for gradients: something has set requires_grad past the encoder"
                )
        still = self.stream.modules() if not self.is_trained else self._still
        names = {id(module): name for name, module in self.stream.named_modules()}
        for module in still:
            if module.training:
                raise VieError(
                    f"{names[id(module)] or 'the trunk'} is frozen and in training mode: something has called train() "
                    "past the encoder"
                )
        if not self._tells(self.frozen_digest, self._digests):
            raise VieError(
                "frozen_digest has changed: the host has loaded a checkpoint of another encoder past this one"
            )
        held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]] if optimizer else []
        for name, tensor in self.trained().items():
            if as_loaded and digest(tensor) != self._loaded[name]:
                raise VieError(
                    f"{name} is not as it was loaded: the host has initialised it anew (Stable-Baselines3: "
                    "ortho_init=False), or has trained already"
                )
            if isinstance(tensor, nn.Parameter) and not tensor.requires_grad:
                raise VieError(f"{name} is to be trained and asks for no gradients: load it with mode=frozen instead")
            if optimizer and isinstance(tensor, nn.Parameter) and held.count(id(tensor)) != 1:
                raise VieError(
                    f"{name} is to be trained and is {held.count(id(tensor))} times in the optimizer: give it "
                    "param_groups(), and what a schedule unfreezes"
                )

    def train(self, mode: bool = True) -> Self:
        """Sets what is trained to training; what is frozen, and batch norms that keep their statistics, never."""
        super().train(mode)
        if self.is_trained:
            self.stream.train(mode)  # by each module's own method: some forget there what they have kept for testing
            for module in self._still:
                module.training = False
        return self

    def _find_still(self) -> list[nn.Module]:
        """Modules of the network that stay as in testing when the host trains."""
        trained = [place.name for place in self._places]

        def visit(module: nn.Module, name: str, still: bool) -> Iterator[nn.Module]:
            still = still or (
                any(at.startswith(name) for at in self._digests) and not any(at.startswith(name) for at in trained)
            )
            if still or (isinstance(module, nn.modules.batchnorm._BatchNorm) and not self._update_statistics):
                yield module
            for child_name, child in module.named_children():
                yield from visit(child, f"{name}{child_name}.", still)

        return list(visit(self.stream, "", False))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Moves what is frozen too."""
        with torch.no_grad():
            probe = fn(torch.empty(0))
        if probe.dtype != torch.float32:
            raise VieError(f"a trunk is not cast to {probe.dtype}: load it with precision=bf16 or fp16")
        super()._apply(fn, recurse)
        self._follow(self.device)
        return self

    def _follow(self, device: torch.device) -> None:
        """Moves what is frozen to a device; some hosts move everything else one tensor at a time."""
        for name, known in self._digests.items():
            tensor = get(self.stream, name)
            if device in (tensor.device, torch.device("meta")):
                return
            put(self.stream, name, shared(tensor.to(device), known), kind(self.stream, name))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        memo |= {id(frozen): frozen for frozen in self.frozen().values()}
        made = type(self).__new__(type(self))
        memo[id(self)] = made
        made.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return made

    def __setstate__(self, state: dict[str, Any]) -> None:
        """In another process, or out of a file of the host's: what is frozen may be here already."""
        super().__setstate__(state)
        for name, known in self._digests.items():
            put(self.stream, name, shared(get(self.stream, name), known), kind(self.stream, name))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        saved = {name.removeprefix(f"{prefix}weights.") for name in state_dict if name.startswith(f"{prefix}weights.")}
        there = [number for number, names in enumerate(self._tensors) if saved.intersection(names)]
        first = min(there, default=len(self.stages))
        frozen = state_dict.get(f"{prefix}frozen_digest")
        if first > self.first_trained:
            raise VieError(
                f"the checkpoint has trained {self.stream.model_name} from stage {first} on, and this encoder is "
                f"trained from stage {self.first_trained} on: load it with the mode or schedule that it was saved with"
            )
        kept = {name: known for name, known in self._digests.items() if name not in saved}
        if frozen is not None and not self._tells(frozen, kept):
            raise VieError(
                f"the checkpoint belongs to another encoder: what it left frozen is not what is frozen here "
                f"({self.stream.model_name} below stage {first}): load the same source first"
            )
        self.train_from(first)
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    @staticmethod
    def _summary(digests: Mapping[str, bytes]) -> Tensor:
        return torch.tensor(list(summary(digests)), dtype=torch.float32)

    def _tells(self, frozen: Tensor, digests: Mapping[str, bytes]) -> bool:
        """Whether a ``frozen_digest``, averaged or not, is that of some digests."""
        return torch.equal(frozen.detach().cpu().float().round(), self._summary(digests))

    def _names(self, first: int = 0, end: int | None = None) -> list[str]:
        return [name for names in self._tensors[first:end] for name in names]


class _Taps(nn.Module):
    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self.stream = stream

    def forward(self, clip: Tensor) -> dict[str, Tensor]:
        return self.stream.forward_features(clip)
