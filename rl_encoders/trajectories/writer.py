"""Trajectories into a dataset in Minari's format, each of them whole on the disk or not there."""

import fcntl
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from rl_encoders.environments.plain import box
from rl_encoders.replay.trajectory import Space, Trajectory
from rl_encoders.trajectories.minari import FACTS, METADATA
from vie import VieError
from vie.files import write_text_atomically


class MinariWriter:
    """A dataset that grows by an episode at a time.

    Attributes:
        episodes, steps: That it holds.
        successes: How many of them did the task; None where nobody told.
        next_number: Of the episode that is to be tried next, counting those that failed.
    """

    def __init__(self, folder: str | Path, space: Space, facts: Mapping[str, Any]) -> None:
        """Begins a dataset, or goes on with one.

        Args:
            folder: Of the dataset.
            space: Of its observations and actions.
            facts: What the dataset is; kept in its metadata.

        Raises:
            VieError: Minari is missing, another process writes there, or the folder holds something else or other
                facts.
        """
        # Minari's storage looks for what it has written below a relative path a second time.
        self.folder, self.facts = Path(folder).absolute(), json.loads(json.dumps(dict(facts)))
        self.observations = spaces.Dict({name: box(*part) for name, part in space.observations.items()})
        self.actions = spaces.Box(space.low, space.high, dtype=np.float32)
        self.space = space
        try:
            from minari import __version__
        except ImportError as error:
            raise VieError(f"{folder} is written by Minari ({error}): pip install 'vie[minari]'") from error
        self._partial = self.folder / "partial"
        begun = (self.folder / METADATA).is_file()
        if not begun and self.folder.exists() and any(one != self._partial for one in self.folder.iterdir()):
            raise VieError(f"{folder} holds something else: give another folder")
        (self.folder / METADATA.parent).mkdir(parents=True, exist_ok=True)
        self._held = self._hold()
        if begun:
            self.metadata = self._found()
            return
        self.metadata = {
            **self._stage().read_raw_metadata(self._partial),
            "dataset_id": _identity(self.folder.name),
            "minari_version": __version__,
            "algorithm_name": str(facts.get("policy", "unknown")),
            FACTS: {**self.facts, "next_number": 0, "successes": None},
        }
        self._save()

    @property
    def episodes(self) -> int:
        return self.metadata["total_episodes"]

    @property
    def steps(self) -> int:
        return self.metadata["total_steps"]

    @property
    def successes(self) -> int | None:
        return self.metadata[FACTS]["successes"]

    @property
    def next_number(self) -> int:
        return self.metadata[FACTS]["next_number"]

    def write(self, trajectory: Trajectory, number: int, seed: int, success: bool | None) -> None:
        """Adds an episode; it is on the disk when this returns.

        Args:
            trajectory: Of the dataset's space.
            number: Of the episode among those that were tried.
            seed: Of its reset.
            success: Whether it did the task, if that is known.

        Raises:
            VieError: It does not fit the space; names the episode.
        """
        from minari.data_collector import EpisodeBuffer

        trajectory.check(self.space)
        place = self.episodes
        ends = np.zeros(len(trajectory), bool)
        ends[-1] = True
        never = np.zeros(len(trajectory), bool)
        stage = self._stage()
        stage.update_episodes(
            [
                EpisodeBuffer(
                    id=place,
                    seed=seed,
                    observations={name: np.asarray(trajectory.observations[name]) for name in self.observations},
                    actions=trajectory.actions,
                    rewards=trajectory.rewards,
                    terminations=ends if trajectory.terminal else never,
                    truncations=never if trajectory.terminal else ends,
                )
            ]
        )
        stage.update_episode_metadata([{"number": number, "success": success}], [place])
        for file in (self._partial / str(place)).iterdir():
            with file.open("rb+") as written:
                os.fsync(written.fileno())
        final = self.folder / METADATA.parent / str(place)
        # One that was moved here before its dataset counted it.
        shutil.rmtree(final, ignore_errors=True)
        os.replace(self._partial / str(place), final)
        self.metadata["total_episodes"] += 1
        self.metadata["total_steps"] += len(trajectory)
        facts = self.metadata[FACTS]
        facts["next_number"] = number + 1
        if success is not None:
            facts["successes"] = (facts["successes"] or 0) + int(success)
        self._save()

    def close(self) -> None:
        """Lets others write there."""
        os.close(self._held)

    def _hold(self) -> int:
        held = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(held)
            raise VieError(f"another process writes into {self.folder}: wait for it, or give another folder") from error
        return held

    def _stage(self) -> Any:
        """A dataset of its own beside ours, in which Minari writes an episode."""
        from minari.dataset.minari_storage import MinariStorage

        shutil.rmtree(self._partial, ignore_errors=True)
        # Frames as they are: what is learned from them is to be what was seen.
        return MinariStorage.new(
            self._partial, self.observations, self.actions, data_format="arrow", jpeg_encoding=False
        )

    def _save(self) -> None:
        write_text_atomically(self.folder / METADATA, json.dumps(self.metadata))
        shutil.rmtree(self._partial, ignore_errors=True)

    def _found(self) -> dict[str, Any]:
        metadata = json.loads((self.folder / METADATA).read_text())
        known = metadata.get(FACTS)
        if known is None:
            raise VieError(f"{self.folder} was not collected by vie-rl: give another folder")
        for name in sorted(set(self.facts) | set(known) - {"next_number", "successes"}):
            if self.facts.get(name) != known.get(name):
                raise VieError(
                    f"{self.folder} was collected with {name}={known.get(name)!r} and not {self.facts.get(name)!r}: "
                    "give another folder, or the same settings"
                )
        return metadata


def _identity(name: str) -> str:
    """A name that Minari takes for a dataset."""
    word = re.sub(r"[^A-Za-z0-9_.-]", "-", name).strip("-.") or "collected"
    return word if re.search(r"-v\d+$", word) else f"{word}-v0"
