"""Offline updates, then episodes with updates after each; everything that is drawn is a function of seed and number."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rl_encoders.agents.agent import Agent, Metrics
from rl_encoders.replay.buffer import Batch, Replay, joined
from rl_encoders.rollout import MOST_FAULTS, Action, Acts, EpisodeError, Parts, World, run_episodes
from rl_encoders.training.actor import Actor
from rl_encoders.training.checkpoint import load_state, save_state
from rl_encoders.training.config import RunConfig
from rl_encoders.training.evaluation import evaluate, summary
from rl_encoders.training.films import keep_films
from rl_encoders.training.finite import check_finite
from rl_encoders.training.graphed import Ways
from rl_encoders.training.mixture import Source, draw_mixed
from rl_encoders.training.progress import Progress
from rl_encoders.training.seeding import EXTRA, IMITATE, OFFLINE, ONLINE, seeded
from rl_encoders.training.storage import (
    Stored,
    episode_path,
    load_episode,
    new_replay,
    rows_needed,
    save_episode,
    stored,
)
from rl_encoders.training.turns import turns
from vie.errors import VieError
from vie.history import History, read_history
from vie.stopping import Listener, StoppedError, listening

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint"
"""Folder within a run's."""

COUNTS = ("imitated", "updates", "steps", "episodes", "attempts", "owed")
EVALUATION = ("return", "length", "success")


class _AskedError(Exception):
    """A signal has come in the middle of an episode, which is to be run anew."""


