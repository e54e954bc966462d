"""Similarities with rows are the same numbers, with the same gradient, whichever way they are taken."""

import pytest
import torch

from pretrain.similarities import HeldWhole, TakenInParts


@pytest.mark.parametrize("way", [HeldWhole, TakenInParts])
@pytest.mark.parametrize("count", [5, 40])  # the product is gathered from, or the rows are
def test_those_at_some_rows_and_their_gradient(way, count):
    generator = torch.Generator().manual_seed(0)
    clips = torch.randn(6, 8, dtype=torch.float64, generator=generator, requires_grad=True)
    rows = torch.randn(100, 8, dtype=torch.float64, generator=generator)
    place = torch.randint(100, (6, count), generator=generator)
    product = clips @ rows.T
    weight = torch.randn(6, count, dtype=torch.float64, generator=generator)
    expected = product.gather(1, place)
    found = way(clips, rows).at(place, torch.ones_like(place, dtype=torch.bool))
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad((one * weight).sum(), clips, retain_graph=True)[0] for one in (found, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("way", [HeldWhole, TakenInParts])
def test_rows_in_half_precision_are_brought_to_that_of_the_clips(way):
    clips, rows = torch.randn(3, 8), torch.randn(50, 8).half()
    for count in (2, 20):
        place = torch.randint(50, (3, count))
        found = way(clips, rows).at(place, torch.ones_like(place, dtype=torch.bool))
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, (clips @ rows.float().T).gather(1, place))
