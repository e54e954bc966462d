"""An agent that has become NaN is not kept."""

import pytest
import torch
from torch import nn

from rl_encoders.training.finite import check_finite
from vie import VieError


def test_numbers_are_kept():
    check_finite(nn.Linear(3, 2))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_named(value):
    agent = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    with torch.no_grad():
        agent[1].weight[0, 1] = value
    with pytest.raises(VieError, match=r"1\.weight of the agent \(1 of .*learning rates; the last checkpoint is whole"):
        check_finite(agent)
    with torch.no_grad():
        agent[0].bias[0] = value
    with pytest.raises(VieError, match=r"0\.bias of the agent \(2 of"):
        check_finite(agent)
