import json
import math
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from benchmarks.cli import main
from benchmarks.transfer.config import TASKS, parse_task
from benchmarks.transfer.figure import _draw as draw
from benchmarks.transfer.modes import MODES
from benchmarks.transfer.networks import Classifier, Probe
from benchmarks.transfer.readouts import POOLED, Place, features, flatten, summed_loss
from benchmarks.transfer.results import open_bench
from benchmarks.transfer.table import collect
from benchmarks.transfer.training import Bench, train
from benchmarks.transfer.training import test as score
from pretrain.preparation.inputs import list_videos
from pretrain.preparation.prepare import PrepareConfig, prepare
from pretrain.runtime import autocast_to
from pretrain.transfer_results import read_results
from tests.conftest import rewrite_index, write_corpus
from vie import Sampling, VieError, create_model, load, save_pretrained
from vie.models import TAPS
from vie.video import Augmentation, augment

CPU = torch.device("cpu")
PLAIN = autocast_to("fp32", CPU)
QUICK = [
    "runtime.device=cpu",
    "runtime.precision=fp32",
    "runtime.channels_last=false",
    "data.workers=0",
    "data.clips=2",
    "data.batch_size=8",
    "linear.standardise=false",
    "linear.lr=0.01",
    *(f"{mode}.steps=6" for mode in ("linear", "finetune", "scratch")),
    *(f"{mode}.drops=[4]" for mode in ("linear", "finetune", "scratch")),
    *(f"{mode}.test_every=3" for mode in ("linear", "finetune", "scratch")),
]
CLIP = Sampling(frames=4, stride=2, fps=25.0, size=16)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "encoder-la"
    torch.manual_seed(5)
    model = create_model("vie_slow_r18", width=4, embed_dim=16)
    save_pretrained(model, folder, CLIP, {"training": {"stage": "la", "seed": 7}})
    return folder


def bench_for(corpus: Path, encoder: Path, *settings: str) -> tuple[Bench, torch.nn.Module]:
    config = parse_task("small", [f"data.path={corpus}", *QUICK, *settings])
    loaded = load(encoder)
    return open_bench(config, loaded, CPU), loaded.model


@pytest.mark.parametrize("task", sorted(path.stem for path in TASKS.glob("*.yaml")))
def test_every_task_is_readable(task):
    config = parse_task(task)
    assert task.startswith(config.task.removesuffix("_cj"))
    for mode in config.modes:
        if mode != "knn":
            schedule = config.linear if mode == "random" else getattr(config, mode)
            assert all(drop < schedule.steps for drop in schedule.drops)


READOUTS = {  # drops of the release's settings, counted from the read-outs' own beginning
    "kinetics400": [120000, 245000],
    "kinetics400_resnet3d": [80000, 255000],
    "kinetics400_two_pathway_s": [104998, 244998],
    "kinetics400_two_pathway_sf": [134998, 259998],
    "imagenet": [160011, 460011],
    "imagenet_single": [116000, 516000],
    "imagenet_resnet3d": [290000, 940000],
    "imagenet_two_pathway_s": [230011, 570011],
}


@pytest.mark.parametrize("task", READOUTS)
def test_readouts_have_the_schedule_of_the_release(task):
    config = parse_task(task)
    rates = config.linear.lr, config.linear.momentum, config.linear.weight_decay
    assert (config.data.batch_size, config.modes, *rates) == (128, ["linear"], 0.01, 0.9, 1e-4)
    assert config.linear.drops == READOUTS[task]
    still = task.startswith("imagenet")
    assert config.data.clips == (1 if still else 5)
    jitter = ("resized", (8 / 7, 10 / 7), 0.4, 0.4, 0.4, 0.4, 0.2, 0.5)
    assert config.augmentation == (Augmentation(*jitter) if still else Augmentation())


FINE_TUNING = {  # clips, batch, drops of the release's settings
    "ucf101": (3, 128, [10000, 20000]),
    "ucf101_single": (5, 128, [15000, 35000]),
    "ucf101_resnet3d": (10, 128, []),
    "ucf101_two_pathway": (3, 64, [10000, 20000]),
    "hmdb51_single": (5, 128, [10000, 20000]),
    "hmdb51_slowfast": (2, 128, [20000, 30000]),
    "hmdb51_slowfast_cj": (2, 128, [15000, 30000]),
    "hmdb51_resnet3d": (4, 128, []),
    "hmdb51_resnet3d_cj": (4, 128, [40000, 60000]),
    "hmdb51_two_pathway": (3, 64, [10000, 20000]),
    "ucf101_rotnet": (10, 128, []),
    "hmdb51_rotnet": (4, 128, []),
}


