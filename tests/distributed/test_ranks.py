"""One bank, one loss and one clustering, however many ranks there are."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain import similarities
from pretrain.config import BankConfig, InstanceRecognitionConfig, LocalAggregationConfig, RuntimeConfig
from pretrain.objective import Objective
from pretrain.runtime import training_forward
from tests.distributed.processes import on_ranks
from vie import MemoryBank, VieError, cluster, create_model, neighbours
from vie.bank import PADDING
from vie.distributed import ALONE, Ranks

INSTANCES, DIM, BATCH, STEPS, SWITCH = 61, 8, 8, 9, 4
SIZES = (2, 4)


def clips(step: int) -> tuple[Tensor, Tensor]:
    """Embeddings that depend on one parameter, and their instances, for the whole batch of a step."""
    generator = torch.Generator().manual_seed(step)
    instances = torch.randint(INSTANCES, (BATCH,), generator=generator)
    instances[step % BATCH] = PADDING
    instances[-1] = instances[0]
    return torch.randn(BATCH, DIM, generator=generator, dtype=torch.float64), instances


def train(sharded: bool, noise: int | None, in_parts: bool) -> dict[str, Tensor]:
    """Some steps of both objectives; what they leave, with this rank's part of the gradient summed over ranks."""
    ranks = Ranks.of_job()
    with pytest.MonkeyPatch.context() as patch:
        if in_parts:
            patch.setattr(similarities, "WHOLE_BYTES", 0)
            patch.setattr(similarities, "PART_BYTES", 8 * BATCH * 7)
            patch.setattr(neighbours, "CHUNK_BYTES", 8 * BATCH * 7)
        return steps(ranks, sharded, noise)


