"""The training loop of one stream."""

import contextlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from tqdm import tqdm

from pretrain.checkpoint import Checkpoints, State, read_facts
from pretrain.config import Config
from pretrain.data.clips import TrainBatch, TrainClips
from pretrain.data.corpus import open_corpus, open_reader
from pretrain.data.feed import feed
from pretrain.failures import Failures
from pretrain.methods import create_method
from pretrain.monitor import Monitor
from pretrain.optim import learning_rate, make_optimizer
from pretrain.run_folder import CONFIG_NAME, check_same_run
from pretrain.runtime import (
    resolve,
    resolve_device,
    resolve_sampling,
    synchronise_batch_norm,
    training_apply,
    training_forward,
    use_channels_last,
    warn_if_slow,
)
from pretrain.settings import dump_config
from pretrain.start import begin_from
from pretrain.timing import Stopwatch, progress_interval
from vie import VieError, create_model
from vie.distributed import Ranks
from vie.files import locked, write_text_atomically
from vie.history import History
from vie.stopping import Agreement, Listener, StoppedError, listening
from vie.video import augment

MOMENTUM = "momentum_buffer"
"""What torch.optim.SGD calls it."""

STOPPED_NAME = "stopped"
"""Is in the folder of a run that a signal has stopped, until it goes on: a scheduler may queue it again."""