@pytest.mark.parametrize("task", FINE_TUNING)
def test_fine_tuning_has_the_schedule_of_the_release(task):
    config = parse_task(task)
    assert (config.data.clips, config.data.batch_size, config.finetune.drops) == FINE_TUNING[task]
    rates = config.finetune.lr, config.finetune.momentum, config.finetune.weight_decay, config.finetune.decay_all
    assert (config.modes, *rates) == (["finetune"], 0.008 if task.endswith("_rotnet") else 5e-4, 0.9, 1e-5, False)
    assert (config.data.split, config.data.test_split) == ("1", "test")
    plain = Augmentation("corner", (8 / 7, 10 / 7), 0, 0, 0, 0, 0, 0.5)
    assert config.augmentation == (Augmentation() if task.endswith("_cj") else plain)


class TestReadouts:
    def test_dimensions_of_the_protocol(self):
        """VIE-Single on 224 pixels: conv3 to conv5 as published; conv1 and conv2 are over 200,000 and so halved."""
        model = create_model("vie_single_r18").eval()
        with torch.no_grad():
            read = features(model, torch.zeros(1, 3, 1, 224, 224))
        assert [read[Place(tap, "flat")].shape[1] for tap in TAPS] == [50_176, 50_176, 100_352, 50_176, 25_088]
        assert [read[Place(tap, "avg")].shape[1] for tap in TAPS] == [64, 64, 128, 256, 512]
        assert read[POOLED].shape[1] == 512

    @pytest.mark.parametrize(("side", "dims"), [(10, 100 * 8), (200, 100 * 100 * 8), (400, 100 * 100 * 8)])
    def test_large_taps_are_averaged_over_places(self, side, dims):
        tap = torch.randn(1, 8, side, side)
        flat = flatten(tap)
        assert flat.shape == (1, dims)
        torch.testing.assert_close(flat.mean(), tap.mean(), atol=1e-4, rtol=1e-4)

    def test_time_is_averaged_and_the_pooled_feature_is_the_networks_own(self):
        model = create_model("vie_slowfast_r18", width=8).eval()
        clip = torch.randn(2, 3, 16, 32, 32)
        with torch.no_grad():
            read, taps = features(model, clip), model.forward_features(clip)
            torch.testing.assert_close(read[POOLED], model.pooled(clip))
        torch.testing.assert_close(read[Place("conv3", "flat")], taps["conv3"].mean(dim=2).flatten(1))
        assert read[POOLED].shape[1] > read[Place("conv5", "avg")].shape[1]

    def test_loss_is_the_sum_of_every_readouts_own(self):
        """In double precision, with labels missing in one column; no read-out takes part in another's gradient."""
        generator = torch.Generator().manual_seed(0)
        places = [Place("conv1", "flat"), POOLED]
        logits = {
            (column, place): torch.randn(5, classes, generator=generator, dtype=torch.float64, requires_grad=True)
            for column, classes in (("a", 3), ("b", 4))
            for place in places
        }
        labels = {"a": torch.tensor([0, 2, 1, 1, 0]), "b": torch.tensor([3, -1, 0, -1, 2])}
        loss = summed_loss(logits, labels)
        gradients = torch.autograd.grad(loss, list(logits.values()))
        expected = 0.0
        for ((column, _), given), gradient in zip(logits.items(), gradients, strict=True):
            known = labels[column] >= 0
            own = F.cross_entropy(given[known], labels[column][known])
            expected += own.item()
            torch.testing.assert_close(gradient, torch.autograd.grad(own, given)[0], rtol=1e-5, atol=1e-6)
        assert loss.item() == pytest.approx(expected, rel=1e-6)