def steps(ranks: Ranks, sharded: bool, noise: int | None) -> dict[str, Tensor]:
    bank = MemoryBank(INSTANCES, DIM, seed=4, sharded=sharded).double()
    objective = Objective(
        bank,
        BankConfig(),
        InstanceRecognitionConfig(steps=SWITCH, noise=noise),
        LocalAggregationConfig(steps=STEPS, clusters=9, neighbours=20, clusterings=2),
        seed=1,
        steps_per_epoch=3,
    )
    mixing = torch.eye(DIM, dtype=torch.float64, requires_grad=True)
    losses, gradients, labels = [], [], []
    for step in range(STEPS):
        objective.begin_step(step)
        whole, instances = clips(step)
        part = slice(ranks.rank * BATCH // ranks.size, (ranks.rank + 1) * BATCH // ranks.size)
        embedding = F.normalize(whole[part] @ mixing, dim=1)
        loss = objective.loss(embedding, instances[part], step)
        (gradient,) = torch.autograd.grad(loss, mixing)
        losses.append(ranks.sum(loss.detach()))
        gradients.append(ranks.sum(gradient))
        objective.end_step(embedding, instances[part])
        most = -(-INSTANCES // bank.owners.size)
        padded = F.pad(objective.labels, (0, most - len(bank.rows)))
        labels.append(bank.owners.gather(padded.T)[:INSTANCES].T)
    labels = [row if len(row) == 2 else row.expand(2, -1) for row in labels]
    return {
        "losses": torch.stack(losses),
        "gradients": torch.stack(gradients),
        "labels": torch.stack(labels),
        "bank": bank.whole(),
    }


def of_network() -> dict[str, Tensor]:
    """Loss and gradients of the network itself over one batch, as the trainer calls it; batch norm is held still."""
    ranks = Ranks.of_job()
    torch.manual_seed(0)
    stream = create_model("vie_single_r18", width=4, embed_dim=DIM).double().eval()
    forward = training_forward(stream, RuntimeConfig(precision="fp32"), (), torch.device("cpu"))
    objective = Objective(
        MemoryBank(INSTANCES, DIM, seed=4).double(),
        BankConfig(),
        InstanceRecognitionConfig(steps=1, noise=None),
        LocalAggregationConfig(steps=0),
        seed=1,
        steps_per_epoch=1,
    )
    pictures = torch.randn(BATCH, 3, 1, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    part = slice(ranks.rank * BATCH // ranks.size, (ranks.rank + 1) * BATCH // ranks.size)
    loss = objective.loss(forward(pictures[part]), torch.arange(BATCH)[part], 0)
    (loss * ranks.size).backward()
    return {
        "losses": ranks.sum(loss.detach()),
        "gradients": torch.cat([parameter.grad.flatten() for parameter in stream.parameters()]),
    }


def ask(sharded: bool) -> dict[str, Tensor]:
    """What a bank answers to questions that differ between ranks."""
    ranks = Ranks.of_job()
    bank = MemoryBank(INSTANCES, DIM, seed=4, sharded=sharded).double()
    asked = torch.arange(16).view(8, 2)[ranks.rank * 8 // ranks.size : (ranks.rank + 1) * 8 // ranks.size] * 4
    similarity, numbers = bank.nearest(bank.gather(asked[:, 0]), 30)
    return {
        "rows": ranks.gather(bank.gather(asked)),
        "similarity": ranks.gather(similarity),
        "numbers": ranks.gather(numbers),
        "index": torch.tensor(bank.as_faiss_index().ntotal),
    }


def cluster_shares(clusters: int) -> Tensor:
    """Clusters of two heaps of equal rows: most clusters are empty at first, and start again somewhere."""
    ranks = Ranks.of_job()
    generator = torch.Generator().manual_seed(0)
    rows = F.normalize(torch.randn(50, DIM, generator=generator), dim=1)
    rows[:30] = rows[0]
    share = ranks.share(len(rows))
    found = cluster(rows[share.start : share.stop], clusters, 2, ranks=ranks)
    most = -(-len(rows) // ranks.size)
    return ranks.gather(F.pad(found, (0, most - len(share))).T)[: len(rows)].T


def everything() -> dict[str, dict[str, Tensor]]:
    """All of the above, as starting processes takes longer than what they do."""
    return {
        **{name: train(**settings) for name, settings in RUNS.items()},
        **{f"ask {layout}": ask(layout == "sharded") for layout in ("sharded", "replicated")},
        "clusters": {"labels": cluster_shares(20)},
        "network": of_network(),
    }


RUNS = {
    f"{layout} {loss}{way}": {"sharded": layout == "sharded", "noise": noise, "in_parts": bool(way)}
    for layout in ("sharded", "replicated")
    for loss, noise in (("exact", None), ("noise", 32))
    for way in ("", " in parts")
}


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, Tensor]]:
    return everything()


@pytest.fixture(scope="module", params=SIZES)
def together(request, tmp_path_factory) -> list[dict[str, dict[str, Tensor]]]:
    return on_ranks(request.param, everything, tmp_path_factory.mktemp("ranks"))


def test_one_rank_learns(alone):
    for name in RUNS:
        assert alone[name]["losses"].min() > 0.1
        assert alone[name]["gradients"].abs().amax(dim=(1, 2)).min() > 1e-3
        assert not torch.equal(alone[name]["labels"][0], alone[name]["labels"][-1])
    assert all(len(run.unique()) == 20 for run in alone["clusters"]["labels"])
    assert alone["network"]["gradients"].abs().max() > 1e-3


def test_both_layouts_are_one(alone):
    for loss in ("exact", "noise"):
        assert all(
            torch.equal(value, alone[f"replicated {loss}"][name]) for name, value in alone[f"sharded {loss}"].items()
        )


@pytest.mark.parametrize("case", [name for name in RUNS if "in parts" in name])
def test_a_bank_too_large_for_one_product_is_the_same(alone, case):
    for name, value in alone[case.removesuffix(" in parts")].items():
        torch.testing.assert_close(alone[case][name], value, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("case", [*RUNS, "network", "ask sharded", "ask replicated", "clusters"])
def test_several_ranks_are_one(together, alone, case, table):
    for found in together:
        assert found[case].keys() == alone[case].keys()
        for name, value in alone[case].items():
            torch.testing.assert_close(
                found[case][name], value, atol=1e-9, rtol=1e-9, msg=lambda t, n=name: f"{n}: {t}"
            )
    if case in (*RUNS, "network"):
        worst = {
            name: max((found[case][name] - alone[case][name]).abs().max().item() for found in together)
            for name in ("losses", "gradients", "labels", "bank")
            if name in alone[case]
        }
        table("ranks", ranks=len(together), case=case, **{name: f"{value:.1e}" for name, value in worst.items()})


def test_what_cannot_be_divided_is_refused():
    with pytest.raises(VieError, match="5 instances cannot be divided between 4 ranks"):
        MemoryBank(5, DIM, ranks=Ranks(0, 4))
    assert len(MemoryBank(5, DIM, ranks=Ranks(3, 4), sharded=False).rows) == 5
    assert [list(Ranks(rank, 3).share(7)) for rank in range(3)] == [[0, 1, 2], [3, 4, 5], [6]]
    assert Ranks.of_job() is ALONE
