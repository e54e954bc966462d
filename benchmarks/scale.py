"""What a job of many ranks keeps and exchanges, in bytes, by arithmetic; tests count the same in real jobs.

    python -m benchmarks.scale [--instances 65000000] [--ranks 64] [--clips 128] …

It prints the tables of ``docs/scale.md``.
"""

import argparse
from dataclasses import dataclass, fields
from typing import Literal

FLOAT, INTEGER = 4, 8


@dataclass(frozen=True)
class Job:
    """A VIE job with a sharded bank; the defaults are the plan's.

    Attributes:
        instances: N, rows of the bank.
        ranks: W.
        clips: B, of each rank in a step.
        noise: M of instance recognition.
        neighbours: k of local aggregation.
        clusters: K.
        clusterings: H.
        dim: D.
        row_bytes: Of one number in the bank: 2 in float16.
        parameters: Of the network; VIE-3DResNet has 33.27 M.
    """

    instances: int = 65_000_000
    ranks: int = 64
    clips: int = 128
    noise: int = 4096
    neighbours: int = 512
    clusters: int = 100_000
    clusterings: int = 1
    dim: int = 128
    row_bytes: int = 2
    parameters: int = 33_270_000

    @property
    def rows(self) -> int:
        """Of one rank."""
        return -(-self.instances // self.ranks)

    @property
    def all_clips(self) -> int:
        return self.clips * self.ranks


@dataclass(frozen=True)
class Exchange:
    """What every rank gives to a collective operation: ``bytes`` in ``calls`` calls."""

    what: str
    operation: Literal["all_gather", "all_reduce", "all_to_all"]
    bytes: int
    calls: int = 1


def step_exchanges(job: Job, stage: Literal["ir", "la"]) -> list[Exchange]:
    """Exchanges of one step: loss, gradient and update of the bank."""
    own, every = job.clips, job.all_clips
    loss = {
        "ir": [
            Exchange("similarities with the positives", "all_reduce", every * FLOAT),
            Exchange("sums over the noise", "all_reduce", every * FLOAT),
            Exchange("gradients of both", "all_reduce", 2 * every * FLOAT, 2),
        ],
        "la": [
            Exchange("each rank's k nearest similarities", "all_to_all", every * job.neighbours * FLOAT),
            Exchange("how many of them are background", "all_to_all", every * INTEGER),
            Exchange("largest similarities", "all_reduce", every * FLOAT),
            Exchange("clusters of the clips", "all_reduce", job.clusterings * every * INTEGER),
            Exchange("sums over close and background neighbours", "all_reduce", 2 * every * FLOAT),
            Exchange("gradients of these sums", "all_reduce", 2 * every * FLOAT),
        ],
    }[stage]
    return [
        Exchange("embeddings and numbers of the clips", "all_gather", own * (job.dim * FLOAT + INTEGER), 2),
        *loss,
        Exchange("number of clips that count", "all_reduce", INTEGER),
        Exchange("gradient of the embeddings", "all_reduce", every * job.dim * FLOAT),
        Exchange("embeddings and numbers, for the update", "all_gather", own * (job.dim * FLOAT + INTEGER), 2),
    ]


def network_exchange(job: Job) -> Exchange:
    """DistributedDataParallel's exchange of gradients, beside the backward pass."""
    return Exchange("gradients of the network", "all_reduce", job.parameters * FLOAT)


def clustering_exchange(job: Job) -> Exchange:
    """One pass of k-means."""
    return Exchange("sums and sizes of the clusters", "all_reduce", job.clusters * (job.dim + 1) * INTEGER, 2)


def kept(job: Job) -> dict[str, int]:
    """Bytes that each rank keeps on its device."""
    return {
        "bank": job.rows * job.dim * job.row_bytes,
        "clusters of its rows": job.clusterings * job.rows * INTEGER,
        "k-means: centroids, sums, sizes": job.clusters * (job.dim * (FLOAT + INTEGER) + INTEGER),
        "noise of all clips, for a moment": job.all_clips * job.noise * INTEGER,
        "network and momentum": 2 * job.parameters * FLOAT,
    }


def checkpoint_bytes(job: Job) -> int:
    """Of one checkpoint, over all ranks."""
    bank = job.instances * (job.dim * job.row_bytes + job.clusterings * INTEGER)
    return bank + 2 * job.parameters * FLOAT


def work(job: Job) -> dict[str, float]:
    """Multiplications and additions of each rank."""
    return {
        "local aggregation: similarities of all clips with its rows": 2.0 * job.all_clips * job.rows * job.dim,
        "one pass of k-means": 2.0 * job.rows * job.clusters * job.dim,
    }


def render(job: Job) -> str:
    """The tables of the plan, as Markdown."""
    about = ", ".join(f"{field.name} {getattr(job, field.name):,}" for field in fields(job))
    lines = [f"`python -m benchmarks.scale`: {about}.", ""]
    lines += ["| every rank keeps | MB |", "|---|---|"]
    lines += [f"| {name} | {size / 1e6:,.1f} |" for name, size in kept(job).items()]
    lines += [f"| a checkpoint, over all ranks | {checkpoint_bytes(job) / 1e6:,.0f} |", ""]
    lines += ["| every rank gives | by | when | MB |", "|---|---|---|---|"]
    times = {"each step of IR": step_exchanges(job, "ir"), "each step of LA": step_exchanges(job, "la")}
    common = [one for one in times["each step of IR"] if one in times["each step of LA"]]
    rows = [(one, "each step") for one in [network_exchange(job), *common]]
    rows += [(one, when) for when, exchanges in times.items() for one in exchanges if one not in common]
    rows.append((clustering_exchange(job), "each pass of k-means"))
    lines += [f"| {one.what} | {one.operation} | {when} | {one.bytes / 1e6:,.3f} |" for one, when in rows]
    lines += ["", "| every rank computes | 10^12 multiplications and additions |", "|---|---|"]
    lines += [f"| {name} | {count / 1e12:,.1f} |" for name, count in work(job).items()]
    return "\n".join(lines)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in fields(Job):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=int, default=field.default)
    print(render(Job(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()
