"""How often something has its turn beside updates that are counted."""

import math


def turns(number: int, rate: float) -> int:
    """How often at this update, so that it is ``rate`` times for each on average: a function of its number alone."""
    return math.floor((number + 1) * rate) - math.floor(number * rate)
