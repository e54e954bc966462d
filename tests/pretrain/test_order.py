import itertools

import numpy as np
import pytest

from pretrain.data.order import batch_instances, steps_per_epoch
from vie import VieError


@pytest.mark.parametrize(("instances", "batch"), [(48, 8), (50, 8), (7, 7), (1000, 64), (5, 1)])
def test_an_epoch_sees_no_instance_twice(instances, batch):
    steps = steps_per_epoch(instances, batch)
    assert steps == instances // batch
    for epoch in range(3):
        batches = [batch_instances(11, epoch * steps + step, instances, batch) for step in range(steps)]
        seen = np.concatenate(batches)
        assert all(len(part) == batch for part in batches)
        assert len(np.unique(seen)) == steps * batch
        assert seen.min() >= 0
        assert seen.max() < instances


def test_batches_do_not_depend_on_what_was_asked_before():
    expected = {step: batch_instances(5, step, 50, 8).copy() for step in range(30)}
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(30), 2))
    for step in order.tolist():
        batch_instances(6, step, 50, 8)
        np.testing.assert_array_equal(batch_instances(5, step, 50, 8), expected[step])


def test_epochs_and_seeds_differ():
    def epoch(seed: int, number: int) -> np.ndarray:
        return np.concatenate([batch_instances(seed, number * 6 + step, 48, 8) for step in range(6)])

    orders = [epoch(seed, number) for seed in range(3) for number in range(3)]
    for one, other in itertools.combinations(orders, 2):
        assert (one == other).mean() < 0.3


def test_rest_of_an_epoch_takes_turns():
    """What one epoch leaves out, because it does not fill a batch, is not always the same."""
    left_out = [
        set(range(50))
        - set(np.concatenate([batch_instances(0, epoch * 6 + step, 50, 8) for step in range(6)]).tolist())
        for epoch in range(40)
    ]
    assert len(set().union(*left_out)) > 30


def test_too_few_instances():
    with pytest.raises(VieError, match=r"7 training instances do not fill a batch of 8.*data\.batch_size"):
        steps_per_epoch(7, 8)
    with pytest.raises(VieError, match=r"data\.batch_size"):
        batch_instances(0, 0, 7, 8)