class TestProbe:
    def test_the_trunk_is_left_alone(self, tiny_corpus, encoder):
        bench, model = bench_for(tiny_corpus, encoder)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        rows = MODES["linear"](bench, model)
        assert not model.training
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
        assert {(row["layer"], row["pooling"]) for row in rows} == {
            *((tap, pooling) for tap in TAPS for pooling in ("flat", "avg")),
            ("pooled", "avg"),
        }
        assert {row["label"] for row in rows} == {"shape", "motion"}

    def test_it_stays_in_eval_mode(self, encoder):
        model = load(encoder).model
        probe = Probe(model, {"a": ["x", "y"]}, torch.zeros(1, 3, 4, 16, 16), PLAIN)
        probe.train()
        assert probe.readouts.training
        assert not any(module.training for module in model.modules())
        assert not any(parameter.requires_grad for parameter in model.parameters())

    def test_training_is_plain_sgd_on_the_heads(self, tiny_corpus, encoder):
        """Against a few steps by hand: weight decay on weights and biases of the heads, a tenth of the rate at 2."""
        bench, model = bench_for(tiny_corpus, encoder, "linear.steps=3", "linear.drops=[2]", "linear.test_every=0")
        schedule = bench.config.linear
        example = torch.zeros(1, 3, 4, 16, 16)
        torch.manual_seed(0)
        probe = Probe(model, bench.task.classes, example, PLAIN)
        same = load(encoder).model
        torch.manual_seed(0)
        other = Probe(same, bench.task.classes, example, PLAIN)
        train(bench, probe, schedule, lambda step, scores: None)
        moments = [torch.zeros_like(parameter) for parameter in other.readouts.parameters()]
        clips = bench.train_clips(3)
        for step in range(3):
            batch = clips[step]
            clip = augment(batch.frames, batch.drawn, 16, batch.boxes)
            rows = bench.task.train[batch.instances]
            labels = {column: bench.task.labels(column, rows, CPU) for column in bench.task.classes}
            loss = summed_loss(other(clip), labels)
            gradients = torch.autograd.grad(loss, list(other.readouts.parameters()))
            rate = schedule.lr if step < 2 else schedule.lr / 10
            with torch.no_grad():
                for p, gradient, moment in zip(other.readouts.parameters(), gradients, moments, strict=True):
                    moment.mul_(0.9).add_(gradient + 1e-4 * p)
                    p -= rate * moment
        for mine, theirs in zip(probe.readouts.parameters(), other.readouts.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)

    def test_probabilities_are_averaged_over_clips(self, tiny_corpus, encoder):
        bench, model = bench_for(tiny_corpus, encoder)
        probe = Probe(model, bench.task.classes, torch.zeros(1, 3, 4, 16, 16), PLAIN)
        scores = {(one.column, one.place): one for one in score(bench, probe)}
        clips = bench.test_clips()
        from vie.video.pixels import crop_resize, normalise

        videos = len(bench.task.test)
        sums = torch.zeros(videos, len(bench.task.classes["shape"]))
        with torch.no_grad():
            for number in range(len(clips)):
                batch = clips[number]
                clip = normalise(crop_resize(batch.frames, torch.from_numpy(batch.boxes), 16))
                for position, logits in zip(batch.positions, probe(clip)["shape", POOLED], strict=True):
                    sums[position] += logits.softmax(dim=0)
        labels = bench.task.labels("shape", bench.task.test, CPU)
        top1 = 100 * (sums.argmax(dim=1) == labels).float().mean().item()
        assert scores["shape", POOLED].top1 == pytest.approx(top1)
        assert scores["shape", POOLED].top5 == 100.0  # four shapes
        assert scores["shape", POOLED].videos == videos

    def test_equal_calls_give_equal_results(self, tiny_corpus, encoder):
        first, second = (MODES["linear"](*bench_for(tiny_corpus, encoder)) for _ in range(2))
        assert first == second
        other = MODES["linear"](*bench_for(tiny_corpus, encoder, "seed=1"))
        assert [row["curve"] for row in other] != [row["curve"] for row in first]


