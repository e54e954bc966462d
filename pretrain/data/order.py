"""Which instances a step sees: a pure function of (seed, epoch, step)."""

import functools

import numpy as np
import numpy.typing as npt
import torch

from vie.errors import VieError

LARGEST_TABLE = 2**24
"""Up to so many instances every worker keeps the epoch's permutation (64 MiB); of more it looks up what it needs."""

ROUNDS = 8


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
    places = np.arange(position * batch_size, (position + 1) * batch_size)
    # The counter keeps this stream apart from the augmentation's, whose key is the same.
    chance = np.random.Philox(key=[seed, epoch], counter=[0, 0, 1, 0])
    if num_instances > LARGEST_TABLE:
        return scatter(places, num_instances, chance.random_raw(ROUNDS))
    return _table(seed, epoch, num_instances)[places].astype(np.int64)


@functools.lru_cache(maxsize=2)
def _table(seed: int, epoch: int, num_instances: int) -> npt.NDArray[np.uint32]:
    chance = np.random.Philox(key=[seed, epoch], counter=[0, 0, 1, 0])
    numbers = np.arange(num_instances, dtype=np.uint32)
    np.random.Generator(chance).shuffle(numbers)
    return numbers


def scatter(places: npt.NDArray[np.int64], count: int, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """What a permutation of 0 ... count - 1 has at some places, without the rest of it: a Feistel network.

    Black, Rogaway, "Ciphers with Arbitrary Finite Domains" (CT-RSA 2002): numbers of 2 h bits are permuted, and one
    that comes to lie beyond the count is permuted again.

    Args:
        places: (B,) each in [0, count).
        count: At least 2.
        keys: One for each round.

    Returns:
        (B,) numbers in [0, count), which differ where the places do.
    """
    half = np.uint64(-(-(count - 1).bit_length() // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    numbers = places.astype(np.uint64)
    outside = np.ones(len(numbers), dtype=bool)
    while outside.any():
        left, right = numbers[outside] >> half, numbers[outside] & mask
        for key in keys:
            left, right = right, left ^ (_mixed(right ^ key) & mask)
        numbers[outside] = left << half | right
        outside = numbers >= count
    return numbers.astype(np.int64)


def _mixed(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of MurmurHash3, by which every bit depends on every other."""
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        x = (x ^ (x >> np.uint64(33))) * np.uint64(factor)
    return x ^ (x >> np.uint64(33))


def step_generator(seed: int, step: int, device: torch.device, rank: int = 0) -> torch.Generator:
    """What chance decides in a step on a device, as a function of (seed, step), or for each rank by itself."""
    mixed = np.random.SeedSequence([seed, step, *([rank] if rank else [])]).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(mixed >> np.uint64(1)))
