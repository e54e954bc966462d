"""An encoder whose trunk runs through torch.compile."""

import copy

import numpy as np
import pytest
import torch

from rl_encoders import VisualEncoder, encoder, load

TINY = {"source": "vie_single_r18", "width": 4, "size": 32}


@pytest.fixture(autouse=True, params=["aot_eager", pytest.param("inductor", marks=pytest.mark.long)])
def backend(request, monkeypatch):
    torch._dynamo.reset()
    through = torch.compile(VisualEncoder._encode, dynamic=False, backend=request.param)
    monkeypatch.setattr(encoder, "_compiled", lambda: through)


@pytest.fixture
def compiled():
    torch.manual_seed(0)
    return load(**TINY, compile=True, history=2)


def pictures(count):
    return np.random.default_rng(count).integers(0, 256, (count, 2, 32, 32, 3)).astype(np.uint8)


def plain(encoder):
    copied = copy.deepcopy(encoder)
    copied.compiles = False
    return copied


def test_it_gives_the_vectors_of_the_plain_one(compiled):
    for count in (1, 3, 4):
        torch.testing.assert_close(compiled(pictures(count)), plain(compiled)(pictures(count)), atol=1e-4, rtol=1e-4)
    compiled.verify()


def test_few_sizes_are_compiled(compiled):
    counter = torch._dynamo.utils.counters["stats"]
    before = counter["unique_graphs"]
    for count in (5, 6, 7, 8):
        compiled(pictures(count))
    assert counter["unique_graphs"] - before == 1


def test_a_trained_trunk_learns_as_the_plain_one():
    torch.manual_seed(0)
    compiled = load(**TINY, mode="finetune", compile=True, update_statistics=True)
    gradients = []
    for made in (compiled, plain(compiled)):
        made(pictures(3)[:, 0]).square().mean().backward()
        gradients.append([tensor.grad for tensor in made.trunk.parameters()])
    assert len(gradients[0]) > 20
    for one, other in zip(*gradients, strict=True):
        # Batch norm over three pictures magnifies what a fused kernel rounds otherwise.
        torch.testing.assert_close(one, other, atol=0.01 * float(other.abs().max()) + 1e-6, rtol=0)


def test_it_follows_the_schedule():
    made = load(**TINY, mode="partial", train_from={0: "none", 1: "all"}, compile=True)
    before = made(pictures(2)[:, 0])
    assert not before.requires_grad
    made.advance(1)
    after = made(pictures(2)[:, 0])
    assert after.requires_grad
    with torch.no_grad():
        for tensor in made.trunk.parameters():
            tensor.zero_()
    assert not made(pictures(2)[:, 0]).any()
