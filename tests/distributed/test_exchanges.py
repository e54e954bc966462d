"""The plan for large jobs counts what real ones exchange."""

from collections import Counter
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from benchmarks.scale import Job, clustering_exchange, kept, render, step_exchanges
from pretrain.config import BankConfig, InstanceRecognitionConfig, LocalAggregationConfig
from pretrain.objective import Objective
from tests.distributed.processes import on_ranks
from vie import MemoryBank, cluster

JOB = Job(instances=60, ranks=2, clips=3, noise=32, neighbours=20, clusters=7, clusterings=2, dim=8)
OPERATIONS = {"all_gather": "all_gather", "all_reduce": "all_reduce", "all_to_all_single": "all_to_all"}


def counted(job: Job) -> dict[str, dict[str, Tensor]]:
    """Calls and bytes that this rank gives, by stage and operation."""
    bank = MemoryBank(job.instances, job.dim, dtype=torch.float16)
    objective = Objective(
        bank,
        BankConfig(),
        InstanceRecognitionConfig(steps=1, noise=job.noise),
        LocalAggregationConfig(clusters=job.clusters, neighbours=job.neighbours, clusterings=job.clusterings),
        seed=0,
        steps_per_epoch=1,
    )
    given: Counter[str] = Counter()
    calls: Counter[str] = Counter()

    def counting(name, function):
        def call(*arguments, **options):
            # The tensor given is the second where there is one to write to.
            tensor = arguments[0] if name == "all_reduce" else arguments[1]
            given[OPERATIONS[name]] += tensor.nbytes
            calls[OPERATIONS[name]] += 1
            return function(*arguments, **options)

        return call

    found = {}

    def take(stage: str) -> None:
        found[stage] = {name: torch.tensor([calls[name], given[name]]) for name in sorted(calls)}
        given.clear()
        calls.clear()

    with pytest.MonkeyPatch.context() as patch:
        for name in OPERATIONS:
            patch.setattr(dist, name, counting(name, getattr(dist, name)))
        instances = torch.arange(job.clips)
        for step, stage in enumerate(("ir", "la")):
            embedding = F.normalize(torch.randn(job.clips, job.dim), dim=1).requires_grad_()
            objective.loss(embedding, instances, step).backward()
            objective.end_step(embedding, instances)
            take(stage)
        cluster(bank.embeddings, job.clusters, 1, iterations=2, ranks=bank.owners)
        take("two passes")
        cluster(bank.embeddings, job.clusters, 1, iterations=1, ranks=bank.owners)
        take("one pass")
    found["kept"] = {
        "bank": torch.tensor(bank.embeddings.nbytes),
        "clusters of its rows": torch.tensor(objective.labels.nbytes),
    }
    return found


@pytest.mark.parametrize("ranks", [2, 4])
def test_the_plan_counts_what_is_exchanged(tmp_path, ranks):
    job = Job(**vars(JOB) | {"ranks": ranks})
    for found in on_ranks(ranks, counted, tmp_path, job):
        for stage in ("ir", "la"):
            expected: dict[str, list[int]] = {}
            for exchange in step_exchanges(job, stage):
                calls, size = expected.get(exchange.operation, [0, 0])
                expected[exchange.operation] = [calls + exchange.calls, size + exchange.bytes]
            assert {name: tensor.tolist() for name, tensor in found[stage].items()} == expected
        one = clustering_exchange(job)
        pair = found["two passes"]["all_reduce"] - found["one pass"]["all_reduce"]
        assert pair.tolist() == [one.calls, one.bytes]
        assert all(kept(job)[name] == size for name, size in found["kept"].items())


def test_the_page_is_what_the_script_prints():
    page = (Path(__file__).parents[2] / "docs/scale.md").read_text()
    assert render(Job()) in page
