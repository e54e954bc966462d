"""TorchRL: the clips that a dynamic encoder sees of environments, as a transform."""

import math
from collections.abc import Sequence

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor
from torchrl.data import Composite, TensorSpec, Unbounded
from torchrl.envs import Transform

from rl_encoders.clip_buffer import ClipBuffer
from vie import Sampling, VieError


class ClipTransform(Transform):
    """Pictures of environments become the clips that end with them: (..., H, W, 3) to (..., T, H, W, 3).

    Where channels come first they stay there. ``ClipBuffer`` says which frames make a clip; an environment that is
    reset, alone or among others, begins its clips anew. Replay buffers then hold clips: this is no transform for them.
    """

    def __init__(
        self,
        sampling: Sampling,
        in_keys: Sequence[NestedKey],
        out_keys: Sequence[NestedKey] | None = None,
        *,
        control_hz: float,
    ) -> None:
        """Begins empty.

        Args:
            sampling: ``encoder.sampling``.
            in_keys: Of the cameras.
            out_keys: Of their clips; in place of the pictures unless given.
            control_hz: Steps of the environment in a second.

        Raises:
            VieError: The rate is not positive.
        """
        super().__init__(in_keys=list(in_keys), out_keys=list(in_keys if out_keys is None else out_keys))
        self.sampling, self.control_hz = sampling, control_hz
        ClipBuffer(sampling, control_hz)
        self._rolling: list[list[ClipBuffer]] = [[] for _ in self.in_keys]
        self._clips: list[list[Tensor]] = [[] for _ in self.in_keys]

    def _reset(self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase) -> TensorDictBase:
        begins = self._mask(tensordict, self._reset_key(), tensordict_reset.batch_size)
        return self._roll(tensordict_reset, begins, begins)

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        moves = self._mask(tensordict, "_step", next_tensordict.batch_size)
        return self._roll(next_tensordict, torch.zeros_like(moves), moves)

    def _reset_on_native_autoreset(
        self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase
    ) -> TensorDictBase:
        tensordict_reset = tensordict_reset.copy()
        for key, out in zip(self.in_keys, self.out_keys, strict=True):
            if key == out:
                tensordict_reset.set(key, tensordict_reset.get(key).select(-4, -1))
        return self._reset(tensordict, tensordict_reset)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Raises ``VieError``: a sample of a replay buffer is no next frame."""
        raise VieError("ClipTransform is for environments: a replay buffer does not give pictures in order")

    def _reset_key(self) -> NestedKey:
        keys = self.parent.reset_keys if self.parent is not None else ["_reset"]
        if len(keys) != 1:
            raise VieError(f"the environment is reset by {', '.join(map(str, keys))}: clips need one key for all")
        return keys[0]

    def _mask(self, tensordict: TensorDictBase, key: NestedKey, batch: torch.Size) -> Tensor:
        mask = tensordict.get(key, None)
        return torch.ones(math.prod(batch), dtype=torch.bool) if mask is None else mask.reshape(math.prod(batch)).cpu()

    def _roll(self, tensordict: TensorDictBase, begins: Tensor, moves: Tensor) -> TensorDictBase:
        for camera, (key, out) in enumerate(zip(self.in_keys, self.out_keys, strict=True)):
            pictures = tensordict.get(key, None)
            if pictures is None or pictures.dtype != torch.uint8:
                raise VieError(f"{key} is {getattr(pictures, 'dtype', 'absent')}: give the camera's uint8 pixels")
            clips = self._of_camera(camera, pictures.reshape(-1, *pictures.shape[-3:]), begins, moves)
            tensordict.set(out, clips.reshape(*pictures.shape[:-3], *clips.shape[1:]).to(pictures.device))
        return tensordict

    def _of_camera(self, camera: int, pictures: Tensor, begins: Tensor, moves: Tensor) -> Tensor:
        if not self._rolling[camera]:
            self._rolling[camera] = [ClipBuffer(self.sampling, self.control_hz) for _ in pictures]
            self._clips[camera] = [torch.empty(0)] * len(pictures)
        if len(self._rolling[camera]) != len(pictures):
            raise VieError(
                f"there are {len(pictures)} environments, and were {len(self._rolling[camera])}: give a ClipTransform "
                "to each batch of environments"
            )
        last = self._clips[camera]
        for number, frame in enumerate(pictures.cpu().numpy()):
            buffer = self._rolling[camera][number]
            if begins[number] or not len(last[number]):
                last[number] = torch.from_numpy(buffer.reset(frame))
            elif moves[number]:
                last[number] = torch.from_numpy(buffer.append(frame))
        return torch.stack(last)

    def transform_observation_spec(self, observation_spec: TensorSpec) -> TensorSpec:
        """With the clips."""
        if not isinstance(observation_spec, Composite):
            raise VieError("the environment's observations have no names: wrap it so that they are a Composite")
        changed = observation_spec.clone()
        for key, out in zip(self.in_keys, self.out_keys, strict=True):
            if key not in changed.keys(True, True):
                found = ", ".join(map(str, changed.keys(True, True)))
                raise VieError(f"the environment's observations have no {key!r}: they have {found}")
            before = changed[key]
            shape = (*before.shape[:-3], self.sampling.frames, *before.shape[-3:])
            changed[out] = Unbounded(shape, device=before.device, dtype=before.dtype)
        return changed
