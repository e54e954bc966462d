"""The training loop of one stream."""

import csv
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from tqdm import tqdm

from pretrain.checkpoint import load_checkpoint, save_checkpoint
from pretrain.clips import TrainBatch, TrainClips, workers_for
from pretrain.config import Config
from pretrain.corpus import open_corpus
from pretrain.history import History
from pretrain.monitor import Monitor
from pretrain.objective import Objective
from pretrain.optim import learning_rate, make_optimizer
from pretrain.prefetch import stream
from pretrain.runtime import (
    resolve_autocast,
    resolve_device,
    resolve_sampling,
    training_forward,
    use_channels_last,
)
from pretrain.settings import dump_config, flatten
from pretrain.timing import Stopwatch
from vie import MemoryBank, VieError, create_model
from vie.video import augment

CONFIG_NAME = "config.yaml"
FAILURES_NAME = "failed_clips.csv"

FREE = ("run", "data.workers")
"""Settings that may differ when a run is continued: they change no result."""


class Trainer:
    """One run: the state of a job, and the steps that change it.

    Attributes:
        model, optimizer, objective: What is trained, by what, towards what (the bank is the objective's).
        step: Steps taken.
    """

    def __init__(self, config: Config) -> None:
        """Builds everything a run needs, and goes on from its checkpoint if there is one."""
        if not config.run:
            raise VieError("the run has no folder: give it as run=FOLDER")
        self.config = config
        self.run = Path(config.run)
        self.device = resolve_device(config.runtime.device)
        if config.runtime.threads:
            torch.set_num_threads(config.runtime.threads)
        self.corpus = open_corpus(config, self.device)
        torch.manual_seed(config.seed)
        model = create_model(config.model.name, embed_dim=config.model.embed_dim, width=config.model.width)
        sampling = resolve_sampling(config, model.sampling)
        self.model = model.to(self.device)
        if config.runtime.channels_last:
            use_channels_last(self.model, self.device)
        self.optimizer = make_optimizer(self.model, config.optim)
        self.clips = TrainClips(
            self.corpus.shards,
            self.corpus.train_videos,
            self.corpus.reader,
            sampling,
            config.augmentation,
            batch_size=config.data.batch_size,
            seed=config.seed,
            steps=config.total_steps,
        )
        instances = len(self.corpus.train_videos)
        bank = MemoryBank(instances, config.model.embed_dim, config.bank.momentum, seed=config.seed)
        self.objective = Objective(
            bank.to(self.device),
            config.bank,
            config.instance_recognition,
            config.local_aggregation,
            seed=config.seed,
            steps_per_epoch=self.clips.steps_per_epoch,
        )
        self.step = 0
        self._resume()
        autocast = resolve_autocast(config.runtime.precision, self.device)
        shape = (config.data.batch_size, 3, sampling.frames, sampling.size, sampling.size)
        self.forward = training_forward(self.model, config.runtime, shape, self.device, autocast)
        self.monitor = Monitor(config, self.corpus, sampling, self.device, autocast)

    def train(self) -> None:
        """Runs all steps that are left; writes the record, checkpoints, evaluations and encoders."""
        self._begin()
        config, every = self.config, self.config.monitor
        history = History(self.run, self.step)
        if self.step == 0:
            history.add(0, evaluation=self.monitor.keep_stage("random", 0, self.model))
        self.model.train()
        batches = stream(
            self.clips,
            range(self.step, config.total_steps),
            workers_for(self.corpus.reader, config.data.workers),
            pin_memory=self.device.type == "cuda",
        )
        watch = Stopwatch(self.device)
        with tqdm(
            total=config.total_steps,
            initial=self.step,
            unit="step",
            desc=self.run.name,
            mininterval=_progress_interval(),
        ) as progress:
            for batch in batches:
                watch.lap("data")
                stage = self.objective.stage(self.step)
                loss = self._train_step(batch)
                self._note_failures(batch)
                self.step += 1
                progress.update()
                watch.lap("step")
                self._check(loss)
                if self._due(every.log_every):
                    timing = watch.read()
                    progress.set_postfix_str(f"{stage} loss {loss.item():.3f}")
                    history.add(
                        self.step,
                        stage=stage,
                        epoch=self.step / self.clips.steps_per_epoch,
                        loss=loss.item(),
                        lr=self.optimizer.param_groups[0]["lr"],
                        clips_per_s=timing.steps * config.data.batch_size / sum(timing.seconds.values()),
                        **{f"{name}_s": seconds for name, seconds in timing.seconds.items()},
                    )
                if self._due(every.knn_every):
                    history.add(
                        self.step, monitor=self.monitor.test_on_bank(self.model, self.objective.bank.embeddings)
                    )
                if self.step in self._stage_ends:
                    history.add(self.step, evaluation=self.monitor.keep_stage(stage, self.step, self.model))
                elif self._due(every.evaluate_every):
                    history.add(self.step, evaluation=self.monitor.test(self.model)[0])
                if self._due(every.checkpoint_every) or self.step == config.total_steps:
                    self._save()
                watch.skip()
        history.close()

    def _train_step(self, batch: TrainBatch) -> torch.Tensor:
        self.objective.begin_step(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config.optim, self.step)
        frames = batch.frames.to(self.device, non_blocking=True)
        clip = augment(frames, batch.drawn, self.clips.sampling.size, batch.boxes)
        instances = torch.from_numpy(batch.instances).to(self.device, non_blocking=True)
        embedding = self.forward(clip)
        loss = self.objective.loss(embedding, instances, self.step)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.objective.end_step(embedding, instances)
        return loss.detach()

    @property
    def _stage_ends(self) -> tuple[int, int]:
        return self.config.instance_recognition.steps, self.config.total_steps

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _check(self, loss: torch.Tensor) -> None:
        """Raises ``VieError`` before a loss that is no number gets into anything that is kept."""
        every = self.config.monitor
        keeps = (every.log_every, every.knn_every, every.evaluate_every, every.checkpoint_every)
        if (self.step in self._stage_ends or any(self._due(period) for period in keeps)) and not torch.isfinite(loss):
            raise VieError(
                f"the loss is {loss.item()} at step {self.step}: lower optim.lr, or set runtime.precision=fp32"
            )

    def _note_failures(self, batch: TrainBatch) -> None:
        if batch.failures:
            with (self.run / FAILURES_NAME).open("a", newline="") as file:
                csv.writer(file).writerows((self.step, *failure) for failure in batch.failures.items())

    def _begin(self) -> None:
        try:
            self.run.mkdir(parents=True, exist_ok=True)
            (self.run / CONFIG_NAME).write_text(dump_config(self.config))
        except OSError as error:
            raise VieError(
                f"the run cannot be written to {self.run} ({error.strerror}): give another run=FOLDER"
            ) from error

    def _save(self) -> None:
        state = {
            "config": asdict(self.config),
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "bank": self.objective.bank.state_dict(),
            "labels": self.objective.labels,
        }
        save_checkpoint(self.run, state)

    def _resume(self) -> None:
        state = load_checkpoint(self.run)
        if state is None:
            return
        given, before = flatten(asdict(self.config)), flatten(state["config"])
        changed = [key for key, value in given.items() if key not in FREE and before.get(key) != value]
        if changed:
            raise VieError(
                f"{self.run} holds a run with other settings ({', '.join(changed)}): "
                "give the same command to continue it, or another folder as run=FOLDER"
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.objective.bank.load_state_dict(state["bank"])
        self.objective.labels = state["labels"].to(self.device)
        self.step = state["step"]


def _progress_interval() -> float:
    """Seconds between two states of the progress bar: few where it goes to a file."""
    return 0.5 if sys.stderr.isatty() else 15.0
