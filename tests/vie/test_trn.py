import itertools

import pytest
import torch
from torch import Tensor

from vie import Stream, VieError, create_model

CONCAT, RELATION = "vie_trn_r18", "vie_trn_relation_r18"


def model(name: str) -> Stream:
    torch.manual_seed(0)
    return create_model(name, width=4, embed_dim=8).eval()


def clip(frames: int = 4) -> Tensor:
    return torch.randn(3, 3, frames, 40, 40, generator=torch.Generator().manual_seed(0))


def features_by_single(network: Stream) -> Tensor:
    """Pooled features (B, 4, C) of the frames, each through VIE-Single with the same trunk."""
    single = create_model("vie_single_r18", width=4).eval()
    single.trunk.load_state_dict(network.trunk.state_dict())
    return torch.stack([single.pooled(clip()[:, :, [frame]]) for frame in range(4)], dim=1)


@torch.no_grad()
def test_features_of_the_frames_stand_side_by_side_in_their_order():
    network = model(CONCAT)
    assert network.num_features == 4 * 32
    torch.testing.assert_close(network.pooled(clip()), features_by_single(network).flatten(1))


@torch.no_grad()
def test_relations_are_summed_over_ordered_tuples():
    network = model(RELATION)
    assert network.num_features == 32
    features = features_by_single(network)
    expected = torch.zeros(3, 32)
    tuples = 0
    for relation, length in zip(network.relations, (4, 3, 2), strict=True):
        first, _, second = relation
        for chosen in itertools.combinations(range(4), length):
            tuples += 1
            joined = torch.cat([features[:, frame] for frame in chosen], dim=1)
            hidden = (joined @ first.weight.T + first.bias).clamp(min=0)
            expected += hidden @ second.weight.T + second.bias
    assert tuples == 1 + 4 + 6
    torch.testing.assert_close(network.pooled(clip()), expected)


@torch.no_grad()
@pytest.mark.parametrize("name", [CONCAT, RELATION])
def test_order_of_frames_counts(name):
    network = model(name)
    assert not torch.allclose(network(clip()), network(clip().flip(2)), atol=1e-3)


@pytest.mark.parametrize("name", [CONCAT, RELATION])
def test_another_number_of_frames(name):
    with pytest.raises(VieError, match=rf"{name} takes clips of 4 frames, not 5: set data\.frames=4"):
        model(name)(clip(5))


def test_the_trunk_is_that_of_single():
    """So that pretraining can begin from a finished VIE-Single."""
    single = create_model("vie_single_r18", width=4)
    missing, unexpected = model(CONCAT).trunk.load_state_dict(single.trunk.state_dict())
    assert not missing
    assert not unexpected
