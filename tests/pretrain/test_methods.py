import itertools
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from pretrain.checkpoint import FOLDER_NAME
from pretrain.methods import METHODS, Method
from pretrain.methods.opn import FORWARD, OPN, PairwiseHead, draw_start
from pretrain.monitor import METRICS_NAME
from pretrain.reporting.report import STAGES, write_report
from pretrain.settings import RECIPES, parse_config
from pretrain.train import Trainer
from tests import conftest
from tests.conftest import NEEDS_GPU, rewrite_index, tiny_run, write_corpus
from vie import Sampling, VieError, load
from vie.history import read_history
from vie.video import Shards

BASELINES = sorted(set(METHODS) - {"vie"})
STEPS = 6
PLAIN = [f"augmentation.{name}=0" for name in ("brightness", "contrast", "saturation", "hue", "grey", "flip")]


def settings(method: str, *others: str) -> list[str]:
    if method == "simclr":
        pytest.importorskip("lightly")
    return [f"method={method}", f"baseline.steps={STEPS}", "monitor.checkpoint_every=4", *others]


def trainer(method: str, corpus: Path, run: Path, *others: str) -> Trainer:
    return Trainer(parse_config([], tiny_run(corpus, run, *settings(method, *others))))


def made(method: str, corpus: Path, tmp_path: Path, *others: str) -> Method:
    return trainer(method, corpus, tmp_path / "run", *others).method


def state(job: Trainer) -> dict[str, Tensor]:
    momenta = job.optimizer.state_dict()["state"]
    return {
        **job.method.network.state_dict(),
        **{f"momentum.{number}": slot["momentum_buffer"] for number, slot in momenta.items()},
    }


