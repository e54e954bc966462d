"""PA-RL's work: candidates that are sampled and improved in a second, and what of an update the trunk takes.

With a frozen trunk features are kept and no update runs it: what a trained one adds to the same update is its share.
"""

from collections.abc import Callable
from itertools import count

import numpy as np
import torch

from benchmarks.speed.record import Job, Table, in_turns, medians
from rl_encoders import load
from rl_encoders.agents.autoregressive import AutoregressiveHead
from rl_encoders.agents.base_policy import GaussianHead, PolicyHead, SeeingPolicy
from rl_encoders.agents.diffusion import DiffusionHead
from rl_encoders.agents.parl import PARL, PARLConfig
from rl_encoders.agents.perception import Eyes
from rl_encoders.replay.buffer import Replay
from rl_encoders.training.graphed import Graphed, prepare

COLUMNS = {
    **{"policy": "", "updates": "", "size": "d", "batch": "d"},
    **{"frozen updates/s": ".2f", "finetuned updates/s": ".2f", "trunk": ".0%", "candidates/s": ".0f"},
}
POLICIES: dict[str, type[PolicyHead]] = {
    "diffusion": DiffusionHead,
    "transformer": AutoregressiveHead,
    "gaussian": GaussianHead,
}
STEPS, ACTION, PROJECT = 300, 7, 256
ASKED = 3
"""Times that an online update improves candidates: for s, for s', and for what the policy imitates."""


def measure(job: Job) -> None:
    """Times online updates, imitation included, of every policy, with the trunk frozen and trained in turns."""
    table = Table(job, "parl", COLUMNS)
    width, size, batch = (8, 32, 8) if job.quick else (64, 112, 256 if job.device.type == "cuda" else 16)
    ways = ["eager", "cuda_graph"] if job.device.type == "cuda" else ["eager"]
    for policy in POLICIES:
        for way in ways:
            if not table.wants(f"{policy} {way}"):
                continue
            updates = {
                mode: _update(policy, mode, width, size, batch, job.device, way == "cuda_graph")
                for mode in ("frozen", "finetune")
            }
            for update in updates.values():
                for _ in range(5 if way == "cuda_graph" else 1):
                    update()
            found = medians(in_turns(updates, job.device, *((0.05, 2) if job.quick else (1.0, 5))))
            table.add(
                **{"policy": policy, "updates": way, "size": size, "batch": batch},
                **{"frozen updates/s": 1 / found["frozen"], "finetuned updates/s": 1 / found["finetune"]},
                **{"trunk": 1 - found["frozen"] / found["finetune"]},
                **{"candidates/s": ASKED * batch * PARLConfig().candidates / found["frozen"]},
            )


def _update(
    policy: str, mode: str, width: int, size: int, batch: int, device: torch.device, graphed: bool
) -> Callable[[], object]:
    torch.manual_seed(0)
    eyes, own = (
        Eyes(load("vie_single_r18", mode, width=width, size=size, project=PROJECT, device=device), control_hz=10)
        for _ in range(2)
    )
    agent = PARL(eyes, ACTION, PARLConfig(), SeeingPolicy(own, POLICIES[policy](own.dim, ACTION))).to(device)
    agent.make_optimizers()
    replay, chance = Replay(STEPS + 1, device, eyes.back), np.random.default_rng(0)
    numbers = [chance.uniform(-1, 1, shape).astype(np.float32) for shape in ((STEPS, ACTION), STEPS, STEPS)]
    pictures = chance.integers(0, 256, (STEPS + 1, size, size, 3), np.uint8)
    replay.add(eyes.keep({"pixels": pictures}), numbers[0], numbers[1], True, numbers[2])
    distil, update = agent.distil, agent.update
    if graphed:
        prepare(agent.optimizers().values())
        distil, update = Graphed(distil), Graphed(update)
    drawn = count()

    def both() -> None:
        drawn_batch = replay.draw(batch, (next(drawn),))
        distil(drawn_batch)
        update(drawn_batch)

    return both
