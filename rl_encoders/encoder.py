"""An encoder as an agent sees it: camera pixels and proprioception in, one vector for each observation out."""

import copy
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rl_encoders.cache import FeatureCache
from rl_encoders.heads import Heads
from rl_encoders.observation import Observation, split
from rl_encoders.pooling import Pool, create_pool
from rl_encoders.recent import encoded_once
from rl_encoders.schedule import Schedule
from rl_encoders.trunk import Trunk
from vie import Sampling, VieError
from vie.video.pixels import normalise

HEADS = "heads"
"""Name of the group of parameters on top of the trunk."""

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class VisualEncoder(nn.Module):
    """Pixels to vectors, by a trunk that is frozen, trained in part or trained.

    Made by ``rl_encoders.load``.

    Attributes:
        trunk: The network; see ``Trunk`` for what hosts can and cannot do to it.
        output_dim: Length of the vectors.
        kept_shape, kept_dtype: Of the features of one clip in a cache.
        sampling: The clip that the trunk was trained on.
        card: Where its weights come from, with their licence.
        cache: Keeps the features of a frozen trunk; None computes them each time.
        compiles: Whether the trunk runs through torch.compile.
    """

    def __init__(
        self,
        trunk: Trunk,
        sampling: Sampling,
        card: Mapping[str, Any],
        heads: Heads,
        schedule: Schedule,
        precision: str = "fp32",
        cache: FeatureCache | None = None,
        kept_dtype: torch.dtype = torch.float32,
        compiles: bool = False,
    ) -> None:
        super().__init__()
        if precision not in PRECISIONS:
            raise VieError(f"precision={precision}: give one of {', '.join(PRECISIONS)}")
        self.trunk = trunk
        self.sampling, self.card, self.heads, self.schedule = sampling, dict(card), heads, schedule
        self.precision, self.cache, self.kept_dtype, self.compiles = precision, cache, kept_dtype, compiles
        self.step = 0
        self._known: str | None = None
        probe = torch.zeros(1, 3, sampling.frames, sampling.size, sampling.size)
        with torch.no_grad():
            taps = trunk.eval()(probe)
            pool = create_pool(heads.pool, trunk.stream, taps, **dict(heads.pool_arguments or {}))
            self.kept_shape = tuple(pool.keep(trunk.stream, taps).shape[1:])
        others = 0 if heads.share_views else len(heads.views[1:])
        self.pools = nn.ModuleList([pool, *(copy.deepcopy(pool) for _ in range(others))])
        width = self._pool(0).output_dim * heads.history * max(1, len(heads.views))
        self.project = _projection(width, heads.project)
        numbers = sum((heads.proprio or {}).values())
        self.proprio_project = _projection(numbers, heads.proprio_project if numbers else None)
        self.output_dim = (heads.project or width) + (numbers and (heads.proprio_project or numbers))
        self.train()

    def forward(self, observation: Observation, detach: bool = False) -> Tensor:
        """Vectors (B, output_dim) in float32.

        Args:
            observation: See ``rl_encoders.observation.split``. With a history of k, T is k times the frames of a clip;
                a clip may be a single frame, which a dynamic trunk sees as a still.
            detach: Gives no gradient: for an actor beside a critic that alone trains the encoder.

        Raises:
            VieError: The observation is not what the encoder was loaded for.
        """
        views, proprio = split(observation, self.heads.views, self.heads.proprio or {}, self.device)
        return self.read([self.features(frames) for frames in views], proprio, detach)

    def features(self, frames: Tensor) -> Tensor:
        """What is kept of the trunk's taps of one camera: of a frozen trunk, once for each picture that is new.

        Args:
            frames: (B, T, H, W, 3) uint8, on any device.

        Returns:
            (B * history, ...) float32, not to be written to.
        """
        clips = self.clips(frames)
        # What torch.vmap runs over cannot be compared, and so not found again.
        if self.trunk.is_trained or torch.compiler.is_compiling() or torch._C._functorch.is_batchedtensor(clips):
            return self.encode(clips)
        if self.cache is not None and clips.device.type == "cpu":
            return self.cached(clips)  # whose hashes take less than a comparison
        key = self.feature_fingerprint(), self.cache and (self.cache.folder, self.kept_dtype)
        # A batch is compared where it is encoded. One picture is where it comes from: every answer of a GPU is waited
        # for, longer than it takes to find that two pictures in the host's memory differ.
        if len(clips) > 1:
            clips = clips.to(self.device)
        return encoded_once(key, clips, self.encode if self.cache is None else self.cached)

    def cached(self, clips: Tensor) -> Tensor:
        """``encode``, by way of the cache: what is not there yet is put there.

        Raises:
            VieError: The encoder has no cache, or is trained.
        """
        if self.cache is None or self.trunk.is_trained:
            raise VieError("features of a trunk that is trained cannot be kept: load it with mode=frozen and a cache")
        fingerprint = self.feature_fingerprint()
        kept = self.cache.through(fingerprint, clips.cpu(), self.encode, self.kept_shape, self.kept_dtype)
        return kept.to(self.device).float()

    def clips(self, frames: Tensor) -> Tensor:
        """Frames of one camera cut into clips: (B, T, H, W, 3) to (B * history, T / history, H, W, 3)."""
        history, wanted = self.heads.history, self.sampling.frames
        count, left = divmod(frames.shape[1], history)
        if left or count not in {1, wanted}:
            # A network of stills would take the mean of their features, in which no motion is left.
            takes = f"{history} (stills) or {history * wanted}" if wanted > 1 else f"{history}"
            raise VieError(
                f"an observation has {frames.shape[1]} frames: {self.trunk.stream.model_name} with history={history} "
                f"takes {takes}: load it with the history that the observations have"
            )
        return frames.unflatten(1, (history, count)).flatten(0, 1)

    def encode(self, clips: Tensor) -> Tensor:
        """What is kept of the trunk's taps of clips (N, T, H, W, 3) uint8, without a cache: (N, ...) float32."""
        clips = clips.to(self.device)
        if not self.compiles or torch.compiler.is_compiling():
            return self._encode(clips)
        if self.trunk.is_trained:
            return _compiled()(self, clips)
        # Of a frozen trunk, what is left when known pictures are taken out: few sizes, each of which is compiled.
        size = 1 << (len(clips) - 1).bit_length()
        return _compiled()(self, torch.cat([clips, clips[:1].expand(size - len(clips), *clips.shape[1:])]))[
            : len(clips)
        ]

    def _encode(self, clips: Tensor) -> Tensor:
        stream = self.trunk.stream
        clip = normalise(stream.resize(clips, self.sampling), stream.mean, stream.std)
        if clip.shape[2] == 1:
            clip = clip.expand(-1, -1, self.sampling.frames, -1, -1)
        dtype = PRECISIONS[self.precision]
        with torch.autocast(self.device.type, dtype or torch.bfloat16, enabled=dtype is not None):
            return self._pool(0).keep(stream, self.trunk(clip)).float()

    def read(self, features: Sequence[Tensor], proprio: Tensor | None = None, detach: bool = False) -> Tensor:
        """The learned part alone: vectors (B, output_dim) of what ``features`` gave for each camera."""
        vectors = [self._pool(number)(kept) for number, kept in enumerate(features)]
        # Of one camera too it copies: what is remembered of a batch is not to be written to.
        joined = torch.cat([vector.unflatten(0, (-1, self.heads.history)).flatten(1) for vector in vectors], dim=1)
        # Whatever a host's autocast makes of pools: agents keep vectors in buffers of float32.
        joined = self.project(joined).float()
        if proprio is not None:
            joined = torch.cat([joined, self.proprio_project(proprio).float()], dim=1)
        return joined.detach() if detach else joined

    @property
    def device(self) -> torch.device:
        """Where the encoder computes."""
        return self.trunk.device

    def feature_fingerprint(self) -> str:
        """Tells what ``features`` depends on but for the pixels: weights of the trunk, preprocessing, what is kept."""
        if self.trunk.is_trained or self._known is None:
            stream = self.trunk.stream
            facts = {
                "model": stream.model_name,
                "arguments": stream.arguments,
                "sampling": asdict(self.sampling),
                "resize": asdict(stream.resize),
                "mean": stream.mean,
                "std": stream.std,
                "kept": "pooled" if self.heads.pool in {"mean", "cls"} else "map",
                "pool": self.heads.pool if self.heads.pool == "cls" else "",
                "precision": self.precision,
            }
            self._known = f"{self.trunk.fingerprint()} {json.dumps(facts, sort_keys=True, default=str)}"
        return self._known

    def fingerprint(self) -> str:
        """Of the trunk: 32 hexadecimal digits that any change of its weights, frozen or trained, changes."""
        return self.trunk.fingerprint()

    def verify(self, optimizer: Optimizer | None = None, as_loaded: bool = False) -> None:
        """Raises ``VieError`` if the host has broken what was promised; see ``Trunk.verify``."""
        self.trunk.verify(optimizer, as_loaded)

    def advance(self, step: int, optimizer: Optimizer | None = None) -> list[nn.Parameter]:
        """Unfreezes what the schedule says is trained from this step on.

        Args:
            step: Of the host's training.
            optimizer: Is given the trained parameters that it lacks, at the rates of ``param_groups``. A learning rate
                that a scheduler has changed is taken as it is.

        Returns:
            The parameters that are new.
        """
        self.step = step
        first = self.schedule.first_trained(self.trunk, step)
        new = self.trunk.train_from(first) if first < self.trunk.first_trained else []
        self._known = None if new else self._known
        if optimizer is not None:
            self._enter(optimizer)
        return new

    def param_groups(self, lr: float) -> list[dict[str, Any]]:
        """For an optimizer: a group for what is learned on top, at ``lr``, and one for every stage, at less.

        Stages that are frozen have theirs too, without parameters: ``advance`` puts these there, and states of
        optimizers fit whatever stage a schedule has come to.
        """
        held = {id(parameter) for parameter in self.trunk.parameters()}
        heads = [value for value in self.parameters() if id(value) not in held]
        return [
            {"name": HEADS, "lr": lr, "params": heads},
            *(
                {"name": name, "lr": lr * self._rate(number), "params": self.trunk.trained_parameters(number)}
                for number, name in enumerate(self.trunk.stages)
            ),
        ]

    def _enter(self, optimizer: Optimizer) -> None:
        """Gives an optimizer the trained parameters that it lacks: to the groups of their stages, else to new ones."""
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        groups = {group.get("name"): group for group in optimizer.param_groups}
        rates = {name: self._rate(number) for number, name in enumerate(self.trunk.stages)} | {HEADS: 1.0}
        known = next((name for name in (HEADS, *self.trunk.stages) if name in groups), None)
        base = groups[known]["lr"] / rates[known] if known else optimizer.param_groups[0]["lr"]
        for number, name in enumerate(self.trunk.stages):
            lacking = [value for value in self.trunk.trained_parameters(number) if id(value) not in held]
            if lacking and name in groups:
                groups[name]["params"].extend(lacking)
            elif lacking:
                optimizer.add_param_group({"name": name, "params": lacking, "lr": base * rates[name]})

    def encoder_state(self) -> dict[str, Any]:
        """All that a checkpoint needs: the step, and tensors by name; of what is frozen only what tells which it is."""
        return {"step": self.step, "model": self.trunk.stream.model_name, "weights": self.state_dict()}

    def load_encoder_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from ``encoder_state``; stages that were trained there are trained here.

        Before the optimizer is made of ``param_groups`` and its own state is loaded.

        Raises:
            VieError: It is of another source.
        """
        self.load_state_dict(state["weights"])
        self.step = state["step"]

    def apply(self, fn: Any) -> Self:
        """As of any module; initialisers of hosts reach what is learned on top, and no weight of the trunk."""
        for part in (*self.pools, self.project, self.proprio_project):
            part.apply(fn)
        fn(self)
        return self

    def _pool(self, view: int) -> Pool:
        pool = self.pools[0 if self.heads.share_views else view]
        assert isinstance(pool, Pool)
        return pool

    def _rate(self, stage: int) -> float:
        return self.schedule.layer_decay ** (len(self.trunk.stages) - stage)


@functools.cache
def _compiled() -> Callable[[VisualEncoder, Tensor], Tensor]:
    # For one size at a time: torch 2.11 cannot generate 3-D networks for any.
    return torch.compile(VisualEncoder._encode, dynamic=False)


def _projection(width: int, length: int | None) -> nn.Module:
    if length is None:
        return nn.Identity()
    return nn.Sequential(nn.Linear(width, length), nn.LayerNorm(length), nn.Tanh())