def different(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


def cross_entropy(logits: np.ndarray, target: np.ndarray) -> float:
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return float(-np.log(shares[np.arange(len(target)), target]).mean())


class StoppedError(Exception):
    """Stands for whatever ends a process."""


@pytest.fixture(scope="module")
def whole(method, tiny_corpus, tmp_path_factory) -> tuple[Trainer, dict[str, Tensor]]:
    """A finished run of a method, and the weights that it began with."""
    job = trainer(method, tiny_corpus, tmp_path_factory.mktemp(method) / "run")
    before = {name: weight.clone() for name, weight in job.method.network.state_dict().items()}
    job.train()
    return job, before


@pytest.mark.parametrize("method", BASELINES, scope="module")
class TestEveryMethod:
    def test_a_whole_run(self, method, whole, tiny_corpus, tmp_path):
        job, before = whole
        newest = sorted((job.run / FOLDER_NAME).iterdir())[-1]
        tensors = {name: tensor for path in newest.glob("*.safetensors") for name, tensor in load_file(path).items()}
        kept = {name.removeprefix("network."): tensors[name] for name in tensors if name.startswith("network.")}
        assert not different(kept, job.method.network.state_dict())
        trained = different(kept, before)
        assert any(name.startswith("stream.trunk.") for name in trained)
        heads = {name for name in kept if name.startswith("head.") and kept[name].is_floating_point()}
        assert heads
        assert heads <= set(trained) | {name for name in heads if name.endswith("running_var")}
        assert not any(name.startswith("stream.head.") for name in trained)

        steps = [row for row in read_history(job.run) if "loss" in row]
        assert [row["stage"] for row in steps] == [method] * STEPS
        metrics = json.loads((job.run / METRICS_NAME).read_text())
        assert metrics["method"] == job.method.citation
        assert {(row["stage"], row["readout"]) for row in metrics["results"]} == {
            (stage, readout) for stage in ("random", method) for readout in ("knn", "linear")
        }
        frame = Shards(tiny_corpus).read(0, [0])[None]
        encoder = load(job.run / f"encoder-{method}")
        job.model.eval()
        torch.testing.assert_close(encoder(frame), job.model(encoder.preprocess(frame)), atol=1e-6, rtol=0)
        assert STAGES[method] in write_report([job.run], tmp_path / "report.html").read_text()

    def test_goes_on_as_if_it_had_not_been_stopped(self, method, whole, tiny_corpus, tmp_path, monkeypatch):
        stopped = trainer(method, tiny_corpus, tmp_path / "run")

        def end_step(output: Tensor, target: Tensor) -> None:
            if stopped.step == STEPS - 1:
                raise StoppedError

        monkeypatch.setattr(stopped.method, "end_step", end_step)
        with pytest.raises(StoppedError):
            stopped.train()
        torch.manual_seed(7)  # whatever a new process begins with
        second = trainer(method, tiny_corpus, tmp_path / "run")
        assert second.step == 4
        second.train()
        assert not different(state(second), state(whole[0]))

    def test_every_trained_parameter_has_a_gradient_and_the_forward_pass_is_one_graph(
        self, method, tiny_corpus, tmp_path
    ):
        """What CUDA graphs and torch.compile ask for."""
        job = trainer(method, tiny_corpus, tmp_path / "run")
        network, clip = job.method.network, job.method.sampling(Sampling(1, 1, 25.0, 16))
        shape = (8 * job.method.views, 3, clip.frames, clip.size, clip.size)
        instances = torch.arange(8)
        taken, target = job.method.inputs(torch.randn(shape), instances, 0)
        assert taken.shape == job.method.clip_shape(shape)
        network.eval()
        whole = torch.compile(network, backend="eager", fullgraph=True)
        torch.testing.assert_close(whole(taken), network(taken))
        network.train()
        job.method.loss(network(taken), target, 0).backward()
        without = [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None]
        assert not without
        with torch.autocast("cpu", torch.bfloat16):
            assert network(taken).dtype == torch.float32

    @NEEDS_GPU
    @pytest.mark.parametrize("mode", ["cuda_graph", "compile"])
    def test_runs_on_a_gpu_as_it_does_in_eager_mode(self, method, mode, tiny_corpus, tmp_path, monkeypatch):
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
        losses = []
        for way in ("eager", mode):
            options = ["runtime.device=cuda", f"runtime.mode={way}", "monitor.labels=[]", "optim.lr=0.001"]
            job = trainer(method, tiny_corpus, tmp_path / way, *options)
            job.train()
            losses.append([row["loss"] for row in read_history(job.run) if "loss" in row])
        assert losses[0] == pytest.approx(losses[1], rel=1e-3)


class TestSupervised:
    def test_loss_leaves_out_videos_without_a_label(self, tiny_corpus, tmp_path):
        corpus = Path(shutil.copytree(tiny_corpus, tmp_path / "corpus"))
        names = [None if number % 3 == 0 else "abcde"[number % 5] for number in range(64)]
        rewrite_index(corpus, {"label.motion": names})
        method = made("supervised", corpus, tmp_path, "baseline.label=motion")
        instances = np.array([0, 1, 2, 5, 6, 7, 47])
        clip = torch.randn(7, 3, 1, 16, 16)
        taken, target = method.inputs(clip, torch.from_numpy(instances), 0)
        assert taken is clip
        logits = torch.randn(7, 5, requires_grad=True)
        loss = method.loss(logits, target, 0)
        known = np.flatnonzero(instances % 3)
        classes = ["abcde".index(str(names[instance])) for instance in instances[known]]
        expected = cross_entropy(logits.detach().double().numpy()[known], np.array(classes))
        assert loss.item() == pytest.approx(expected, rel=1e-6)
        loss.backward()
        assert set(np.flatnonzero(logits.grad.abs().sum(dim=1))) == set(known)

    def test_a_batch_without_labels_teaches_nothing(self, tiny_corpus, tmp_path):
        corpus = Path(shutil.copytree(tiny_corpus, tmp_path / "corpus"))
        rewrite_index(corpus, {"label.motion": [None] * 40 + ["up"] * 24})
        method = made("supervised", corpus, tmp_path, "baseline.label=motion")
        logits = torch.randn(4, 1, requires_grad=True)
        loss = method.loss(logits, method.inputs(logits, torch.arange(4), 0)[1], 0)
        loss.backward()
        assert loss.item() == 0
        assert not logits.grad.any()

    def test_the_first_column_is_learnt_by_default(self, tiny_corpus, tmp_path):
        shards = Shards(tiny_corpus)
        method = made("supervised", tiny_corpus, tmp_path)
        _, target = method.inputs(torch.empty(48), torch.arange(48), 0)
        assert target.tolist() == shards.labels("shape")[:48].tolist()
        assert target.tolist() != shards.labels("motion")[:48].tolist()

    def test_corpora_that_it_cannot_learn(self, tiny_corpus, tmp_path):
        with pytest.raises(VieError, match="no label column 'colour': its label columns are shape, motion"):
            made("supervised", tiny_corpus, tmp_path, "baseline.label=colour")
        corpus = Path(shutil.copytree(tiny_corpus, tmp_path / "corpus"))
        rewrite_index(corpus, {"label.shape": [None] * 48 + ["disc"] * 16})
        with pytest.raises(VieError, match=r"column 'shape': set baseline\.label to another of shape, motion"):
            made("supervised", corpus, tmp_path)
        rewrite_index(corpus, {}, drop=["label.shape", "label.motion"])
        with pytest.raises(VieError, match="no label columns"):
            made("supervised", corpus, tmp_path)


def turns_of(shown: np.ndarray, clip: np.ndarray) -> int | None:
    """By how many quarter turns a clip (3, T, S, S) is rotated, if by one number in all of its frames."""
    by_frame = [
        {turns for turns in range(4) if np.array_equal(shown[:, frame], np.rot90(clip[:, frame], turns, (1, 2)))}
        for frame in range(clip.shape[1])
    ]
    common = set.intersection(*by_frame)
    return common.pop() if len(common) == 1 else None


class TestRotNet:
    def test_targets_are_the_rotations_of_the_inputs(self, tiny_corpus, tmp_path):
        clip = torch.randn(3, 3, 5, 8, 8)
        taken, target = made("rotnet", tiny_corpus, tmp_path).inputs(clip, torch.arange(3), 0)
        rows = [[turns_of(shown, one) for one in clip.numpy()] for shown in taken.numpy()]
        found = [[(number, turns) for number, turns in enumerate(row) if turns is not None] for row in rows]
        assert [len(row) for row in found] == [1] * 12
        assert sorted(row[0] for row in found) == list(itertools.product(range(3), range(4)))
        assert [row[0][1] for row in found] == target.tolist()

    def test_the_check_sees_frames_of_mixed_rotations(self):
        """As where frames are ordered by frame, then rotation, and split as if by rotation, then frame."""
        clip = np.random.default_rng(0).normal(size=(3, 8, 6, 6))
        frames = [np.rot90(clip[:, frame], turns, (1, 2)) for frame in range(8) for turns in range(4)]
        blocks = np.stack(frames, axis=1).reshape(3, 4, 8, 6, 6)
        assert [turns_of(blocks[:, block], clip) for block in range(4)] == [None] * 4

    def test_head_and_loss(self, tiny_corpus, tmp_path):
        method = made("rotnet", tiny_corpus, tmp_path)
        shapes = [tuple(weight.shape) for weight in method.network.head.parameters()]
        assert shapes == [(64, 32), (64,), (4, 64), (4,)]
        logits, target = torch.randn(12, 4), torch.arange(12) // 3
        expected = cross_entropy(logits.double().numpy(), target.numpy())
        assert method.loss(logits, target, 0).item() == pytest.approx(expected, rel=1e-6)


class TestOPN:
    SPAN, SIZE, MARGIN = 9, 16, 1

    @pytest.fixture
    def method(self, tiny_corpus, tmp_path):
        method = made("opn", tiny_corpus, tmp_path)
        assert isinstance(method, OPN)
        return method

    def read(self, method: OPN, step: int, clips: int = 8) -> tuple[list[dict[str, np.ndarray]], list[int]]:
        """What was made of clips whose pixels all differ: where every pixel of every shown frame comes from."""
        sampling = method.sampling(Sampling(1, 1, 25.0, self.SIZE))
        shape = (clips, 3, sampling.frames, sampling.size, sampling.size)
        clip = torch.arange(float(np.prod(shape))).reshape(shape)  # exact in float32
        taken, target = method.inputs(clip, torch.arange(clips), step)
        assert taken.shape == (4 * clips, 3, 1, self.SIZE, self.SIZE)
        assert torch.equal(taken, taken[:, :1].expand_as(taken)), "one channel stands in for all"
        places = np.unravel_index(taken[:, 0, 0].long().numpy(), shape)
        names = ("clip", "channel", "frame", "row", "column")
        shown = [dict(zip(names, (place[i] for place in places), strict=True)) for i in range(4 * clips)]
        return shown, target.tolist()

    def test_targets_are_the_orders_of_the_inputs(self, method):
        classes: dict[tuple[int, ...], set[int]] = {}
        orders, starts, shifts, channels = set(), set(), set(), set()
        for step in range(40):
            shown, target = self.read(method, step)
            for number, answer in enumerate(target):
                four = shown[4 * number : 4 * number + 4]
                for frame in four:
                    assert all(np.ptp(frame[name]) == 0 for name in ("clip", "channel", "frame"))
                    assert frame["clip"].flat[0] == number
                    rows, columns = frame["row"], frame["column"]
                    assert np.array_equal(rows - rows[0, 0], np.mgrid[:16, :16][0])
                    assert np.array_equal(columns - columns[0, 0], np.mgrid[:16, :16][1])
                times = np.array([frame["frame"].flat[0] for frame in four])
                assert sorted(times - times.min()) == [0, 3, 6, 9]
                order = tuple((times - times.min()) // 3)
                classes.setdefault(min(order, order[::-1]), set()).add(answer)
                orders.add(order)
                starts.add(times.min())
                shifts.add(tuple((frame["row"][0, 0], frame["column"][0, 0]) for frame in four))
                channels.add(tuple(frame["channel"].flat[0] for frame in four))
        assert len(orders) == 24
        assert sorted(classes.values(), key=min) == [{number} for number in range(12)]
        assert starts == set(range(7))
        assert {shift for four in shifts for shift in four} == set(itertools.product(range(3), range(3)))
        assert {channel for four in channels for channel in four} == {0, 1, 2}
        # Each frame has its own.
        assert any(len(set(four)) > 1 for four in shifts)
        assert any(len(set(four)) > 1 for four in channels)

    def test_draws_depend_on_seed_and_step_alone(self, method, tiny_corpus, tmp_path):
        clip = torch.randn(8, 3, 16, 18, 18)

        def taken(of: Method, step: int) -> Tensor:
            return of.inputs(clip, torch.arange(8), step)[0]

        first = taken(method, 5)
        torch.manual_seed(3)
        assert torch.equal(taken(method, 5), first)
        assert not torch.equal(taken(method, 6), first)
        assert not torch.equal(taken(made("opn", tiny_corpus, tmp_path / "other", "seed=1"), 5), first)

    def test_starts_are_as_likely_as_their_motion(self):
        generator = torch.Generator().manual_seed(0)
        clip = torch.randn(1, 3, 7, 5, 5, generator=generator) * torch.tensor([1, 1, 1, 1, 4, 9, 9.0]).view(7, 1, 1)
        pixels = clip[0].double().numpy()
        moved = np.abs(np.diff(pixels, axis=1)).mean(axis=(0, 2, 3))
        motion = np.array([moved[start : start + 3].sum() for start in range(4)])
        expected = motion / motion.sum()
        assert expected[3] > 2 * expected[0]
        draws = 20_000
        starts = draw_start(clip.expand(draws, -1, -1, -1, -1), 3, generator)
        shares = np.bincount(starts.numpy(), minlength=4) / draws
        np.testing.assert_allclose(shares, expected, atol=4 * 0.5 / draws**0.5)

    def test_where_nothing_moves_every_start_is_as_likely(self):
        starts = draw_start(torch.ones(4000, 3, 7, 2, 2), 3, torch.Generator().manual_seed(0))
        np.testing.assert_allclose(np.bincount(starts.numpy(), minlength=4) / 4000, 0.25, atol=0.03)

    def test_window(self, tiny_corpus, tmp_path, method):
        sampling = Sampling(1, 2, 25.0, 16)
        assert method.sampling(sampling) == Sampling(16, 2, 25.0, 18)
        wide = made("opn", tiny_corpus, tmp_path / "wide", "baseline.span=15", "data.size=80")
        assert wide.sampling(sampling) == Sampling(26, 2, 25.0, 90)
        assert wide.clip_shape((8, 3, 26, 90, 90)) == (32, 3, 1, 80, 80)

    def test_head(self):
        head = PairwiseHead(6).double()
        pooled = torch.randn(12, 6, dtype=torch.float64)
        weights = {name: weight.detach().numpy() for name, weight in head.named_parameters()}
        assert weights["compare.weight"].shape == (512, 12)
        for number, answer in enumerate(head(pooled).detach().numpy()):
            a, b, c, d = pooled[4 * number : 4 * number + 4].numpy()
            compared = [
                np.maximum(weights["compare.weight"] @ np.concatenate(pair) + weights["compare.bias"], 0)
                for pair in ((a, b), (a, c), (a, d), (b, c), (b, d), (c, d))
            ]
            expected = weights["judge.weight"] @ np.concatenate(compared) + weights["judge.bias"]
            np.testing.assert_allclose(answer, expected, rtol=1e-10, atol=1e-12)

    def test_loss(self, method):
        logits, target = torch.randn(8, len(FORWARD)), torch.arange(8)
        expected = cross_entropy(logits.double().numpy(), target.numpy())
        assert method.loss(logits, target, 0).item() == pytest.approx(expected, rel=1e-6)

    @pytest.mark.parametrize("span", [4, 8, 10])
    def test_spans_that_cannot_be_cut_into_three(self, tiny_corpus, tmp_path, span):
        with pytest.raises(VieError, match=f"baseline.span={span} is no multiple of 3"):
            made("opn", tiny_corpus, tmp_path, f"baseline.span={span}")

    def test_streams_of_clips_are_refused(self, tiny_corpus, tmp_path):
        with pytest.raises(VieError, match=r"vie_resnet3d_r18 takes 16 at a time: set model\.name=vie_single_r18"):
            made("opn", tiny_corpus, tmp_path, "model.name=vie_resnet3d_r18")


class TestSimCLR:
    def test_loss(self, tiny_corpus, tmp_path):
        method = made("simclr", tiny_corpus, tmp_path)
        output = torch.randn(10, 6)
        rows = output.double().numpy()
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        logits = rows @ rows.T / 0.1
        np.fill_diagonal(logits, -np.inf)
        expected = cross_entropy(logits, (np.arange(10) + 5) % 10)
        assert method.loss(output, torch.arange(5), 0).item() == pytest.approx(expected, rel=1e-5)

    def test_both_views_of_every_instance(self, tiny_corpus, tmp_path):
        job = trainer("simclr", tiny_corpus, tmp_path / "run", "data.cache=device")
        batch, shards = job.clips[0], Shards(tiny_corpus)
        assert batch.frames.shape[0] == 2 * len(batch.instances) == 16
        shown = []
        for clip, instance in zip(batch.frames, [*batch.instances, *batch.instances], strict=True):
            video = shards.read(int(job.corpus.train_videos[instance]), range(10))
            shown.append([number for number, frame in enumerate(video) if torch.equal(frame, clip[0])])
        # Frames beyond the tenth are of the longer videos.
        assert sum(len(found) == 1 for found in shown) > 10
        assert shown[:8] != shown[8:]

    def test_without_lightly(self, tiny_corpus, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "lightly.loss", None)
        config = parse_config([], tiny_run(tiny_corpus, tmp_path / "run", "method=simclr"))
        with pytest.raises(VieError, match=r"pip install 'vie\[baselines\]'"):
            Trainer(config)


class TestLearning:
    """On videos of one plain frame, so that they are known by heart in a second, or whose frames only brighten."""

    SETTINGS = (
        *PLAIN,
        "model.width=8",
        "data.size=24",
        "data.batch_size=12",
        "data.fraction=0.25",
        "augmentation.short_side=[1,1]",
        "optim.lr=0.1",
        "monitor.labels=[]",
        "local_aggregation.steps=0",
        "baseline.steps=40",
    )

    @pytest.mark.parametrize("method", ["supervised", "rotnet"])
    def test_learns_by_heart(self, method, tmp_path):
        corpus = write_corpus(tmp_path / "corpus", ["train"] * 48, [(1, 24, 24)] * 48, [25.0] * 48)
        job = trainer(method, corpus, tmp_path / "run", *self.SETTINGS)
        losses = self.losses(job)
        assert losses[0] > 0.7 * np.log(4)
        assert np.mean(losses[-5:]) < 0.1

    def test_opn_sorts_frames_that_brighten(self, tmp_path, monkeypatch):
        def brightening(shape: str, motion: str, frames: int, height: int, width: int, seed: int) -> Tensor:
            levels = torch.linspace(20, 235, frames).to(torch.uint8)
            return levels[:, None, None, None].expand(-1, height, width, 3)

        monkeypatch.setattr(conftest, "moving_shape", brightening)
        corpus = write_corpus(tmp_path / "corpus", ["train"] * 48, [(16, 24, 24)] * 48, [25.0] * 48)
        job = trainer("opn", corpus, tmp_path / "run", *self.SETTINGS, "optim.lr=0.03", "baseline.steps=150")
        losses = self.losses(job)
        assert np.mean(losses[:5]) > 0.9 * np.log(len(FORWARD))
        assert np.mean(losses[-10:]) < 0.3

    def test_simclr_finds_the_other_view(self, tmp_path):
        corpus = write_corpus(tmp_path / "corpus", ["train"] * 48, [(1, 24, 24)] * 48, [25.0] * 48)
        strong = [f"augmentation.{name}=0.4" for name in ("brightness", "contrast", "saturation", "hue", "grey")]
        more = ("augmentation.short_side=[1.1,1.4]", "optim.lr=0.03", "baseline.steps=120")
        losses = self.losses(trainer("simclr", corpus, tmp_path / "run", *self.SETTINGS, *strong, *more))
        chance = np.log(2 * 12 - 1)
        assert np.mean(losses[:5]) > chance
        assert np.mean(losses[-10:]) < 0.7 * chance

    @staticmethod
    def losses(job: Trainer) -> list[float]:
        job.train()
        return [row["loss"] for row in read_history(job.run) if "loss" in row]


class TestRecipes:
    @pytest.mark.parametrize("method", BASELINES)
    def test_over_a_stream(self, method):
        before, config = (
            parse_config(["digits_static", *recipe], ["baseline.steps=9000"]) for recipe in ([], [f"baseline_{method}"])
        )
        assert config.method == method
        config.method = "vie"
        assert config == before

    def test_kinetics(self):
        rotnet = parse_config([RECIPES / "kinetics400_rotnet.yaml"])
        assert round(112 * rotnet.augmentation.short_side[0]) == 136
        assert max(rotnet.optim.drops) < rotnet.total_steps == 100_000
        opn = parse_config([RECIPES / "kinetics400_opn.yaml"])
        assert (opn.method, opn.baseline.span, opn.data.size) == ("opn", 15, 80)
