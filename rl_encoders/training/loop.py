"""Offline updates, then episodes with updates after each; everything that is drawn is a function of seed and number."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from rl_encoders.agents.agent import Agent, Metrics
from rl_encoders.agents.parl import PARL
from rl_encoders.replay.buffer import Batch, Replay, joined
from rl_encoders.replay.trajectory import Array, Space, Trajectory
from rl_encoders.training.actor import Actor
from rl_encoders.training.checkpoint import load_state, save_state
from rl_encoders.training.config import RunConfig
from rl_encoders.training.mixture import draw_mixed
from rl_encoders.training.storage import episode_path, load_episode, save_episode, stored
from vie.distributed import ALONE
from vie.errors import VieError
from vie.files import locked
from vie.history import History
from vie.stopping import StoppedError, listening

Parts = Mapping[str, Array]
IMITATE, OFFLINE, ONLINE, EVALUATE, EXTRA = range(5)
"""What a number was drawn for."""


class World(Protocol):
    """An environment; see ``rl_encoders.environments``."""

    space: Space

    def reset(self, *, seed: int | None = None) -> tuple[Parts, dict[str, Any]]:
        """Begins an episode."""
        ...

    def step(self, action: npt.NDArray[np.float32]) -> tuple[Parts, float, bool, bool, dict[str, Any]]:
        """Takes an action."""
        ...


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
        world: World | None = None,
    ) -> None:
        """Takes an agent on its device, with its optimizers made.

        Args:
            config: What to do.
            agent: That learns.
            offline: Data of others, as ``storage.filled`` makes it.
            world: Where it acts; None for offline data alone.

        Raises:
            VieError: There is nothing to learn from.
        """
        if not config.run:
            raise VieError("the run has no folder: give it as run=FOLDER")
        if not (offline and len(offline)) and (config.offline_updates or world is None):
            raise VieError("there is no offline data to learn from: give a dataset, or offline_updates=0")
        if world is None and config.online_steps:
            raise VieError(f"online_steps={config.online_steps} need an environment: give one, or 0")
        self.config, self.agent, self.world = config, agent, world
        self.run, self.offline = Path(config.run), offline
        self.online = Replay(config.data.rows, agent.device, agent.eyes.back) if config.online_steps else None
        self.imitated = self.updates = self.steps = self.episodes = 0
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
                        found = self.evaluate()
                        history.add(self.updates, environment_steps=self.steps, **found)
                    if listener.asked:
                        self._save()
                        raise StoppedError(listener.asked, self.updates)
            finally:
                history.close()
            self._save()
            return found

    def _phases(self, history: History) -> Iterator[bool]:
        """Yields after everything that can be stopped after: whether to evaluate."""
        config = self.config
        if isinstance(self.agent, PARL):
            for number in self._counted("imitate", self.imitated, config.imitation_updates, history):
                self.imitated = number
                yield False
        for number in self._counted("offline", self.updates, config.offline_updates, history):
            self.updates = number
            last = number == config.offline_updates
            yield last or bool(config.evaluate_every and number % config.evaluate_every == 0)
        if self.world is None:
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
        learn: Callable[[Batch], Metrics] = self.agent.update
        phase = OFFLINE
        if what == "imitate":
            assert isinstance(self.agent, PARL)
            learn, phase = self.agent.imitate, IMITATE
        for number in tqdm(range(done, count), initial=done, total=count, desc=f"{self.run.name} {what}"):
            assert self.offline is not None
            data = self.config.data
            batch = self.offline.draw(data.batch, (self.config.seed, phase, number))
            if data.extra:
                best = self.offline.of_largest_reward()
                batch = joined(batch, self.offline.draw(data.extra, (self.config.seed, EXTRA, number), best))
            self._seed(phase, number)
            metrics = learn(batch)
            if (number + 1) % self.config.log_every == 0:
                self._log(history, metrics, what)
            yield number + 1
            if (number + 1) % self.config.checkpoint_every == 0:
                self._save()

    def _episode(self, history: History) -> None:
        """One episode of the agent, on disk before anything is learned of it."""
        assert self.online is not None
        trajectory, actor, _ = self._act(ONLINE, self.episodes, explore=True)
        one = stored(trajectory, actor.kept(), self.config.data)
        save_episode(episode_path(self.run, self.episodes), one)
        one.put_into(self.online)
        self.steps += len(trajectory)
        self.episodes += 1
        data = self.config.data
        for _ in range(round(len(trajectory) * self.config.updates_per_step)):
            batch = draw_mixed(
                self.offline, self.online, data.batch, data.mix, (self.config.seed, ONLINE, self.updates)
            )
            self._seed(OFFLINE, self.updates)
            metrics = self.agent.distil(batch) if isinstance(self.agent, PARL) else {}
            metrics |= self.agent.update(batch)
            self.updates += 1
            if self.updates % self.config.log_every == 0:
                self._log(history, metrics, "online")
        history.add(self.updates, environment_steps=self.steps, episode_return=float(trajectory.rewards.sum()))

    def evaluate(self) -> dict[str, float]:
        """Returns, success where the environment tells, and lengths of some episodes without exploration."""
        if self.world is None or not self.config.evaluation_episodes:
            return {}
        found = [self._act(EVALUATE, number, explore=False) for number in range(self.config.evaluation_episodes)]
        told = [success for _, _, success in found if success is not None]
        return {
            "return": float(np.mean([one.rewards.sum() for one, _, _ in found])),
            "length": float(np.mean([len(one) for one, _, _ in found])),
            **({"success": float(np.mean(told))} if told else {}),
        }

    def _act(self, phase: int, number: int, explore: bool) -> tuple[Trajectory, Actor, bool | None]:
        """An episode, who acted in it, and whether it succeeded at any time."""
        assert self.world is not None
        actor, success = Actor(self.agent, explore), None
        seed = self._seed(phase, number)
        seen, _ = self.world.reset(seed=seed)
        everything, actions, rewards = [seen], [], []
        actor.look(seen)
        over = False
        while not over:
            actions.append(actor.act())
            seen, reward, terminal, truncated, info = self.world.step(actions[-1])
            everything.append(seen)
            actor.look(seen)
            rewards.append(reward)
            over = terminal or truncated
            told = info.get("success", info.get("is_success"))
            success = success if told is None else bool(told) or bool(success)
        names = self.world.space.observations
        trajectory = Trajectory(
            f"{self.run.name} episode {number}",
            {name: np.stack([one[name] for one in everything]) for name in names},
            np.stack(actions).astype(np.float32),
            np.array(rewards, np.float32),
            terminal,
        )
        trajectory.check(self.world.space)
        return trajectory, actor, success

    def _seed(self, phase: int, number: int) -> int:
        """What is drawn next depends on nothing that was drawn before."""
        seed = int(np.random.SeedSequence([self.config.seed, phase, number]).generate_state(1)[0])
        torch.manual_seed(seed)
        return seed

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
        save_state(self.run / "checkpoint", state)

    def _resume(self) -> None:
        state = load_state(self.run / "checkpoint")
        if state is None:
            return
        self.agent.load_state_dict(state["agent"])
        for name, optimizer in self.agent.optimizers().items():
            optimizer.load_state_dict(state["optimizers"][name])
        for name, count in state["counts"].items():
            setattr(self, name, count)
        for episode in range(self.episodes):
            assert self.online is not None
            load_episode(episode_path(self.run, episode)).put_into(self.online)
