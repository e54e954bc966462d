"""What one rank cannot write, no rank takes for written."""

import re
import resource
import signal
from pathlib import Path

import pytest
import torch

from pretrain.checkpoint import Checkpoints, Divided, State
from tests.distributed.processes import on_ranks
from vie import VieError
from vie.distributed import Ranks

ROWS = 200_000


def filled(ranks: Ranks, number: float) -> State:
    """A network that all ranks share, and each one's part of a bank."""
    return {"weight": torch.ones(3), "bank": Divided(torch.full((len(ranks.share(ROWS)), 4), number), 0, ROWS)}


def fails(fault: str, run: Path) -> dict[str, torch.Tensor | str]:
    """A checkpoint that is kept, and one that the second rank cannot write: what each is told, and what is left."""
    ranks = Ranks.of_job()
    checkpoints = Checkpoints(run, ranks, torch.device("cpu"), 3)
    told = ""
    with checkpoints:
        checkpoints.save(5, filled(ranks, 0.5), {})
        checkpoints.finish()
        second = filled(ranks, 1.0)
        if ranks.rank == 1 and fault == "no number":
            bank = second["bank"]
            assert isinstance(bank, Divided)
            bank.part[-1, 0] = torch.nan
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        if ranks.rank == 1 and fault == "disk full":
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        try:
            checkpoints.save(10, second, {})
            checkpoints.finish()
        except VieError as error:
            told = str(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    read = filled(ranks, 1.0)
    checkpoints.load(run / "checkpoints" / "step-000000005", read)
    bank = read["bank"]
    assert isinstance(bank, Divided)
    return {"told": told, "bank": bank.part}


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("no number", "bank is no number, and no checkpoint is made of it"),
        ("disk full", "File too large.*free some space"),
    ],
)
def test_what_one_rank_cannot_write_ends_all_and_the_one_before_stays(fault, words, tmp_path, table):
    run = tmp_path / "run"
    for found in on_ranks(2, fails, tmp_path, fault, run):
        assert re.search(words, found["told"]), found["told"]
        assert (found["bank"] == 0.5).all()
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-000000005"]
    table(
        "jobs",
        fault=f"one rank of two cannot write its part: {fault}",
        outcome="both ended; the checkpoint before as it was",
    )