class TestWholeNetwork:
    def test_all_layers_move_and_the_encoder_comes_back(self, tiny_corpus, encoder):
        bench, model = bench_for(tiny_corpus, encoder, "data.labels=[shape]")
        network = Classifier(model, "shape", bench.task.classes["shape"], PLAIN)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        train(bench, network, bench.config.finetune, lambda step, scores: None)
        unused = ("head.weight", "head.bias")
        same = [name for name, tensor in model.state_dict().items() if torch.equal(tensor, before[name])]
        assert sorted(same) == sorted(unused)

    @pytest.mark.parametrize("decay_all", [False, True])
    def test_weight_decay_of_the_trunk_is_a_choice(self, tiny_corpus, encoder, decay_all):
        """Of the head alone, as released; a weight without gradient then stays where it is."""
        settings = ["data.labels=[shape]", "finetune.weight_decay=0.5", f"finetune.decay_all={decay_all}".lower()]
        bench, model = bench_for(tiny_corpus, encoder, *settings, "finetune.lr=1e-9", "finetune.momentum=0")
        weight, norm = model.trunk.stem.weight, model.trunk.norm.weight
        from benchmarks.transfer.training import _optimizer

        network = Classifier(model, "shape", bench.task.classes["shape"], PLAIN)
        decay = {
            id(parameter): group["weight_decay"]
            for group in _optimizer(network, bench.config.finetune).param_groups
            for parameter in group["params"]
        }
        assert decay[id(weight)] == (0.5 if decay_all else 0.0)
        assert decay[id(norm)] == 0.0
        assert all(decay[id(parameter)] == 0.5 for parameter in network.readouts.parameters())

    def test_it_learns_from_a_folder_of_pictures(self, encoder, tmp_path):
        """Bright halves, left or right, from new weights: an ImageFolder, prepared, shown to a 3-D network."""
        rng = np.random.default_rng(0)
        for number in range(60):
            side = ("left", "right")[number % 2]
            picture = rng.integers(0, 120, size=(24, 24, 3), dtype=np.uint8)
            picture[:, :12] += np.uint8(100 * (side == "left"))
            picture[:, 12:] += np.uint8(100 * (side == "right"))
            folder = tmp_path / "pictures" / ("train" if number < 40 else "test") / side
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(folder / f"{number}.png")
        prepare(list_videos(tmp_path / "pictures"), tmp_path / "corpus", PrepareConfig(workers=1), progress=False)
        settings = ["scratch.steps=150", "scratch.drops=[120]", "scratch.test_every=50", "augmentation.flip=0"]
        bench, model = bench_for(tmp_path / "corpus", encoder, "data.test_split=test", *settings)
        (row,) = MODES["scratch"](bench, model)
        assert row["label"] == "label"
        assert row["videos"] == 20
        assert row["top1"] > 85
        assert list(row["curve"]) == [50, 100, 150]
        assert row["curve"][150] == row["top1"]

    def test_random_and_scratch_begin_anew(self, tiny_corpus, encoder):
        bench, model = bench_for(tiny_corpus, encoder, "data.labels=[shape]", "linear.steps=1", "linear.drops=[]")
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        given = MODES["linear"](bench, model)
        rows = MODES["random"](bench, model)
        drawn = [row for row in rows if row["readout"] == "linear"]
        assert {row["readout"] for row in rows} == {"knn", "logistic", "linear"}
        assert [row["curve"] for row in given] != [row["curve"] for row in drawn]
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