class Trainer:
    """One run: the state of a job, and the steps that change it.

    Attributes:
        config: Resolved: without "auto" and null.
        model, method, optimizer: What is trained, towards what, by what.
        step: Steps taken.
    """

    def __init__(self, config: Config) -> None:
        """Builds everything a run needs, and goes on from its checkpoint if there is one."""
        if not config.run:
            raise VieError("the run has no folder: give it as run=FOLDER")
        self.run = Path(config.run)
        self.ranks = Ranks.of_job()
        self.device = resolve_device(config.runtime.device)
        if config.runtime.threads:
            torch.set_num_threads(config.runtime.threads)
        torch.manual_seed(config.seed)
        model = create_model(config.model.name, **config.model.arguments())
        sampling = resolve_sampling(config, model.sampling)
        self.corpus = open_corpus(config, sampling)
        self.config = config = resolve(config, sampling, self.device, len(self.corpus.instances))
        self.model = model.to(self.device)
        self.method = create_method(config, self.model, self.corpus, self.device)
        network = self.method.network.to(self.device)
        if config.runtime.sync_batch_norm:
            synchronise_batch_norm(network, self.device)
        if config.runtime.channels_last:
            use_channels_last(network, self.device)
        warn_if_slow(network, config.runtime.precision, self.device)
        self.optimizer = make_optimizer(network, config.optim)
        self.step = 0
        self.start: str | None = None
        self.checkpoints = Checkpoints(self.run, self.ranks, self.device, config.monitor.checkpoints)
        self._resume()
        given = config.model
        if given.start and self.step == 0:
            self.start = str(begin_from(self.model, given.start, given.start_prefix, given.start_within))
        with _enough_memory(self.device):
            reader = open_reader(self.corpus, config.data, self.device)
            clip = self.method.sampling(sampling)
            batch_size = self.method.views * config.data.batch_size // self.ranks.size
            shape = self.method.clip_shape((batch_size, 3, clip.frames, clip.size, clip.size))
            self.forward = training_forward(network, config.runtime, shape, self.device)
        self.apply = training_apply(config.runtime)
        self.clips = TrainClips(
            self.corpus.shards,
            self.corpus.instances,
            reader,
            clip,
            config.augmentation,
            batch_size=config.data.batch_size,
            seed=config.seed,
            steps=config.total_steps,
            views=self.method.views,
            ranks=self.ranks,
        )
        provenance: dict[str, object] = {
            "method": self.method.citation,
            "embedding": "trained" if self.method.embeds else "untrained",
            **({"start": self.start} if self.start else {}),
        }
        self.monitor = Monitor(config, self.corpus, reader, sampling, self.device, provenance)

    def train(self) -> None:
        """Runs all steps that are left; writes the record, checkpoints, evaluations and encoders.

        Raises:
            StoppedError: A signal asked to stop; the last step is kept.
            VieError: The loss is no number, nothing of many batches can be read, or the run's folder cannot be written;
                what was kept before stays whole.
        """
        try:
            with locked(self.run, self.ranks), listening() as listener, _enough_memory(self.device), self.checkpoints:
                self._train(listener)
        except (OSError, SafetensorError) as error:
            raise VieError(
                f"{self.run} cannot be written ({error}): free some space and start the command again"
            ) from error

    def _train(self, listener: Listener) -> None:
        config, every = self.config, self.config.monitor
        if self.ranks.rank == 0:
            write_text_atomically(self.run / CONFIG_NAME, dump_config(config))
            (self.run / STOPPED_NAME).unlink(missing_ok=True)
        agreement = Agreement(listener, self.ranks, self.device, self.step)
        history = History(self.run, self.step, self.ranks)
        failures = Failures(self.run, self.step, self.corpus.instance_name, self.ranks)
        if self.step == 0:
            first = "start" if config.model.start else "random"
            history.add(0, evaluation=self.monitor.keep_stage(first, 0, self.model))
        elif (ended := self._ended_stage()) and not history.has(self.step, "evaluation"):
            history.add(self.step, evaluation=self.monitor.keep_stage(ended, self.step, self.model))
        self.method.network.train()
        steps = range(self.step, config.total_steps)
        watch = Stopwatch(self.device)
        losses = torch.zeros((), device=self.device)
        with (
            contextlib.closing(feed(self.clips, steps, config.data, self.device)) as batches,
            tqdm(
                total=config.total_steps,
                initial=self.step,
                unit="step",
                desc=self.run.name,
                mininterval=progress_interval(),
                disable=self.ranks.rank > 0,
            ) as progress,
        ):
            for batch in batches:
                watch.lap("data")
                stage = self.method.stage(self.step)
                failures.add(self.step, batch.failures, batch.is_empty)
                losses += self.train_step(batch)
                self.step += 1
                progress.update()
                watch.lap("step")
                if self._keeps_something():
                    self._check(losses)
                if self._due(every.log_every):
                    timing = watch.read()
                    mean = self.ranks.sum(losses).item() / timing.steps
                    losses.zero_()
                    progress.set_postfix_str(f"{stage} loss {mean:.3f}")
                    history.add(
                        self.step,
                        stage=stage,
                        epoch=self.step / self.clips.steps_per_epoch,
                        loss=mean,
                        lr=self.optimizer.param_groups[0]["lr"],
                        clips_per_s=timing.steps * config.data.batch_size / timing.working,
                        **{f"{name}_s": seconds for name, seconds in (timing.seconds | timing.within).items()},
                    )
                if self._due(every.knn_every) and self.method.bank is not None and self.monitor.tests_bank:
                    history.add(self.step, monitor=self.monitor.test_on_bank(self.model, self.method.bank))
                ended = self._ended_stage()
                if ended:
                    # First, as nobody could go on from an encoder alone.
                    self._save()
                    self.checkpoints.finish()
                    history.add(self.step, evaluation=self.monitor.keep_stage(ended, self.step, self.model))
                elif self._due(every.evaluate_every):
                    history.add(self.step, evaluation=self.monitor.test(self.model)[0])
                asked = agreement.asked(self.step)
                if asked:
                    self._check(losses)
                if not ended and (asked or self._due(every.checkpoint_every)):
                    self._save()
                if asked:
                    if self.ranks.rank == 0:
                        (self.run / STOPPED_NAME).touch()
                    raise StoppedError(asked, self.step)
                self.checkpoints.poll()
                watch.lap("other")
        history.close()

    def train_step(self, batch: TrainBatch) -> torch.Tensor:
        """Takes one step, without counting it; returns its loss, and waits for nothing that the device does."""
        self.method.begin_step(self.step)
        if batch.is_empty and self.ranks.size == 1:
            return torch.zeros((), device=self.device)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config.optim, self.step)
        frames = batch.frames.to(self.device, non_blocking=True)
        size, mean, std = self.clips.sampling.size, self.model.mean, self.model.std
        clip = augment(frames, batch.drawn, size, batch.boxes, mean, std, self.apply)
        instances = torch.from_numpy(batch.instances).to(self.device, non_blocking=True)
        taken, target = self.method.inputs(clip, instances, self.step)
        output = self.forward(taken)
        loss = self.method.loss(output, target, self.step)
        self.optimizer.zero_grad(set_to_none=True)
        # Ranks average their gradients, and the loss is the sum of what each calls its own.
        (loss * self.ranks.size).backward()
        self.optimizer.step()
        self.method.end_step(output, target)
        return loss.detach()

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _keeps_something(self) -> bool:
        every = self.config.monitor
        keeps = (every.log_every, every.knn_every, every.evaluate_every, every.checkpoint_every)
        return bool(self._ended_stage()) or any(self._due(period) for period in keeps)

    def _ended_stage(self) -> str | None:
        """The stage that ends with the step that was taken last."""
        return next((stage for stage, end in self.method.stages.items() if end == self.step), None)

    def _check(self, losses: torch.Tensor) -> None:
        """Raises ``VieError`` before a loss that is no number gets into anything that is kept."""
        loss = self.ranks.sum(losses)
        if not torch.isfinite(loss):
            raise VieError(
                f"the loss is {loss.item()} at step {self.step}: lower optim.lr, or set runtime.precision=fp32"
            )

    def _save(self) -> None:
        # Each rank's batch norm has seen its own clips; the next step begins from the first's.
        self.ranks.take_first(self.method.network.buffers())
        facts = {
            "config": asdict(self.config),
            "corpus": self.corpus.instance_fingerprint(),
            "start": self.start,
            "momenta": list(self._momenta()),
        }
        self.checkpoints.save(self.step, self._state(), facts)

    def _state(self) -> State:
        """Every tensor that training changes, as it is: to be copied, or to be read into."""
        return {
            **{f"network.{name}": tensor for name, tensor in self.method.network.state_dict().items()},
            **{f"momentum.{name}": tensor for name, tensor in self._momenta().items()},
            **{f"method.{name}": tensor for name, tensor in self.method.state().items()},
        }

    def _momenta(self) -> dict[str, torch.Tensor]:
        kept = self.optimizer.state
        parameters = self.method.network.named_parameters()
        return {name: kept[tensor][MOMENTUM] for name, tensor in parameters if MOMENTUM in kept.get(tensor, {})}

    def _resume(self) -> None:
        checkpoint = self.checkpoints.latest()
        if checkpoint is None:
            if (self.run / "checkpoint.pt").exists():
                raise VieError(
                    f"{self.run} holds a run of another version (checkpoint.pt): continue it with that one, or give "
                    "another folder as run=FOLDER"
                )
            # A run that was stopped before its first checkpoint has kept nothing but the network that it began with.
            if {path.name for path in self.run.glob("encoder-*")} - {"encoder-random", "encoder-start"}:
                raise VieError(f"{self.run} holds a run without its checkpoint: give another folder as run=FOLDER")
            return
        facts = read_facts(checkpoint)
        check_same_run(self.run, self.config, self.corpus, facts)
        for name in facts["momenta"]:
            parameter = self.method.network.get_parameter(name)
            self.optimizer.state[parameter][MOMENTUM] = torch.zeros_like(parameter)
        self.checkpoints.load(checkpoint, self._state())
        self.step, self.start = facts["step"], facts["start"]


@contextlib.contextmanager
def _enough_memory(device: torch.device) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise VieError(f"{device} has too little memory for this run: lower data.batch_size") from error
