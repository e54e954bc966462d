import itertools

import numpy as np
import pytest

from pretrain.data import order
from pretrain.data.order import batch_instances, steps_per_epoch
from vie import VieError


@pytest.fixture(params=["table", "scattered"], autouse=True)
def way(request, monkeypatch):
    """Every law of the order holds for a few instances as for many."""
    if request.param == "scattered":
        monkeypatch.setattr(order, "LARGEST_TABLE", 0)


def test_the_table_is_numpys_permutation():
    chance = np.random.Generator(np.random.Philox(key=[5, 2], counter=[0, 0, 1, 0]))
    np.testing.assert_array_equal(order._table(5, 2, 1000), chance.permutation(1000))


@pytest.mark.parametrize("count", [2, 3, 16, 17, 1000, 65_536, 65_537, 100_000])
def test_scattering_is_a_permutation(count):
    keys = np.random.Philox(count).random_raw(order.ROUNDS)
    whole = order.scatter(np.arange(count), count, keys)
    np.testing.assert_array_equal(np.sort(whole), np.arange(count))
    some = np.random.default_rng(0).integers(count, size=50)
    np.testing.assert_array_equal(order.scatter(some, count, keys), whole[some])


def test_scattering_is_as_good_as_chance():
    """Neighbouring places lie anywhere, and each number comes to each place as often."""
    count, epochs = 5000, 300
    rows = np.stack([order.scatter(np.arange(count), count, np.random.Philox(e).random_raw(8)) for e in range(epochs)])
    steps = np.diff(rows, axis=1) % count
    # Of 10 equal ranges of a step, by a chi-squared test with 9 degrees of freedom at 1 in 10,000.
    for values in (steps.ravel(), rows[:, 0], rows[:, 1234], (rows[1:] - rows[:-1]).ravel() % count):
        seen = np.bincount(values * 10 // count, minlength=10)
        assert ((seen - seen.mean()) ** 2 / seen.mean()).sum() < 34
    assert abs(np.mean(rows == np.arange(count)) * count - 1) < 0.3


def test_many_millions():
    batches = [batch_instances(3, step, 65_000_000, 8192) for step in range(20)]
    assert len(np.unique(np.concatenate(batches))) == 20 * 8192
    assert np.concatenate(batches).max() > 64_900_000


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
    asked = np.random.default_rng(0).permutation(np.repeat(np.arange(30), 2))
    for step in asked.tolist():
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