class TestCommand:
    def run(self, corpus, encoder, out, *more):
        main(["transfer", "small", str(encoder), "--data", str(corpus), "--out", str(out), *QUICK, *more])

    def test_results_hold_their_protocol(self, tiny_corpus, encoder, tmp_path, capsys):
        self.run(tiny_corpus, encoder, tmp_path, "--mode", ",".join(MODES))
        assert len(list(tmp_path.iterdir())) == 5
        contents = {content["mode"]: content for content in read_results([tmp_path])}
        linear = contents["linear"]
        assert linear["encoder"]["name"] == f"{encoder.parent.name}-encoder-la"
        assert linear["seed"] == 7  # the encoder's
        assert linear["protocol"]["train"] == ["train", 48]
        assert linear["protocol"]["schedule"]["steps"] == 6
        assert linear["protocol"]["clips_per_video"] == 2
        assert contents["knn"]["protocol"]["schedule"] is None
        row = next(r for r in linear["results"] if (r["label"], r["layer"], r["pooling"]) == ("shape", "conv5", "flat"))
        assert set(row["curve"]) == {"3", "6"}
        assert row["best_top1"] == max(row["curve"].values())
        assert row["chance"] == 25.0
        printed = capsys.readouterr().out
        assert "**small, shape: linear**" in printed
        assert "conv5 flat" in printed
        main(["table", str(tmp_path), "--layers", "conv5 flat,pooled avg"])
        table = capsys.readouterr().out
        assert f"{encoder.parent.name}-encoder-la (random)" in table
        assert "conv1" not in table
        assert f"{row['top1']:.1f}" in table

    def test_frames_in_order_and_shuffled(self, tiny_corpus, encoder, tmp_path):
        self.run(tiny_corpus, encoder, tmp_path / "dynamic", "--mode", "linear", "data.shuffled=true")
        (content,) = read_results([tmp_path / "dynamic"])
        pooled = [r for r in content["results"] if (r["label"], r["layer"]) == ("motion", "pooled")]
        assert [row["shuffled"] for row in pooled] == [False, True]
        still = tmp_path / "still"
        save_pretrained(create_model("vie_single_r18", width=4), still, Sampling(1, 1, 25.0, 16))
        self.run(tiny_corpus, still, tmp_path / "static", "--mode", "linear", "data.shuffled=true")
        (content,) = read_results([tmp_path / "static"])
        rows = {(r["label"], r["layer"], r["pooling"], r["shuffled"]): r["top1"] for r in content["results"]}
        assert all(rows[*key, False] == rows[*key, True] for *key, _ in rows)

    def test_a_picture_is_shown_to_a_3d_network_as_a_clip(self, tmp_path, encoder):
        corpus = tmp_path / "pictures"
        corpus.mkdir()
        write_corpus(corpus, ["train"] * 12 + ["val"] * 8, [(1, 24, 28)] * 20, [25.0] * 20)
        bench, _ = bench_for(corpus, encoder)
        batch = bench.train_clips(1)[0]
        assert batch.frames.shape[1] == 4
        assert (batch.frames == batch.frames[:, :1]).all()
        self.run(corpus, encoder, tmp_path / "results")
        assert len(list((tmp_path / "results").iterdir())) == 2

    def test_warns_where_test_videos_were_trained_on(self, tiny_corpus, encoder, tmp_path, caplog):
        corpus = tmp_path / "talkers"
        shutil.copytree(tiny_corpus, corpus)
        table = pq.read_table(corpus / "index.parquet")
        words = pa.array(["val"] * 10 + ["train"] * 54)
        pq.write_table(table.append_column("split.1", words), corpus / "index.parquet")
        card = {"training": {"corpus": "talkers", "split": None, "seed": 0}}
        save_pretrained(load(encoder).model, tmp_path / "seen", CLIP, card)
        save_pretrained(load(encoder).model, tmp_path / "kept", CLIP, {"training": {**card["training"], "split": "1"}})
        self.run(corpus, tmp_path / "kept", tmp_path / "results", "--mode", "knn", "data.split=1")
        assert not caplog.records
        self.run(corpus, tmp_path / "seen", tmp_path / "results", "--mode", "knn", "data.split=1")
        assert "may have seen test videos of split 1: train it with data.split=1" in caplog.text
        caplog.clear()
        kept = {**card["training"], "split": "1"}
        halves = {"training": {**kept, "static": card["training"], "dynamic": kept}}
        save_pretrained(load(encoder).model, tmp_path / "joined", CLIP, halves)
        self.run(corpus, tmp_path / "joined", tmp_path / "results", "--mode", "knn", "data.split=1")
        assert "may have seen test videos of split 1" in caplog.text

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["smal"], "there is no task 'smal': did you mean 'small'"),
            (["small", "--mode", "guess"], "modes"),
            (["small", "--mode", "linear", "linear.stps=3"], "did you mean 'linear.steps'"),
            (["small", "data.labels=[colour]"], "has no label column 'colour'"),
            (["small", "data.test_split=exam"], "has no videos in split 'exam'"),
        ],
    )
    def test_mistakes_are_one_line(self, tiny_corpus, encoder, tmp_path, capsys, arguments, message):
        task, *more = arguments
        with pytest.raises(SystemExit):
            main(["transfer", task, str(encoder), "--data", str(tiny_corpus), "--out", str(tmp_path), *QUICK, *more])
        error = capsys.readouterr().err
        assert error.startswith("vie-bench: ")
        assert message in error
        assert error.count("\n") == 1
        assert not list(tmp_path.iterdir())

    def test_unlabelled_corpus(self, tiny_corpus, encoder, tmp_path, capsys):
        corpus = tmp_path / "corpus"
        corpus.mkdir()
        for file in tiny_corpus.iterdir():
            (corpus / file.name).write_bytes(file.read_bytes())
        rewrite_index(corpus, {}, drop=["label.shape", "label.motion"])
        with pytest.raises(SystemExit):
            self.run(corpus, encoder, tmp_path / "results")
        assert "has no labels" in capsys.readouterr().err

    def test_a_file_that_holds_no_results(self, tmp_path):
        (tmp_path / "other.json").write_text("{}")
        with pytest.raises(VieError, match="is no results file"):
            read_results([tmp_path])


