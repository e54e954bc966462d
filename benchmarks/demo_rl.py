"""The whole way of an agent: episodes, an encoder pretrained on their frames, offline, online, report."""

import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from pretrain.preparation.inputs import list_videos
from pretrain.preparation.prepare import PrepareConfig, prepare
from pretrain.settings import parse_config
from pretrain.train import Trainer
from rl_encoders.collect import CollectReport, collect
from rl_encoders.demonstrators import make_policy
from rl_encoders.environments import make_environment
from rl_encoders.reporting.report import write_report
from rl_encoders.training.commands import train
from rl_encoders.training.settings import EnvironmentConfig, parse_train_config
from rl_encoders.trajectories import open_trajectories
from vie import VieError
from vie.files import write_atomically
from vie.history import read_history
from vie.video.mp4 import write_mp4

RECIPE = "demo_maze"
"""Of pretraining, and of the agent."""
EPISODES, NOISE = 300, 1.5
"""Of the controller that makes the data: it does the task three times out of five."""
AGENT = "vie-frozen"
"""Folder of the agent's run, and its name in the report."""

Made = TypeVar("Made")


def run_demo_rl(out: Path, seed: int = 0) -> None:
    """Trains an agent that sees a maze through a frozen encoder, which was pretrained on nothing but frames of it.

    What an earlier call has done is not done again, and what it had begun goes on.

    Args:
        out: Folder for the episodes (``data``), their ``videos`` and ``corpus``, the ``encoder``, the agent
            (``vie-frozen``) and ``report.html``.
        seed: Of all of it.

    Raises:
        VieError: The folder holds something else, or a demo of other settings.
    """
    start = time.monotonic()
    world = parse_train_config([RECIPE]).environment
    print(f"1/5 Collecting {EPISODES} episodes of a noisy controller in {world.name}, seen from above", flush=True)
    data = _begun(out, lambda: _collect(world, out / "data", seed))
    print("2/5 Writing them as videos, and preparing these into shards", flush=True)
    _write_videos(out / "data", out / "videos", world.control_hz)
    prepare(list_videos(out / "videos"), out / "corpus", PrepareConfig(short_side=world.size))
    print("3/5 Pretraining the static stream on them, without labels, actions or rewards", flush=True)
    pretraining = [f"run={out / 'encoder'}", f"data.path={out / 'corpus'}", f"seed={seed}"]
    _begun(out, lambda: Trainer(parse_config([RECIPE], pretraining))).train()
    print("4/5 Cal-QL through the frozen encoder, offline and then online", flush=True)
    agent = [f"run={out / AGENT}", f"dataset={out / 'data'}", f"seed={seed}"]
    agent.append(f"encoder.source={out / 'encoder' / 'encoder-ir'}")
    _begun(out, partial(train, [RECIPE], agent))
    print("5/5 Writing the report", flush=True)
    print(write_report([out / AGENT], out / "report.html"))
    print(f"{_told(out / AGENT, data)} ({(time.monotonic() - start) / 60:.1f} minutes)")


def _collect(world: EnvironmentConfig, out: Path, seed: int) -> CollectReport:
    with ExitStack() as stack:
        worlds = [
            make_environment(world.name, seed, world.size, max_steps=world.max_steps, reward=world.reward)
            for _ in range(2)
        ]
        for one in worlds:
            stack.enter_context(closing(one))
        policy = make_policy(worlds[0], "waypoint", NOISE)
        return collect(worlds, policy, EPISODES, out, {"policy": "waypoint", "noise": NOISE})


def _write_videos(data: Path, out: Path, fps: float) -> None:
    """One for each episode; those that are there are kept."""
    out.mkdir(parents=True, exist_ok=True)
    for number, trajectory in enumerate(open_trajectories(str(data))):
        path = out / f"{number:04d}.mp4"
        if not path.exists():
            pixels = np.asarray(trajectory.observations["pixels"], np.uint8)
            write = partial(write_mp4, frames=pixels, fps=fps, key_frames_only=True)
            write_atomically(path, write)


def _begun(out: Path, step: Callable[[], Made]) -> Made:
    """A step of the demo, which takes no settings, so that what its parts say of theirs is no remedy here."""
    try:
        return step()
    except VieError as error:
        if str(out) not in str(error):
            raise
        raise VieError(f"{str(error).rpartition(': ')[0]}: delete {out} and start the demo again") from error


def _told(run: Path, data: CollectReport) -> str:
    """What was reached, in one line."""
    found = [row for row in read_history(run) if "success" in row]
    offline = [row for row in found if not row["environment_steps"]][-1]
    return (
        f"Success: {100 * (data.successes or 0) / data.episodes:.0f} % of the data's episodes, "
        f"{100 * offline['success']:.0f} % after {offline['step']:,} updates on it, "
        f"{100 * found[-1]['success']:.0f} % after {found[-1]['environment_steps']:,} steps of the agent's own"
    )
