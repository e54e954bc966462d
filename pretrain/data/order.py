"""Which instances a step sees: a pure function of (seed, epoch, step)."""

import functools

import numpy as np
import numpy.typing as npt
import torch

from vie.errors import VieError


def steps_per_epoch(num_instances: int, batch_size: int) -> int:
    """Whole batches in an epoch; raises ``VieError`` if there is none."""
    if num_instances < batch_size:
        raise VieError(
            f"{num_instances} training instances do not fill a batch of {batch_size}: "
            f"set data.batch_size to {num_instances} or less"
        )
    return num_instances // batch_size


def batch_instances(seed: int, step: int, num_instances: int, batch_size: int) -> npt.NDArray[np.int64]:
    """Instance numbers (batch_size,) of a step; within an epoch none comes twice."""
    epoch, position = divmod(step, steps_per_epoch(num_instances, batch_size))
    return _permutation(seed, epoch, num_instances)[position * batch_size : (position + 1) * batch_size]


@functools.lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, num_instances: int) -> npt.NDArray[np.int64]:
    # The counter keeps this stream apart from the augmentation's, whose key is the same.
    bits = np.random.Philox(key=[seed, epoch], counter=[0, 0, 1, 0])
    return np.random.Generator(bits).permutation(num_instances)


def step_generator(seed: int, step: int, device: torch.device, rank: int = 0) -> torch.Generator:
    """What chance decides in a step on a device, as a function of (seed, step), or for each rank by itself."""
    mixed = np.random.SeedSequence([seed, step, *([rank] if rank else [])]).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(mixed >> np.uint64(1)))
