"""A policy that lives elsewhere: a large vision-language-action model behind two functions.

PA-RL needs no gradient through a policy (Sobol Mark et al. 2024 improve OpenVLA), so all that is asked of it is to
sample actions and to take supervised steps. Sampling a large model is slow: candidates are kept by what was seen, and
asked for anew when the policy has learned.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.optim import Optimizer

from rl_encoders.agents.agent import Metrics
from rl_encoders.agents.base_policy import BasePolicy, Seen
from vie import VieError

Arrays = dict[str, npt.NDArray[np.generic]]
Actions = npt.NDArray[np.float32]

Ask = Callable[[Arrays, int], Actions]
"""Draws n actions for each of B observations, arrays (B, ...) by name: (B, n, A)."""

Teach = Callable[[Arrays, Actions], float]
"""Takes a supervised step towards actions (B, A), and returns its loss."""

Weights = Mapping[str, Tensor]


class ExternalPolicy(BasePolicy):
    """Two functions, and the candidates that one of them gave.

    A checkpoint holds the candidates, so that a run goes on as it would have, and whatever ``weights`` gives. The
    pictures are not shifted: the policy sees them as they were taken.
    """

    capturable = False

    def __init__(
        self,
        ask: Ask,
        teach: Teach,
        action_dim: int,
        refresh_every: int = 1000,
        most: int = 200_000,
        *,
        learn_from: int | None = None,
        optimizer: Optimizer | None = None,
        weights: Callable[[], Weights] | None = None,
        load_weights: Callable[[Weights], None] | None = None,
    ) -> None:
        """Wraps a policy.

        Args:
            ask: Samples it.
            teach: Trains it: all parameters, or adapters such as LoRA's.
            action_dim: |A|.
            refresh_every: Supervised steps after which candidates are asked for anew; older ones serve until then.
            most: Observations whose candidates are kept; the oldest go first.
            learn_from: Transitions of a batch that it learns from, evenly spaced; None for all. A large model's batch
                is smaller than a critic's (OpenVLA's is 16 in PA-RL).
            optimizer: Of ``teach``, where checkpoints are to hold its state.
            weights: What it has learned, by name: into checkpoints. None where it keeps that itself.
            load_weights: Gives them back to it.
        """
        super().__init__()
        self.ask, self.teach, self.action_dim = ask, teach, action_dim
        self.refresh_every, self.most, self.learn_from = refresh_every, most, learn_from
        self.optimizer, self.weights, self.load_weights = optimizer, weights, load_weights
        self.steps = self.asked = 0
        self._kept: dict[bytes, Actions] = {}

    def optimizers(self) -> dict[str, Optimizer]:
        return {} if self.optimizer is None else {"policy": self.optimizer}

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
        if self.learn_from is not None and self.learn_from < len(action):
            # The first of a batch are offline data, the last the agent's own.
            rows = torch.linspace(0, len(action) - 1, self.learn_from, device=action.device).round().long()
            seen, action = {name: tensor[rows] for name, tensor in seen.items()}, action[rows]
        loss = self.teach(_arrays(seen), action.cpu().numpy())
        self.steps += 1
        if self.steps % self.refresh_every == 0:
            self._kept.clear()
        return {"policy_loss": torch.tensor(loss)}

    def get_extra_state(self) -> dict[str, Any]:
        """What a checkpoint holds, as part of ``state_dict``."""
        by_count: dict[int, dict[bytes, Actions]] = {}
        for key, actions in self._kept.items():
            by_count.setdefault(len(actions), {})[key] = actions
        candidates = [
            {
                "keys": torch.from_numpy(np.frombuffer(b"".join(some), np.uint8).reshape(len(some), -1).copy()),
                "actions": torch.from_numpy(np.stack(list(some.values()))),
            }
            for some in by_count.values()
        ]
        weights = {} if self.weights is None else dict(self.weights())
        return {"steps": self.steps, "asked": self.asked, "candidates": candidates, "weights": weights}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from what a checkpoint holds.

        Raises:
            VieError: It holds weights, and nothing takes them.
        """
        if state["weights"]:
            if self.load_weights is None:
                raise VieError("the checkpoint holds weights of the external policy: give load_weights to take them")
            self.load_weights(state["weights"])
        self.steps, self.asked = state["steps"], state["asked"]
        self._kept = {key: actions for some in state["candidates"] for key, actions in _unpacked(some)}


def _unpacked(some: Mapping[str, Tensor]) -> Iterator[tuple[bytes, Actions]]:
    keys, actions = some["keys"].cpu().numpy(), some["actions"].cpu().numpy()
    return ((key.tobytes(), one) for key, one in zip(keys, actions, strict=True))


def _arrays(seen: Seen) -> Arrays:
    return {name: tensor.cpu().numpy() for name, tensor in seen.items()}


def _key(arrays: Arrays, row: int, count: int) -> bytes:
    digest = hashlib.blake2b(str(count).encode(), digest_size=16)
    for name in sorted(arrays):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(arrays[name][row]).tobytes())
    return digest.digest()
