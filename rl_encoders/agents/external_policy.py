"""A policy that lives elsewhere: a large vision-language-action model behind two functions.

PA-RL needs no gradient through a policy (Sobol Mark et al. 2024 improve OpenVLA), so all that is asked of it is to
sample actions and to take supervised steps. Sampling a large model is slow: candidates are kept by what was seen, and
asked for anew when the policy has learned.
"""

import hashlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rl_encoders.agents.agent import Metrics
from rl_encoders.agents.base_policy import BasePolicy, Seen
from vie import VieError

Arrays = dict[str, npt.NDArray[np.generic]]
Actions = npt.NDArray[np.float32]

Ask = Callable[[Arrays, int], Actions]
"""Draws n actions for each of B observations, arrays (B, ...) by name: (B, n, A)."""

Teach = Callable[[Arrays, Actions], float]
"""Takes a supervised step towards actions (B, A), and returns its loss."""


class ExternalPolicy(BasePolicy):
    """Two functions, and the candidates that one of them gave."""

    def __init__(self, ask: Ask, teach: Teach, action_dim: int, refresh_every: int = 1000, most: int = 200_000) -> None:
        """Wraps a policy.

        Args:
            ask: Samples it.
            teach: Trains it: all parameters, or adapters such as LoRA's.
            action_dim: |A|.
            refresh_every: Supervised steps after which candidates are asked for anew; older ones serve until then.
            most: Observations whose candidates are kept; the oldest go first.
        """
        super().__init__()
        self.ask, self.teach, self.action_dim = ask, teach, action_dim
        self.refresh_every, self.most = refresh_every, most
        self.steps = self.asked = 0
        self._kept: dict[bytes, Actions] = {}

    @torch.no_grad()
    def sample(self, seen: Seen, count: int) -> Tensor:
        arrays = _arrays(seen)
        keys = [_key(arrays, row, count) for row in range(len(next(iter(arrays.values()))))]
        missing = {key: row for row, key in enumerate(keys) if key not in self._kept}
        found = {key: self._kept[key] for key in keys if key in self._kept}
        if missing:
            rows = np.array(list(missing.values()))
            drawn = np.asarray(self.ask({name: array[rows] for name, array in arrays.items()}, count), np.float32)
            if drawn.shape != (len(rows), count, self.action_dim) or not np.isfinite(drawn).all():
                raise VieError(
                    f"the external policy gave {drawn.shape} actions, or some that are no numbers, where "
                    f"{(len(rows), count, self.action_dim)} were asked for: mend the function that samples it"
                )
            found |= dict(zip(missing, drawn, strict=True))
            self._kept |= {key: found[key] for key in missing}
            self.asked += len(rows)
            for key in list(self._kept)[: max(0, len(self._kept) - self.most)]:
                del self._kept[key]
        device = next(iter(seen.values())).device
        return torch.from_numpy(np.stack([found[key] for key in keys])).to(device)

    def imitate(self, seen: Seen, action: Tensor, shifts: Tensor | None = None) -> Metrics:
        loss = self.teach(_arrays(seen), action.cpu().numpy())
        self.steps += 1
        if self.steps % self.refresh_every == 0:
            self._kept.clear()
        return {"policy_loss": torch.tensor(loss)}


def _arrays(seen: Seen) -> Arrays:
    return {name: tensor.cpu().numpy() for name, tensor in seen.items()}


def _key(arrays: Arrays, row: int, count: int) -> bytes:
    digest = hashlib.blake2b(str(count).encode(), digest_size=16)
    for name in sorted(arrays):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(arrays[name][row]).tobytes())
    return digest.digest()
