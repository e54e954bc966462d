"""Draws without the host are those that they stand in for."""

import pytest
import torch

from rl_encoders.agents.draws import draw_by_logits, draw_members

MANY = 20_000


def test_numbers_come_as_often_as_their_logits_say():
    logits = torch.tensor([[0.0, 1.0, -2.0, 0.5], [3.0, 3.0, -torch.inf, 0.0]])
    drawn = draw_by_logits(logits.expand(MANY, 2, 4), torch.Generator().manual_seed(0))
    assert drawn.shape == (MANY, 2)
    for row in range(2):
        shares = drawn[:, row].bincount(minlength=4) / MANY
        torch.testing.assert_close(shares, logits[row].softmax(dim=0), atol=0.015, rtol=0)


@pytest.mark.parametrize("count", [1, 2, None])
def test_every_set_of_members_is_as_likely(count):
    torch.manual_seed(0)
    drawn = torch.stack([draw_members(4, count, torch.device("cpu")) for _ in range(MANY // 5)])
    size = count or 4
    assert drawn.shape[1] == size
    assert all(len(set(row)) == size for row in drawn.tolist())
    torch.testing.assert_close(drawn.flatten().bincount() / len(drawn), torch.full((4,), size / 4), atol=0.03, rtol=0)
