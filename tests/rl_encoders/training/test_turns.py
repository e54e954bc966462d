"""How often a policy learns beside the critics."""

import pytest

from rl_encoders.training.turns import turns


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.3, 1.0, 2.5])
def test_they_are_spread_evenly(rate):
    found = [turns(number, rate) for number in range(1000)]
    assert max(found) - min(found) <= 1
    assert sum(found) == pytest.approx(1000 * rate, abs=1)


def test_by_default_it_is_once_each():
    assert {turns(number, 1.0) for number in range(5000)} == {1}
