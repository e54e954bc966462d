import csv
import json
import pickle
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from pretrain.checkpoint import FACTS_NAME, FOLDER_NAME, Checkpoints
from pretrain.config import OptimConfig
from pretrain.failures import FAILURES_NAME
from pretrain.monitor import METRICS_NAME, Monitor
from pretrain.objective import Objective
from pretrain.optim import learning_rate
from pretrain.settings import parse_config
from pretrain.train import Trainer
from tests.conftest import rewrite_index, tiny_run
from tests.distributed.processes import command_on_ranks
from tests.pretrain.test_checkpoint import SlowDisk, contents, full_disk
from tests.pretrain.test_clips import damaged
from vie import VieError, load
from vie.files import locked
from vie.history import read_history
from vie.video import Shards

STEPS, IR_STEPS, EPOCH = 12, 4, 6


def trainer(corpus: Path, run: Path, *settings: str) -> Trainer:
    return Trainer(parse_config([], tiny_run(corpus, run, *settings)))


def trained(corpus: Path, run: Path, *settings: str) -> Trainer:
    job = trainer(corpus, run, *settings)
    job.train()
    return job


def state(job: Trainer) -> dict[str, Tensor]:
    """Everything that training changes."""
    momenta = job.optimizer.state_dict()["state"]
    return {
        **{f"model.{name}": tensor for name, tensor in job.model.state_dict().items()},
        **{f"momentum.{number}": slot["momentum_buffer"] for number, slot in momenta.items()},
        "bank": job.method.bank.embeddings,
        "labels": job.method.objective.labels,
    }


def assert_same_state(one: Trainer, other: Trainer) -> None:
    first, second = state(one), state(other)
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different
    assert one.step == other.step


def measurements(run: Path) -> list[dict[str, Any]]:
    """The history without what the clock says."""
    return [
        {key: value for key, value in row.items() if not key.endswith("_s") or key == "steps"}
        for row in read_history(run)
    ]


def frames_of(corpus: Path, videos: range) -> Tensor:
    shards = Shards(corpus)
    return torch.stack([shards.read(video, [0]) for video in videos])