class Training:
    """One run of an agent, step by step; at every step it can be stopped, and goes on exactly.

    Attributes:
        agent: What learns.
        imitated, updates, steps, episodes: How often it has imitated and learned, acted, and finished.
        attempts: Episodes that were begun, those included in which the environment failed.
        owed: Updates that are to follow the episodes so far.
    """

    def __init__(
        self,
        config: RunConfig,
        agent: Agent,
        offline: Source | None = None,
        worlds: Sequence[World] = (),
        control_hz: float = 10.0,
    ) -> None:
        """Takes an agent on its device, with its optimizers made; goes on where the run was stopped.

        Args:
            config: What to do. No other process is to work in its folder meanwhile (``vie.files.locked``).
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
        imitates = agent.imitates and config.imitation_updates > 0
        if not (offline and len(offline)) and (config.offline_updates or imitates or not worlds):
            raise VieError(
                "there is no offline data to learn from: give a dataset, or offline_updates=0 and imitation_updates=0"
            )
        if not worlds and config.online_steps:
            raise VieError(f"online_steps={config.online_steps} need an environment: give one, or 0")
        if config.data.chunk > 1 and agent.eyes.back:
            raise VieError(
                f"data.chunk={config.data.chunk} with clips of a trunk that is trained: chunks leave out frames "
                "between, so give an encoder of single frames, or mode=frozen"
            )
        self.config, self.agent, self.worlds, self.control_hz = config, agent, worlds, control_hz
        self.run, self.offline = Path(config.run), offline
        self._rows = rows_needed(config, getattr(worlds[0], "max_steps", None) if worlds else None)
        self.online: Replay | None = None
        self.imitated = self.updates = self.steps = self.episodes = self.attempts = 0
        self.owed = 0.0
        self._faults = self._saved = 0
        self._best = offline.of_largest_reward() if offline and config.data.extra else None
        self._listener = Listener()
        self._way = Ways(agent, config.mode)
        self._resume()

    def train(self) -> dict[str, float]:
        """Does all that is left, and returns the last evaluation.

        Raises:
            StoppedError: A signal asked to stop; the last update is kept.
            EpisodeError: The environment has failed several times on end; all that was learned is kept.
        """
        self.run.mkdir(parents=True, exist_ok=True)
        history = History(self.run, self.updates, keep=lambda row: row.get("environment_steps", 0) <= self.steps)
        evaluated = {
            (row["step"], row["environment_steps"]): {name: row[name] for name in EVALUATION if name in row}
            for row in read_history(self.run)
            if "return" in row
        }
        progress = Progress(self.run.name)
        with listening() as self._listener:
            try:
                while True:
                    here = (self.updates, self.steps)
                    if here not in evaluated and self._is_due(evaluated):
                        evaluated[here] = self.evaluate(self.config.films)
                        history.add(self.updates, environment_steps=self.steps, **evaluated[here])
                    if self._listener.asked:
                        raise _AskedError
                    if not self._step(history, progress):
                        break
                    if self._counts() - self._saved >= self.config.checkpoint_every:
                        self._save()
            except EpisodeError:
                self._save()
                if self._listener.asked:  # which its process may have got as well
                    raise StoppedError(self._listener.asked, self.updates) from None
                raise
            except _AskedError:
                self._save()
                raise StoppedError(self._listener.asked, self.updates) from None
            finally:
                progress.close()
                history.close()
        self._save()
        return evaluated[max(evaluated)] if evaluated else {}

    def _is_due(self, evaluated: Mapping[tuple[int, int], object]) -> bool:
        """Whether the agent is to be evaluated now, if it has not been yet."""
        config = self.config
        if not self.worlds or not config.evaluation_episodes:
            return False
        every, imitations = config.evaluate_every, config.imitation_updates if self.agent.imitates else 0
        if self.attempts:
            every = every if config.evaluate_every_steps is None else config.evaluate_every_steps
            last = max((steps for _, steps in evaluated), default=0)
            crossed = bool(every) and self.steps // every > last // every
            return self.owed < 1 and (crossed or self.steps >= config.online_steps)
        if not self.updates:
            return 0 < imitations == self.imitated
        return self.updates == config.offline_updates or bool(every and self.updates % every == 0)

    def _step(self, history: History, progress: Progress) -> bool:
        """Takes one update or one episode; False if there is nothing left to do."""
        config = self.config
        if self.agent.imitates and self.imitated < config.imitation_updates and not self.updates:
            self._learn("imitate", IMITATE, self._offline_batch(IMITATE, self.imitated), self.imitated, history)
            self.imitated += 1
            progress.show("imitate", "update", self.imitated, config.imitation_updates)
        elif not self.attempts and self.updates < config.offline_updates:
            self._learn("offline", OFFLINE, self._offline_batch(OFFLINE, self.updates), self.updates, history)
            self.updates += 1
            progress.show("offline", "update", self.updates, config.offline_updates)
        elif self.worlds and self.owed >= 1:
            data, seed = config.data, (config.seed, ONLINE, self.updates)
            batch = draw_mixed(self.offline, self.online, data.batch, data.mix, seed)
            self._learn("online", OFFLINE, batch, self.updates, history)
            self.updates += 1
            self.owed -= 1
        elif self.worlds and self.steps < config.online_steps:
            self._episode(history)
            progress.show("online", "step", self.steps, config.online_steps)
        else:
            return False
        return True

    def _offline_batch(self, purpose: int, number: int) -> Batch:
        assert self.offline is not None
        data, seed = self.config.data, self.config.seed
        batch = self.offline.draw(data.batch, (seed, purpose, number))
        if self._best is None:
            return batch
        return joined(batch, self.offline.draw(data.extra, (seed, EXTRA, number), self._best))

    def _learn(self, phase: str, purpose: int, batch: Batch, number: int, history: History) -> None:
        seeded(self.config.seed, purpose, number)
        self.agent.advance(self.updates)
        metrics: Metrics = {}
        if phase == "imitate":
            metrics = self._way("imitate")(batch)
        else:
            often = turns(number, self.config.distil_per_update) if phase == "online" and self.agent.imitates else 0
            for _ in range(often):
                metrics = self._way("distil")(batch)
            metrics |= self._way("update")(batch)
        if (number + 1) % self.config.log_every == 0:
            self._log(history, metrics, number + 1, phase)

    def _episode(self, history: History) -> None:
        """One episode of the agent, on disk before anything is learned of it."""
        data, path = self.config.data, episode_path(self.run, self.episodes)
        if path.exists():  # of before the run was stopped: what is collected is not collected again
            one, self.attempts = load_episode(path)
        else:
            found = self._act()
            self.attempts += 1
            if found is None:
                return
            one = found
            save_episode(path, one, self.attempts)
        self._remember(one)
        steps = len(one.action)
        self.steps += steps
        self.episodes += 1
        self.owed += steps * self.config.updates_per_step
        gained = float((one.reward.sum() - steps * data.reward_bias) / data.reward_scale)
        history.add(self.updates, environment_steps=self.steps, episode_return=gained)

    def _act(self) -> Stored | None:
        """An episode that explores; what there is of it where the environment fails, None if there is nothing."""
        actor = Actor(self.agent, explore=True, chunk=self.config.data.chunk)
        seed, name = seeded(self.config.seed, ONLINE, self.attempts), f"{self.run.name} episode {self.episodes}"
        try:
            trajectory = run_episodes(self.worlds[:1], self._unless_asked(actor), [name], [seed])[0].trajectory
            self._faults = 0
        except EpisodeError as error:
            self._faults += 1
            if self._faults == MOST_FAULTS or self._listener.asked:
                raise
            logger.warning("%s; what came before is kept", error)
            if error.before is None:
                return None
            trajectory = error.before
        return stored(trajectory, actor.kept(0, trajectory), self.config.data)

    def _unless_asked(self, act: Acts) -> Acts:
        def acts(seen: Mapping[int, Parts]) -> Mapping[int, Action]:
            if self._listener.asked:
                raise _AskedError
            return act(seen)

        return acts

    def _remember(self, one: Stored) -> None:
        if self.online is None:
            self.online = new_replay(self._rows, self.agent.eyes, self.agent.device, self.config.data)
        one.put_into(self.online, self.config.data)

    def evaluate(self, films: int = 0) -> dict[str, float]:
        """Of some episodes without exploration, the first of them filmed; empty where there is no environment."""
        config = self.config
        count = config.evaluation_episodes if self.worlds else 0

        def act() -> Acts:
            return self._unless_asked(Actor(self.agent, explore=False, chunk=config.data.chunk))

        episodes = evaluate(act, self.worlds, count, config.seed, self.run.name, films)
        keep_films(self.run, episodes[:films], self.control_hz, self.updates, self.steps)
        return summary(episodes)

    def _log(self, history: History, metrics: Metrics, number: int, phase: str) -> None:
        values = {name: float(value) for name, value in metrics.items()}
        bad = [name for name, value in values.items() if not np.isfinite(value)]
        if bad:
            raise VieError(
                f"{', '.join(bad)} is no number after {number} updates: lower the learning rates; the last checkpoint "
                "is whole"
            )
        if phase == "imitate":  # is no update: the record counts these
            history.add(self.updates, phase=phase, imitated=number, **values)
        else:
            history.add(self.updates + 1, phase=phase, **values)

    def _counts(self) -> int:
        """Steps of this class that were taken."""
        return self.imitated + self.updates + self.attempts

    def _save(self) -> None:
        check_finite(self.agent)
        optimizers = {name: one.state_dict() for name, one in self.agent.optimizers().items()}
        counts = {name: getattr(self, name) for name in COUNTS}
        state = {"agent": self.agent.state_dict(), "optimizers": optimizers, "counts": counts}
        save_state(self.run / CHECKPOINT, state)
        self._saved = self._counts()

    def _resume(self) -> None:
        state = load_state(self.run / CHECKPOINT)
        if state is None:
            return
        self.agent.load_state_dict(state["agent"])
        for name, count in state["counts"].items():
            setattr(self, name, count)
        self._saved = self._counts()
        # Optimizers hold states of what a schedule has come to train.
        self.agent.advance(max(0, self.updates - 1))
        for name, optimizer in self.agent.optimizers().items():
            optimizer.load_state_dict(state["optimizers"][name])
        for episode in range(self.episodes):
            self._remember(load_episode(episode_path(self.run, episode))[0])
