"""Cal-QL of ``rl_encoders.agents`` beside d3rlpy's, on the same pictures through the same trunk.

d3rlpy's holds a trunk for the actor, for each critic and for their targets, and sends a picture through a critic's once
for every action that is scored on it. Ours sends it through once in an update, or, frozen, once in its life.
"""

import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import torch

from benchmarks.speed import hosts_d3rlpy
from benchmarks.speed.record import Job, Table, in_turns, medians
from benchmarks.speed.setting import Setting
from rl_encoders import load
from rl_encoders.agents.calql import CalQL, CalQLConfig
from rl_encoders.agents.perception import Eyes
from rl_encoders.agents.returns import monte_carlo_returns
from rl_encoders.replay.buffer import Replay
from rl_encoders.training.graphed import WARM, Graphed, prepare
from vie import create_model, save_pretrained

COLUMNS = {"trunk": "", "agent": "", "size": "d", "batch": "d", "updates/s": ".2f", "of d3rlpy": ".1f"}
MODES = ("frozen", "finetune")
STEPS, ACTION, HIDDEN = hosts_d3rlpy.STEPS, hosts_d3rlpy.ACTION, hosts_d3rlpy.HIDDEN


def measure(job: Job) -> None:
    """Trains all of them in turns, on one episode of noise."""
    table = Table(job, "agents", COLUMNS)
    width, size, batch = (8, 32, 8) if job.quick else (64, 112, 256 if job.device.type == "cuda" else 16)
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        model = create_model("vie_single_r18", width=width).eval()
        save_pretrained(model, folder, model.sampling)
        for mode in MODES:
            if not table.wants(mode):
                continue
            if mode == "finetune":  # d3rlpy keeps what a trunk computes of 31 copies of each picture
                batch = min(batch, 4 if job.device.type == "cpu" else 64)
            theirs, adapted = (
                hosts_d3rlpy.CalQL(Setting(folder, size, batch, job.device, mode, ours)) for ours in (False, True)
            )
            ways: dict[str, Callable[[], object]] = {
                "d3rlpy": theirs.update,
                "d3rlpy with rl_encoders": adapted.update,
                "rl_encoders.agents": _ours(Path(folder), mode, size, batch, job.device),
            }
            if job.device.type == "cuda":
                ways["rl_encoders.agents, CUDA graph"] = _ours(Path(folder), mode, size, batch, job.device, True)
            for name, update in ways.items():
                for _ in range(WARM + 2 if "graph" in name else 1):
                    update()
            found = medians(in_turns(ways, job.device, *((0.05, 2) if job.quick else (1.0, 5))))
            for name, seconds in found.items():
                speedup = found["d3rlpy"] / seconds
                table.add(
                    **{"trunk": mode, "agent": name, "size": size, "batch": batch, "updates/s": 1 / seconds},
                    **{"of d3rlpy": speedup},
                )


def _ours(
    source: Path, mode: str, size: int, batch: int, device: torch.device, graphed: bool = False
) -> Callable[[], object]:
    """An update of our agent, with settings like those of d3rlpy: a trunk of its own for the actor, no shifts."""
    eyes = Eyes(load(source, mode, size=size, device=device), control_hz=10, most_shift=0)
    config = CalQLConfig(
        policy_hidden=(HIDDEN,), critic_hidden=(HIDDEN,), share_encoder=False, policy_lr=1e-4, critic_lr=3e-4
    )
    agent = CalQL(eyes, ACTION, config).to(device)
    agent.make_optimizers()
    replay, chance = Replay(STEPS + 1, device, eyes.back), np.random.default_rng(0)
    rewards = chance.uniform(size=STEPS).astype(np.float32)
    replay.add(
        eyes.keep({"pixels": chance.integers(0, 256, (STEPS + 1, size, size, 3), np.uint8)}),
        chance.uniform(-1, 1, (STEPS, ACTION)).astype(np.float32),
        rewards,
        True,
        monte_carlo_returns(rewards, config.gamma),
    )
    numbers, update = count(), agent.update
    if graphed:
        prepare(agent.optimizers().values())
        update = Graphed(update)
    return lambda: update(replay.draw(batch, (next(numbers),)))
