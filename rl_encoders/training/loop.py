"""Offline updates, then episodes with updates after each; everything that is drawn is a function of seed and number."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from rl_encoders.agents.agent import Agent, Metrics
from rl_encoders.replay.buffer import Replay, joined
from rl_encoders.rollout import MOST_FAULTS, EpisodeError, World, run_episodes
from rl_encoders.training.actor import Actor
from rl_encoders.training.checkpoint import load_state, save_state
from rl_encoders.training.config import RunConfig
from rl_encoders.training.evaluation import evaluate, summary
from rl_encoders.training.films import keep_films
from rl_encoders.training.graphed import Graphed, Learn, check_capturable, prepare
from rl_encoders.training.mixture import draw_mixed
from rl_encoders.training.seeding import EXTRA, IMITATE, OFFLINE, ONLINE, seeded
from rl_encoders.training.storage import episode_path, load_episode, save_episode, stored
from vie.distributed import ALONE
from vie.errors import VieError
from vie.files import locked
from vie.history import History
from vie.stopping import StoppedError, listening

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint"
"""Folder within a run's."""


class Training:
    """One run of an agent.

    Attributes:
        agent: What learns.
        imitated, updates, steps, episodes: How often it has imitated and learned, acted, and finished.
    """

    def __init__(
        self,
        config: RunConfig,
        agent: Agent,
        offline: Replay | None = None,
        worlds: Sequence[World] = (),
        control_hz: float = 10.0,
    ) -> None:
        """Takes an agent on its device, with its optimizers made.

        Args:
            config: What to do.
            agent: That learns.
            offline: Data of others, as ``storage.filled`` makes it.
            worlds: Where it acts: in the first to learn, in all of them at once to be evaluated; none for offline data
                alone.
            control_hz: Steps in a second, for films.

        Raises:
            VieError: There is nothing to learn from.
        """
        if not config.run:
            raise VieError("the run has no folder: give it as run=FOLDER")
        if not (offline and len(offline)) and (config.offline_updates or not worlds):
            raise VieError("there is no offline data to learn from: give a dataset, or offline_updates=0")
        if not worlds and config.online_steps:
            raise VieError(f"online_steps={config.online_steps} need an environment: give one, or 0")
        if config.data.chunk > 1 and agent.eyes.back:
            raise VieError(
                f"data.chunk={config.data.chunk} with clips of a trunk that is trained: chunks leave out frames "
                "between, so give an encoder of single frames, or mode=frozen"
            )
        self.config, self.agent, self.worlds, self.control_hz = config, agent, worlds, control_hz
        self.run, self.offline = Path(config.run), offline
        self.online = Replay(config.data.rows, agent.device, agent.eyes.back) if config.online_steps else None
        self.imitated = self.updates = self.steps = self.episodes = self.faults = 0
        self._graphs: dict[str, Graphed] = {}
        if config.mode == "cuda_graph":
            check_capturable(agent)
            prepare(agent.optimizers().values())
        self._resume()

    def train(self) -> dict[str, float]:
        """Does all that is left, and returns the last evaluation.

        Raises:
            StoppedError: A signal asked to stop; the last update is kept.
        """
        with locked(self.run, ALONE), listening() as listener:
            history = History(self.run, self.updates)
            found: dict[str, float] = {}
            try:
                for evaluate in self._phases(history):
                    if evaluate:
                        found = self.evaluate(self.config.films)
                        history.add(self.updates, environment_steps=self.steps, **found)
                    if listener.asked:
                        self._save()
                        raise StoppedError(listener.asked, self.updates)
            except EpisodeError:
                self._save()
                raise
            finally:
                history.close()
            self._save()
            return found

    def _phases(self, history: History) -> Iterator[bool]:
        """Yields after everything that can be stopped after: whether to evaluate."""
        config = self.config
        if self.agent.imitates:
            for number in self._counted("imitate", self.imitated, config.imitation_updates, history):
                self.imitated = number
                yield False
        for number in self._counted("offline", self.updates, config.offline_updates, history):
            self.updates = number
            last = number == config.offline_updates
            yield last or bool(config.evaluate_every and number % config.evaluate_every == 0)
        if not self.worlds:
            return
        with tqdm(total=config.online_steps, initial=self.steps, unit="step", desc=f"{self.run.name} online") as bar:
            while self.steps < config.online_steps:
                before = self.steps
                self._episode(history)
                bar.update(self.steps - before)
                every = config.evaluate_every
                last = self.steps >= config.online_steps
                yield last or bool(every and self.steps // every > before // every)
                if self.episodes % config.checkpoint_every == 0:
                    self._save()

    def _counted(self, what: str, done: int, count: int, history: History) -> Iterator[int]:
        """Updates on the offline data; yields the number of each once it is done."""
        learn, phase = self._way("update"), OFFLINE
        if what == "imitate":
            learn, phase = self._way("imitate"), IMITATE
        data = self.config.data
        best = self.offline.of_largest_reward() if self.offline and data.extra else None
        for number in tqdm(range(done, count), initial=done, total=count, desc=f"{self.run.name} {what}"):
            assert self.offline is not None
            batch = self.offline.draw(data.batch, (self.config.seed, phase, number))
            if best is not None:
                batch = joined(batch, self.offline.draw(data.extra, (self.config.seed, EXTRA, number), best))
            seeded(self.config.seed, phase, number)
            self.agent.advance(self.updates)
            metrics = learn(batch)
            if (number + 1) % self.config.log_every == 0:
                # The record counts updates, of which imitation is none.
                counted = {"imitated": torch.tensor(number + 1)} if what == "imitate" else {}
                self._log(history, metrics | counted, what)
            yield number + 1
            if (number + 1) % self.config.checkpoint_every == 0:
                self._save()

    def _episode(self, history: History) -> None:
        """One episode of the agent, on disk before anything is learned of it."""
        assert self.online is not None
        actor = Actor(self.agent, explore=True, chunk=self.config.data.chunk)
        try:
            seed = seeded(self.config.seed, ONLINE, self.episodes)
            name = f"{self.run.name} episode {self.episodes}"
            trajectory = run_episodes(self.worlds[:1], actor, [name], [seed])[0].trajectory
            self.faults = 0
        except EpisodeError as error:
            self.faults += 1
            if self.faults == MOST_FAULTS:
                raise
            logger.warning("%s; what came before is kept", error)
            if error.before is None:
                return
            trajectory = error.before
        one = stored(trajectory, actor.kept(0, trajectory), self.config.data)
        save_episode(episode_path(self.run, self.episodes), one)
        one.put_into(self.online, self.config.data)
        self.steps += len(trajectory)
        self.episodes += 1
        data = self.config.data
        for _ in range(round(len(trajectory) * self.config.updates_per_step)):
            batch = draw_mixed(
                self.offline, self.online, data.batch, data.mix, (self.config.seed, ONLINE, self.updates)
            )
            seeded(self.config.seed, OFFLINE, self.updates)
            self.agent.advance(self.updates)
            metrics = self._way("distil")(batch) if self.agent.imitates else {}
            metrics |= self._way("update")(batch)
            self.updates += 1
            if self.updates % self.config.log_every == 0:
                self._log(history, metrics, "online")
        history.add(self.updates, environment_steps=self.steps, episode_return=float(trajectory.rewards.sum()))

    def _way(self, name: str) -> Learn:
        """A method of the agent that learns, as the mode has it run."""
        learn: Learn = getattr(self.agent, name)
        if self.config.mode == "eager":
            return learn
        if name not in self._graphs:
            self._graphs[name] = Graphed(learn)
        return self._graphs[name]

    def evaluate(self, films: int = 0) -> dict[str, float]:
        """Of some episodes without exploration, the first of them filmed; empty where there is no environment."""
        config = self.config
        count = config.evaluation_episodes if self.worlds else 0
        episodes = evaluate(self.agent, self.worlds, count, config.seed, self.run.name, config.data.chunk)
        keep_films(self.run, episodes[:films], self.control_hz, self.updates, self.steps)
        return summary(episodes)

    def _log(self, history: History, metrics: Metrics, phase: str) -> None:
        values = {name: float(value) for name, value in metrics.items()}
        bad = [name for name, value in values.items() if not np.isfinite(value)]
        if bad:
            raise VieError(
                f"{', '.join(bad)} is no number after {self.updates} updates: lower the learning rates; the last "
                "checkpoint is whole"
            )
        history.add(self.updates, phase=phase, **values)

    def _save(self) -> None:
        optimizers = {name: one.state_dict() for name, one in self.agent.optimizers().items()}
        counts = {name: getattr(self, name) for name in ("imitated", "updates", "steps", "episodes")}
        state = {"agent": self.agent.state_dict(), "optimizers": optimizers, "counts": counts}
        save_state(self.run / CHECKPOINT, state)

    def _resume(self) -> None:
        state = load_state(self.run / CHECKPOINT)
        if state is None:
            return
        self.agent.load_state_dict(state["agent"])
        for name, count in state["counts"].items():
            setattr(self, name, count)
        # Optimizers hold states of what a schedule has come to train.
        self.agent.advance(max(0, self.updates - 1))
        for name, optimizer in self.agent.optimizers().items():
            optimizer.load_state_dict(state["optimizers"][name])
        for episode in range(self.episodes):
            assert self.online is not None
            load_episode(episode_path(self.run, episode)).put_into(self.online, self.config.data)


def restore(agent: Agent, run: Path) -> None:
    """Gives an agent what one of the same settings has learned in a run.

    Raises:
        VieError: It has learned nothing yet, or the checkpoint is damaged.
    """
    state = load_state(run / CHECKPOINT)
    if state is None:
        raise VieError(f"{run} holds no checkpoint yet: train it first")
    agent.load_state_dict(state["agent"])