class StoppedError(Exception):
    """Stands for whatever ends a process."""


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends training in the middle of a step: the weights have moved, the bank has not."""
    calls = 0
    end_step = Objective.end_step

    def end(self: Objective, embedding: Tensor, instances: Tensor) -> None:
        nonlocal calls
        if calls == step:
            raise StoppedError
        calls += 1
        end_step(self, embedding, instances)

    monkeypatch.setattr(Objective, "end_step", end)


@pytest.fixture(scope="module")
def finished(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """A whole run; do not write into its folder."""
    return trained(tiny_corpus, tmp_path_factory.mktemp("finished") / "run")


class TestWholeRun:
    def test_files(self, finished):
        written = {path.name for path in finished.run.iterdir()}
        assert written == {
            ".lock",
            "config.yaml",
            "history.jsonl",
            "tensorboard",
            METRICS_NAME,
            FOLDER_NAME,
            *(f"encoder-{stage}" for stage in ("random", "ir", "la")),
            *(f"features-{stage}.safetensors" for stage in ("random", "ir", "la")),
        }
        assert not list(finished.run.rglob("*.partial"))
        assert parse_config([finished.run / "config.yaml"]) == finished.config

    def test_history(self, finished):
        steps = [row for row in read_history(finished.run) if "loss" in row]
        assert [row["step"] for row in steps] == list(range(1, STEPS + 1))
        assert [row["stage"] for row in steps] == ["ir"] * IR_STEPS + ["la"] * (STEPS - IR_STEPS)
        assert [row["epoch"] for row in steps] == pytest.approx([(step + 1) / EPOCH for step in range(STEPS)])
        assert all(row["clips_per_s"] > 0 and row["lr"] == 0.03 for row in steps)
        assert all(np.isfinite(row["loss"]) for row in steps)

    def test_first_loss_is_that_of_a_fresh_bank(self, finished):
        first = next(row["loss"] for row in read_history(finished.run) if "loss" in row)
        assert 0.5 * np.log(48) < first < 3 * np.log(48)

    def test_measurements(self, finished):
        history = read_history(finished.run)
        monitor = {row["step"]: row["monitor"] for row in history if "monitor" in row}
        assert list(monitor) == [6, 12]
        assert {(row["label"], row["readout"]) for row in monitor[6]} == {("shape", "knn_bank"), ("motion", "knn_bank")}
        evaluations = {row["step"]: row["evaluation"] for row in history if "evaluation" in row}
        assert list(evaluations) == [0, IR_STEPS, STEPS]
        for rows in evaluations.values():
            assert {(row["label"], row["readout"]) for row in rows} == {
                (label, readout) for label in ("shape", "motion") for readout in ("knn", "linear")
            }
            assert all(row["videos"] == 16 and row["chance"] == 25 and 0 <= row["top1"] <= 100 for row in rows)

    def test_metrics(self, finished):
        metrics = json.loads((finished.run / METRICS_NAME).read_text())
        stages = [("random", 0), ("ir", IR_STEPS), ("la", STEPS)]
        assert [(row["stage"], row["steps"]) for row in metrics["results"]] == [s for s in stages for _ in range(4)]
        assert metrics["protocol"]["clips_per_video"] == 2

    def test_encoder_is_the_trained_model(self, finished, tiny_corpus):
        encoder = load(finished.run / "encoder-la")
        assert encoder.sampling == finished.clips.sampling
        assert (encoder.sampling.size, encoder.sampling.frames) == (16, 1)
        training = encoder.card["training"]
        assert (training["stage"], training["steps"], training["seed"]) == ("la", STEPS, 0)
        assert (training["corpus"], training["splits"]) == (tiny_corpus.name, {"train": 48, "val": 16})
        frames = frames_of(tiny_corpus, range(48, 64))
        finished.model.eval()
        with torch.no_grad():
            torch.testing.assert_close(encoder(frames), finished.model(encoder.preprocess(frames)), atol=1e-6, rtol=0)
            before = load(finished.run / "encoder-ir")(frames)
            random = load(finished.run / "encoder-random")(frames)
        assert not torch.allclose(before, encoder(frames))
        assert not torch.allclose(before, random)

    def test_bank_holds_the_videos(self, finished):
        bank = finished.method.bank.embeddings
        torch.testing.assert_close(bank.norm(dim=1), torch.ones(48))
        assert finished.method.objective.labels.shape == (1, 48)
        assert finished.method.objective.labels.max() == 5


class TestRepeats:
    def test_one_seed_gives_one_result_and_asking_again_changes_nothing(self, finished, tiny_corpus, tmp_path):
        for _ in range(2):
            job = trained(tiny_corpus, tmp_path / "run")
            assert_same_state(job, finished)
            assert measurements(job.run) == measurements(finished.run)
            assert (job.run / METRICS_NAME).read_bytes() == (finished.run / METRICS_NAME).read_bytes()

    def test_with_workers_too(self, finished, tiny_corpus, tmp_path):
        assert_same_state(trained(tiny_corpus, tmp_path / "run", "data.workers=2"), finished)

    def test_measuring_changes_nothing(self, finished, tiny_corpus, tmp_path):
        off = [f"monitor.{name}=0" for name in ("log_every", "knn_every", "checkpoint_every")]
        quiet = trained(tiny_corpus, tmp_path / "run", *off, "monitor.labels=[]")
        assert_same_state(quiet, finished)
        assert not [row for row in read_history(quiet.run) if "loss" in row]

    def test_another_seed_gives_another(self, finished, tiny_corpus, tmp_path):
        other, first = state(trained(tiny_corpus, tmp_path / "run", "seed=1")), state(finished)
        assert not torch.equal(other["bank"], first["bank"])
        assert not torch.equal(other["model.head.weight"], first["model.head.weight"])


class TestGuards:
    def test_another_corpus_of_the_same_size_is_refused(self, finished, tiny_corpus, tmp_path):
        run = Path(shutil.copytree(finished.run, tmp_path / "run"))
        other = Path(shutil.copytree(tiny_corpus, tmp_path / "other"))
        rewrite_index(other, {"name": [f"other/{video}" for video in range(64)]})
        with pytest.raises(VieError, match="other training videos"):
            trainer(other, run)

    def test_a_moved_corpus_is_the_same(self, finished, tiny_corpus, tmp_path):
        run = Path(shutil.copytree(finished.run, tmp_path / "run"))
        moved = Path(shutil.copytree(tiny_corpus, tmp_path / "moved"))
        assert trainer(moved, run).step == STEPS

    def test_a_run_that_lost_its_checkpoint_is_not_overwritten(self, finished, tiny_corpus, tmp_path):
        run = Path(shutil.copytree(finished.run, tmp_path / "run"))
        shutil.rmtree(run / FOLDER_NAME)
        before = (run / "history.jsonl").read_bytes()
        with pytest.raises(VieError, match="without its checkpoint"):
            trainer(tiny_corpus, run)
        assert (run / "history.jsonl").read_bytes() == before

    def test_measurements_and_length_may_change(self, finished, tiny_corpus, tmp_path):
        run = Path(shutil.copytree(finished.run, tmp_path / "run"))
        job = trained(tiny_corpus, run, "monitor.log_every=2", "local_aggregation.steps=10")
        assert job.step == IR_STEPS + 10

    def test_one_process_at_a_time(self, tiny_corpus, tmp_path):
        one, other = trainer(tiny_corpus, tmp_path / "run"), trainer(tiny_corpus, tmp_path / "run")
        with locked(one.run, one.ranks), pytest.raises(VieError, match="another process"):
            other.train()


class TestInterrupted:
    @pytest.mark.parametrize("step", [2, IR_STEPS, 8, 11])
    def test_goes_on_as_if_it_had_not_been(self, finished, tiny_corpus, tmp_path, monkeypatch, step):
        run = tmp_path / "run"
        with monkeypatch.context() as patch:
            stop_at(step, patch)
            with pytest.raises(StoppedError):
                trained(tiny_corpus, run)
        second = trainer(tiny_corpus, run)
        # A checkpoint every 5 steps, and at the end of instance recognition.
        assert second.step == max(kept for kept in (0, IR_STEPS, 5, 10) if kept <= step)
        second.train()
        assert_same_state(second, finished)
        assert measurements(run) == measurements(finished.run)
        assert (run / METRICS_NAME).read_bytes() == (finished.run / METRICS_NAME).read_bytes()

    @pytest.mark.parametrize("stage", ["ir", "la"])
    @pytest.mark.parametrize("kept", [False, True], ids=["before", "after"])
    def test_goes_on_from_the_end_of_a_stage(self, finished, tiny_corpus, tmp_path, monkeypatch, stage, kept):
        """Ended before or after the stage's encoder is kept, with no checkpoint but the one of that step."""
        run = tmp_path / "run"
        keep_stage = Monitor.keep_stage

        def ended(self, at, *arguments):
            if at == stage and not kept:
                raise StoppedError(signal.SIGTERM, 0)
            rows = keep_stage(self, at, *arguments)
            if at == stage:
                raise StoppedError(signal.SIGTERM, 0)
            return rows

        with monkeypatch.context() as patch:
            patch.setattr(Monitor, "keep_stage", ended)
            with pytest.raises(StoppedError):
                trained(tiny_corpus, run, "monitor.checkpoint_every=0", "monitor.checkpoints=1")
        second = trained(tiny_corpus, run)
        assert_same_state(second, finished)
        assert measurements(run) == measurements(finished.run)
        assert {path.name for path in run.glob("encoder-*")} == {path.name for path in finished.run.glob("encoder-*")}
        stages = [json.loads((each / METRICS_NAME).read_text()) for each in (run, finished.run)]
        assert stages[0]["stages"] == stages[1]["stages"]
        assert stages[0]["results"] == stages[1]["results"]

    def test_steps_are_taken_while_a_checkpoint_is_written(self, finished, tiny_corpus, tmp_path, monkeypatch):
        """That of step 5, on a disk that is as slow as two steps; and it holds the state of its own step."""
        run = tmp_path / "run"
        end_step, waiting = Objective.end_step, []
        with monkeypatch.context() as patch:
            disk = SlowDisk(patch)
            disk.release.set()
            job = trainer(tiny_corpus, run, "monitor.checkpoints=9")

            def end(self: Objective, *arguments: Tensor) -> None:
                if job.step == 4:
                    disk.release.clear()
                elif job.step == 7:
                    waiting.extend(path.name for path in (run / FOLDER_NAME).iterdir())
                    disk.release.set()
                end_step(self, *arguments)

            patch.setattr(Objective, "end_step", end)
            job.train()
        assert sorted(waiting) == ["step-000000004", "step-000000005.partial"]
        assert_same_state(job, finished)
        for later in ("step-000000010", "step-000000012"):
            shutil.rmtree(run / FOLDER_NAME / later)
        second = trainer(tiny_corpus, run)
        assert second.step == 5
        second.train()
        assert_same_state(second, finished)

    def test_killed(self, finished, tiny_corpus, tmp_path):
        """By the system, in the middle of the step after next of a checkpoint."""
        run = tmp_path / "run"
        command = ["train", *tiny_run(tiny_corpus, run)]
        status, told = command_on_ranks(1, command, tmp_path / "log", {"KILL": "7:0:SIGKILL"})
        assert status == signal.SIGKILL, told
        assert [row["step"] for row in read_history(run) if "loss" in row] == list(range(1, 8))
        second = trainer(tiny_corpus, run)
        assert second.step == 5
        second.train()
        assert_same_state(second, finished)
        assert measurements(run) == measurements(finished.run)

    def test_history_cut_in_the_middle_of_a_line(self, finished, tiny_corpus, tmp_path, monkeypatch):
        run = tmp_path / "run"
        with monkeypatch.context() as patch:
            stop_at(7, patch)
            with pytest.raises(StoppedError):
                trained(tiny_corpus, run)
        with (run / "history.jsonl").open("a") as file:
            file.write('{"step": 8, "stage": "l')
        trained(tiny_corpus, run)
        assert measurements(run) == measurements(finished.run)

    def test_other_settings_are_refused(self, finished, tiny_corpus):
        before = {path: path.stat().st_mtime_ns for path in finished.run.rglob("*")}
        settings = tiny_run(tiny_corpus, finished.run, "optim.lr=0.01", "model.width=8", "seed=3")
        with pytest.raises(VieError) as caught:
            Trainer(parse_config([], settings))
        message = str(caught.value)
        assert "\n" not in message
        assert all(old in message for old in ("optim.lr=0.03", "model.width=4", "seed=0")), message
        assert "data" not in message.split("(")[1].split(")")[0]
        assert {path: path.stat().st_mtime_ns for path in finished.run.rglob("*")} == before

    def test_goes_on_with_other_workers(self, finished, tiny_corpus, tmp_path, monkeypatch):
        run = tmp_path / "run"
        with monkeypatch.context() as patch:
            stop_at(7, patch)
            with pytest.raises(StoppedError):
                trained(tiny_corpus, run)
        assert_same_state(trained(tiny_corpus, run, "data.workers=2"), finished)

    def test_goes_on_in_a_folder_that_was_moved(self, finished, tiny_corpus, tmp_path):
        run = tmp_path / "run"
        shutil.copytree(finished.run, run)
        assert_same_state(trained(tiny_corpus, run), finished)

    @pytest.mark.parametrize("part", ["facts", "tensors"])
    @pytest.mark.parametrize("damage", ["absent", "empty", "cut", "noise", "pickle"])
    def test_damaged_checkpoint(self, finished, tiny_corpus, tmp_path, damage, part):
        run, trace = tmp_path / "run", tmp_path / "trace"
        shutil.copytree(finished.run / FOLDER_NAME, run / FOLDER_NAME)
        newest = sorted((run / FOLDER_NAME).iterdir())[-1]
        file = newest / FACTS_NAME if part == "facts" else next(newest.glob("*.safetensors"))
        content = file.read_bytes()
        harmful = pickle.dumps({"config": _Touch(trace)})
        damaged_content = {"empty": b"", "cut": content[: len(content) // 2], "noise": b"\x07" * 999, "pickle": harmful}
        file.unlink()
        if damage != "absent":
            file.write_bytes(damaged_content[damage])
        (newest / ".metadata").write_bytes(harmful)
        with pytest.raises(VieError, match=newest.name) as caught:
            trainer(tiny_corpus, run)
        assert "\n" not in str(caught.value)
        assert not trace.exists()
        shutil.rmtree(newest)
        assert trainer(tiny_corpus, run).step == 10


def told(error: BaseException, folder: Path) -> str:
    """Its words, without the folder of a test."""
    assert "\n" not in str(error)
    return str(error).replace(str(folder), "…")


class TestFaults:
    """What was kept before is as it was, and the same command goes on from it."""

    KEPT = "; the checkpoint before as it was, continued bit-equal"

    def goes_on(self, finished: Trainer, corpus: Path, run: Path, step: int) -> None:
        assert not list(run.rglob("*.partial"))
        second = trainer(corpus, run)
        assert second.step == step
        second.train()
        assert_same_state(second, finished)
        assert (run / METRICS_NAME).read_bytes() == (finished.run / METRICS_NAME).read_bytes()
        assert {path.name for path in run.iterdir()} == {path.name for path in finished.run.iterdir()}

    def test_disk_full_before_the_first_checkpoint(self, finished, tiny_corpus, tmp_path, table):
        run = tmp_path / "run"
        job = trainer(tiny_corpus, run)
        with full_disk() as limit:
            limit(4096)
            with pytest.raises(VieError, match="free some space") as caught:
                job.train()
        self.goes_on(finished, tiny_corpus, run, 0)
        outcome = f"ended: {told(caught.value, tmp_path)}; begun again, bit-equal"
        table("jobs", fault="disk full before the first checkpoint", outcome=outcome)

    def test_disk_full_while_a_checkpoint_is_written(self, finished, tiny_corpus, tmp_path, monkeypatch, table):
        run = tmp_path / "run"
        save, before = Checkpoints.save, {}
        with monkeypatch.context() as patch, full_disk() as limit:

            def fill(self: Checkpoints, step: int, *arguments: Any) -> None:
                if step == 10:
                    before.update(contents(self.folder))
                    limit(max(map(len, before.values())) // 2)
                save(self, step, *arguments)

            patch.setattr(Checkpoints, "save", fill)
            with pytest.raises(VieError, match=r"the checkpoint cannot be written .*: free some space") as caught:
                trained(tiny_corpus, run)
        assert {Path(name).parent.name for name in before} == {"step-000000004", "step-000000005"}
        assert contents(run / FOLDER_NAME) == before
        self.goes_on(finished, tiny_corpus, run, 5)
        assert measurements(run) == measurements(finished.run)
        outcome = f"ended: {told(caught.value, tmp_path)}{self.KEPT}"
        table("jobs", fault="disk full while a checkpoint is written", outcome=outcome)

    def test_disk_full_after_a_checkpoint(self, finished, tiny_corpus, tmp_path, monkeypatch, table):
        """At the encoder of a stage, which is kept after the stage's checkpoint."""
        run = tmp_path / "run"
        keep_stage, before = Monitor.keep_stage, {}
        with monkeypatch.context() as patch, full_disk() as limit:

            def fill(self: Monitor, stage: str, *arguments: Any) -> Any:
                if stage == "ir":
                    before.update(contents(run / FOLDER_NAME))
                    limit(4096)
                return keep_stage(self, stage, *arguments)

            patch.setattr(Monitor, "keep_stage", fill)
            with pytest.raises(VieError, match=r"cannot be written .*: free some space") as caught:
                trained(tiny_corpus, run)
        assert {Path(name).parent.name for name in before} == {"step-000000004"}
        assert contents(run / FOLDER_NAME) == before
        self.goes_on(finished, tiny_corpus, run, 4)
        assert measurements(run) == measurements(finished.run)
        outcome = f"ended: {told(caught.value, tmp_path)}{self.KEPT}"
        table("jobs", fault="disk full while the encoder of a stage is written", outcome=outcome)

    @pytest.mark.parametrize("log_every", [1, 50])
    def test_loss_is_no_number_before_the_first_checkpoint(self, tiny_corpus, tmp_path, log_every, table):
        job = trainer(tiny_corpus, tmp_path / "run", "optim.lr=1e30", f"monitor.log_every={log_every}")
        with pytest.raises(VieError, match=r"the loss is nan at step \d+: lower optim\.lr") as caught:
            job.train()
        # Nothing that has gone wrong is kept.
        assert not (job.run / FOLDER_NAME).exists()
        assert {path.name for path in job.run.glob("encoder-*")} == {"encoder-random"}
        fault = f"loss is no number before the first checkpoint, log_every={log_every}"
        table("jobs", fault=fault, outcome=f"ended: {told(caught.value, tmp_path)}; nothing of it kept")

    @pytest.mark.parametrize("log_every", [1, 50])
    @pytest.mark.parametrize("step", [7, 9], ids=["between", "before a checkpoint"])
    def test_no_number_after_a_checkpoint(self, finished, tiny_corpus, tmp_path, monkeypatch, step, log_every, table):
        """One step spoils the weights; if a checkpoint follows it at once, no loss has shown it yet."""
        run = tmp_path / "run"
        before = {}
        with monkeypatch.context() as patch:
            job = trainer(tiny_corpus, run, f"monitor.log_every={log_every}")

            def spoil(config: OptimConfig, at: int) -> float:
                if at != step:
                    return learning_rate(config, at)
                job.checkpoints.finish()
                before.update(contents(run / FOLDER_NAME))
                return float("nan")

            patch.setattr("pretrain.train.learning_rate", spoil)
            with pytest.raises(VieError, match=r"no number|the loss is nan at step \d+.* lower optim\.lr") as caught:
                job.train()
        assert {Path(name).parent.name for name in before} == {"step-000000004", "step-000000005"}
        assert contents(run / FOLDER_NAME) == before
        self.goes_on(finished, tiny_corpus, run, 5)
        what = "weights are no numbers at a checkpoint" if step == 9 else "loss is no number after a checkpoint"
        outcome = f"ended: {told(caught.value, tmp_path)}{self.KEPT}"
        table("jobs", fault=f"{what}, log_every={log_every}", outcome=outcome)


class _Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


class TestLearning:
    """On plain frames and with few videos, so that there is something to learn in a few seconds."""

    SETTINGS = (
        "model.width=8",
        "data.batch_size=16",
        "augmentation.short_side=[1.2,1.2]",
        *(f"augmentation.{name}=0" for name in ("brightness", "contrast", "saturation", "hue", "grey", "flip")),
        "local_aggregation.refresh_epochs=100",
        "monitor.knn_every=0",
        "monitor.checkpoint_every=0",
        "monitor.labels=[]",
    )

    def losses(self, corpus: Path, run: Path, *settings: str) -> np.ndarray:
        trained(corpus, run, *self.SETTINGS, *settings)
        return np.array([row["loss"] for row in read_history(run) if "loss" in row])

    def test_softmax_and_local_aggregation(self, tiny_corpus, tmp_path):
        settings = [
            "model.width=16",
            "data.size=24",
            "augmentation.short_side=[1,1]",
            "optim.lr=0.1",
            "bank.temperature=0.2",
            "instance_recognition.steps=150",
            "local_aggregation.steps=250",
            "seed=1",
        ]
        losses = self.losses(tiny_corpus, tmp_path / "run", *settings)
        assert len(losses) == 400
        assert losses[138:150].mean() < np.log(48) - 1  # much better than not to tell the 48 videos apart
        assert losses[350:].mean() < 0.8 * losses[150:200].mean()

    def test_noise_contrast(self, tiny_corpus, tmp_path):
        settings = ["bank.temperature=0.5", "instance_recognition.noise=32", "instance_recognition.steps=80"]
        losses = self.losses(tiny_corpus, tmp_path / "run", *settings, "local_aggregation.steps=0")
        assert len(losses) == 80
        assert losses[70:].mean() < 0.9 * losses[:10].mean()
        assert sorted(path.name for path in (tmp_path / "run").glob("encoder-*")) == ["encoder-ir", "encoder-random"]

    def test_rate_drops(self, tiny_corpus, tmp_path):
        job = trained(tiny_corpus, tmp_path / "run", "optim.drops=[3,8]", "monitor.labels=[]")
        rates = [row["lr"] for row in read_history(job.run) if "lr" in row]
        assert rates == pytest.approx([0.03] * 3 + [0.003] * 5 + [0.0003] * 4)


class TestCorpora:
    def test_the_dynamic_stream(self, mixed_corpus, tmp_path):
        settings = ["model.name=vie_resnet3d_r18", "data.frames=4", "data.stride=2", "data.fps=0"]
        job = trained(mixed_corpus, tmp_path / "run", *settings)
        encoder = load(job.run / "encoder-la")
        assert (encoder.sampling.frames, encoder.sampling.stride, encoder.sampling.fps) == (4, 2, None)
        assert torch.isfinite(job.method.bank.embeddings).all()

    def test_without_labels(self, finished, tiny_corpus, tmp_path):
        corpus = shutil.copytree(tiny_corpus, tmp_path / "corpus")
        rewrite_index(corpus, {}, drop=["label.shape", "label.motion"])
        job = trained(corpus, tmp_path / "run")
        assert_same_state(job, finished)
        assert load(job.run / "encoder-la").card["metrics"]["results"] == []

    def test_without_a_val_split(self, tiny_corpus, tmp_path):
        corpus = shutil.copytree(tiny_corpus, tmp_path / "corpus")
        rewrite_index(corpus, {"split": ["train"] * 64})
        job = trained(corpus, tmp_path / "run", "local_aggregation.steps=2")
        assert len(job.method.bank) == 64
        assert load(job.run / "encoder-la")(frames_of(corpus, range(2))).shape == (2, 16)

    def test_without_the_train_split(self, tiny_corpus, tmp_path):
        with pytest.raises(VieError, match=r"no videos in split 'trian': set data\.train_split to one of train, val"):
            trainer(tiny_corpus, tmp_path / "run", "data.train_split=trian")

    def test_some_labels_are_missing(self, tiny_corpus, tmp_path):
        corpus = shutil.copytree(tiny_corpus, tmp_path / "corpus")
        shapes = [None if number % 3 == 0 else "ab"[number % 2] for number in range(64)]
        rewrite_index(corpus, {"label.shape": shapes})
        job = trained(corpus, tmp_path / "run", "local_aggregation.steps=2", "monitor.labels=[shape]")
        results = json.loads((job.run / METRICS_NAME).read_text())["results"]
        assert {row["videos"] for row in results} == {sum(shape is not None for shape in shapes[48:])}

    def test_damaged_videos_keep_their_rows(self, tiny_corpus, tmp_path):
        corpus = damaged(tiny_corpus, tmp_path / "corpus", 5, 30)
        fresh = trainer(corpus, tmp_path / "run").method.bank.embeddings.clone()
        job = trained(corpus, tmp_path / "run")
        bank = job.method.bank.embeddings
        moved = (bank != fresh).any(dim=1)
        assert [instance for instance in range(48) if not moved[instance]] == [5, 30]
        with (job.run / FAILURES_NAME).open(newline="") as file:
            failures = list(csv.DictReader(file))
        assert sorted(row["instance"] for row in failures) == ["30", "30", "5", "5"]  # in each of the two epochs
        names = job.corpus.shards.names
        assert all(row["name"] == names[job.corpus.train_videos[int(row["instance"])]] for row in failures)

    def test_layout_of_the_memory(self, tiny_corpus, tmp_path):
        one_step = ["instance_recognition.steps=1", "local_aggregation.steps=0", "model.width=16", "data.size=32"]
        plain = state(trained(tiny_corpus, tmp_path / "plain", *one_step))
        job = trained(tiny_corpus, tmp_path / "last", *one_step, "runtime.channels_last=true")
        assert job.model.trunk.stages[0][0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
        for name, tensor in state(job).items():
            scale = plain[name].abs().max().item()
            torch.testing.assert_close(tensor, plain[name], atol=1e-3 * scale, rtol=0)

    def test_corpus_on_the_device(self, tiny_corpus, tmp_path):
        """The same pixels but for rounding, which later steps would amplify."""
        one_step = ["instance_recognition.steps=1", "local_aggregation.steps=0"]
        plain = state(trained(tiny_corpus, tmp_path / "plain", *one_step))
        cached = state(trained(tiny_corpus, tmp_path / "cached", *one_step, "data.cache=device"))
        for name, tensor in plain.items():
            torch.testing.assert_close(cached[name], tensor, atol=1e-3, rtol=0)


class TestRefused:
    def test_too_few_videos_for_a_batch(self, tiny_corpus, tmp_path):
        with pytest.raises(VieError, match=r"48 training instances do not fill a batch of 64"):
            trainer(tiny_corpus, tmp_path / "run", "data.batch_size=64")
        assert not (tmp_path / "run").exists()

    def test_too_few_videos_for_the_clusters(self, tiny_corpus, tmp_path):
        """Found out before the steps of instance recognition, not after them."""
        with pytest.raises(VieError, match="48 instances cannot make 49 clusters"):
            trainer(tiny_corpus, tmp_path / "run", "local_aggregation.clusters=49")
        assert not (tmp_path / "run").exists()

    def test_no_folder_for_the_run(self, tiny_corpus, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(VieError, match="run=FOLDER"):
            trained(tiny_corpus, Path("run"), "run=")
        assert not list(tmp_path.iterdir())

    def test_unknown_label_column(self, tiny_corpus, tmp_path):
        with pytest.raises(VieError, match=r"no label column 'colour': its label columns are shape, motion"):
            trainer(tiny_corpus, tmp_path / "run", "monitor.labels=[colour]")
        assert not (tmp_path / "run").exists()

    def test_labels_are_missing_in_a_split(self, tiny_corpus, tmp_path):
        corpus = shutil.copytree(tiny_corpus, tmp_path / "corpus")
        rewrite_index(corpus, {"label.shape": ["square"] * 48 + [None] * 16})
        with pytest.raises(VieError, match=r"label column 'shape' is empty in a split"):
            trained(corpus, tmp_path / "run", "monitor.labels=[shape]")
        assert not (tmp_path / "run").exists()

    def test_unknown_device(self, tiny_corpus, tmp_path):
        with pytest.raises(VieError, match=r"runtime\.device='cpuu'") as caught:
            trainer(tiny_corpus, tmp_path / "run", "runtime.device=cpuu")
        assert "\n" not in str(caught.value)

    def test_unknown_model(self, tiny_corpus, tmp_path):
        with pytest.raises(VieError, match="did you mean 'vie_single_r18'"):
            trainer(tiny_corpus, tmp_path / "run", "model.name=vie_single_r19")


def test_config_of_a_run_is_written_in_full(finished):
    content = yaml.safe_load((finished.run / "config.yaml").read_text())
    assert content["optim"] == {"lr": 0.03, "momentum": 0.9, "weight_decay": 1e-4, "drops": []}
    assert content["data"]["batch_size"] == 8


def test_begins_from_a_finished_encoder(finished, tiny_corpus, tmp_path):
    start = f"model.start={finished.run / 'encoder-la'}"
    trn = trainer(tiny_corpus, tmp_path / "trn", "model.name=vie_trn_r18", "data.frames=4", "data.stride=2", start)
    trunk = finished.model.trunk.state_dict()
    assert all(torch.equal(tensor, trunk[name]) for name, tensor in trn.model.trunk.state_dict().items())
    trn.train()
    stages = json.loads((trn.run / METRICS_NAME).read_text())["stages"]
    assert [stage["stage"] for stage in stages] == ["start", "ir", "la"]  # what it begins with is not random
    training = load(trn.run / "encoder-la").card["training"]
    assert training["config"]["model"]["start"] == f"{finished.run.name}/encoder-la"
    assert "tensors loaded" in training["start"]
    again = trainer(tiny_corpus, tmp_path / "trn", "model.name=vie_trn_r18", "data.frames=4", "data.stride=2", start)
    assert_same_state(again, trn)
    with pytest.raises(VieError, match="absent is no folder"):
        trainer(tiny_corpus, tmp_path / "other", "model.start=absent")


def test_a_card_says_what_made_the_weights(finished):
    training = load(finished.run / "encoder-la").card["training"]
    settings = training["config"]
    assert settings["augmentation"]["crop"] == "random"
    assert settings["local_aggregation"]["clusters"] == 6
    assert settings["data"]["fraction"] == 1.0
    assert training["embedding"] == "trained"
    assert str(finished.run.parent) not in json.dumps(load(finished.run / "encoder-la").card)


def test_a_checkpoint_of_another_version(finished, tiny_corpus, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished.run / FOLDER_NAME, run / FOLDER_NAME)
    facts = sorted((run / FOLDER_NAME).iterdir())[-1] / FACTS_NAME
    facts.write_text(json.dumps({**json.loads(facts.read_text()), "format": 2}))
    with pytest.raises(VieError, match="was written by another version"):
        trainer(tiny_corpus, run)