class TestTable:
    def write(self, folder: Path, name: str, seed: int, rows: dict[str, float], split: str | None = None) -> None:
        content = {
            "format": "vie-transfer-1",
            "task": "task",
            "mode": "linear",
            "seed": seed,
            "encoder": {"name": name},
            "protocol": {"split": split},
            "results": [
                {
                    "label": label,
                    "layer": "conv5",
                    "pooling": "flat",
                    "readout": "linear",
                    "chance": 10.0,
                    "top1": top1,
                    "videos": 20,
                }
                for label, top1 in rows.items()
            ],
        }
        (folder / f"{name}-{seed}-{split}.json").write_text(json.dumps(content))

    def tables(self, folder, capsys) -> str:
        main(["table", str(folder)])
        return capsys.readouterr().out

    def test_mean_and_spread_over_seeds(self, tmp_path, capsys):
        values = [70.0, 73.0, 79.0]
        for seed, value in enumerate(values):
            self.write(tmp_path, "one", seed, {"shape": value})
        self.write(tmp_path, "two", 0, {"shape": 50.0})
        printed = self.tables(tmp_path, capsys)
        assert f"| one | 3 | 74.0 ± {np.std(values, ddof=1):.1f} |" in printed
        assert "| two | 1 | 50.0 |" in printed
        assert "of 20 test videos, chance 10.0" in printed

    def test_splits_are_shown_and_averaged_within_a_seed(self, tmp_path, capsys):
        self.write(tmp_path, "one", 0, {"action": 99.0})  # another way to split: no part of the mean
        for seed in (0, 1):
            for split, value in (("1", 10.0 + seed), ("2", 20.0 + seed), ("3", 60.0 + seed)):
                self.write(tmp_path, "one", seed, {"action": value}, split)
        printed = self.tables(tmp_path, capsys)
        assert "task, split 1, action" in printed
        assert "task, mean of splits, action" in printed
        assert f"| one | 2 | 30.5 ± {math.sqrt(0.5):.1f} |" in printed

    def test_labels_of_one_family_are_averaged(self, tmp_path, capsys):
        self.write(tmp_path, "one", 0, {"pair.door": 60.0, "pair.drawer": 90.0})
        printed = self.tables(tmp_path, capsys)
        assert "task, pair.*: linear" in printed
        assert "| one | 1 | 75.0 |" in printed

    def test_labels_side_by_side_for_one_readout(self, tmp_path, capsys):
        self.write(tmp_path, "static", 0, {"digit": 95.0, "motion": 12.0})
        self.write(tmp_path, "dynamic", 0, {"digit": 60.0, "motion": 99.0})
        main(["table", str(tmp_path), "--readout", "linear conv5 flat"])
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "**task: linear conv5 flat**, top-1 in per cent"
        assert lines[2].startswith("| encoder | seeds | digit (20 test videos, chance 10.0) | motion (20")
        assert "| static | 1 | 95.0 | 12.0 |" in lines
        assert "| dynamic | 1 | 60.0 | 99.0 |" in lines

    @pytest.mark.parametrize("order", ["ab", "oab", "aob"])
    def test_two_encoders_of_one_name_have_no_mean(self, tmp_path, capsys, order):
        """Results of earlier versions, which tell no weights, hide nothing."""
        for name, weights in (("a", {"weights": "1f"}), ("b", {"weights": "2e"}), ("o", {})):
            (tmp_path / name).mkdir()
            self.write(tmp_path / name, "one", 0, {"shape": 70.0})
            (file,) = (tmp_path / name).iterdir()
            content = json.loads(file.read_text())
            content["encoder"] |= weights
            file.write_text(json.dumps(content))
        with pytest.raises(SystemExit):
            main(["table", *(str(tmp_path / name) for name in order)])
        assert "was measured twice, and encoder.weights differ" in capsys.readouterr().err

    @pytest.mark.parametrize("readout", [(), ("--readout", "linear conv5 flat")])
    def test_labels_to_keep(self, tmp_path, capsys, readout):
        self.write(tmp_path, "one", 0, {"task": 12.0, "success": 34.0, "pair.door": 60.0, "pair.drawer": 90.0})
        main(["table", str(tmp_path), "--labels", "task,pair.*", *readout])
        printed = capsys.readouterr().out
        assert all(value in printed for value in ("12.0", "75.0"))
        assert not any(value in printed for value in ("34.0", "60.0", "90.0"))
        with pytest.raises(SystemExit):
            main(["table", str(tmp_path), "--labels", "tusk", *readout])
        error = capsys.readouterr().err
        assert "no result has a label tusk: there are pair.*, pair.door, pair.drawer, success, task" in error

    def test_what_was_measured_by_two_protocols_has_no_mean(self, tmp_path, capsys):
        for name, protocol in (("a", {"clips": 3}), ("b", {"clips": 10})):
            (tmp_path / name).mkdir()
            self.write(tmp_path / name, "one", 0, {"shape": 70.0})
            (file,) = (tmp_path / name).iterdir()
            content = json.loads(file.read_text())
            content["protocol"] |= {"machine": name, **protocol}
            file.write_text(json.dumps(content))
        with pytest.raises(SystemExit):
            main(["table", str(tmp_path / "a"), str(tmp_path / "b")])
        assert "task: linear of one, seed 0, was measured twice, and protocol.clips differ" in capsys.readouterr().err

    def test_figure_of_the_same(self, tmp_path, capsys):
        for seed in (0, 1):
            self.write(tmp_path, "static", seed, {"digit": 95.0 + seed, "pair.a": 12.0, "pair.b": 20.0})
            self.write(tmp_path, "dynamic", seed, {"digit": 60.0, "pair.a": 99.0, "pair.b": 95.0})
        figures = tmp_path / "figures"
        main(["table", str(tmp_path), "--readout", "linear conv5 flat", "--figures", str(figures)])
        (figure,) = figures.iterdir()
        assert capsys.readouterr().out.splitlines()[-1] == str(figure)
        assert figure.name == "task.svg"
        drawn = draw(collect(read_results([tmp_path])), "title")
        digit, pairs = drawn.axes
        assert [digit.get_title(), pairs.get_title()] == ["digit", "pair.*"]
        assert [text.get_text() for text in digit.get_yticklabels()] == ["dynamic", "static"]  # the best on average
        assert sorted(line.get_xdata()[0] for line in pairs.lines if len(line.get_xdata()) == 1)[::3] == [16.0, 97.0]

    def test_results_gathered_in_one_file(self, tmp_path, capsys):
        folder, gathered = tmp_path / "results", tmp_path / "kept" / "all.jsonl"
        folder.mkdir()
        for seed in (0, 1):
            self.write(folder, "static", seed, {"digit": 95.0 + seed})
        main(["table", str(folder), "--gather", str(gathered)])
        printed = capsys.readouterr().out
        assert read_results([gathered]) == read_results([folder])
        assert gathered.read_text().count("\n") == 2
        main(["table", str(gathered)])
        assert capsys.readouterr().out == printed
        main(["table", str(folder), "--gather", str(folder / "beside.jsonl")])
        assert len(read_results([folder])) == 2  # none of them twice
        capsys.readouterr()

        with pytest.raises(SystemExit):
            main(["table", str(folder), "--gather", str(tmp_path / "all.json")])
        assert "does not end in .jsonl" in capsys.readouterr().err
        with gathered.open("a") as file:
            file.write("[]\n")
        with pytest.raises(VieError, match=r"line 3 of .* is no results file"):
            read_results([gathered])

    def test_a_figure_needs_a_readout(self, tmp_path, capsys):
        self.write(tmp_path, "one", 0, {"digit": 95.0})
        with pytest.raises(SystemExit):
            main(["table", str(tmp_path), "--figures", str(tmp_path / "figures")])
        assert "name it by --readout" in capsys.readouterr().err
