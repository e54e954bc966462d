"""What each mode really does: which weights, which videos, which formula."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F

from benchmarks.cli import main
from benchmarks.transfer import modes
from benchmarks.transfer.config import parse_task
from benchmarks.transfer.networks import Classifier, Probe
from benchmarks.transfer.readouts import POOLED, Place, Readouts
from benchmarks.transfer.results import open_bench
from benchmarks.transfer.training import Bench, _shuffle
from pretrain.data.prefetch import stream
from pretrain.transfer_results import read_results
from tests.benchmarks.test_transfer import CLIP, CPU, PLAIN, QUICK, bench_for
from tests.conftest import NEEDS_GPU
from tests.pretrain.test_clips import damaged
from vie import Resize, VieError, create_model, load, save_pretrained
from vie.video import clip_frames, even_positions
from vie.video.apply import apply_draw, compiled_apply_draw
from vie.video.pixels import centre_boxes, crop_resize, normalise


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "encoder-la"
    torch.manual_seed(5)
    save_pretrained(
        create_model("vie_slow_r18", width=4, embed_dim=16), folder, CLIP, {"training": {"stage": "la", "seed": 7}}
    )
    return folder


@pytest.fixture
def split_corpus(tiny_corpus, tmp_path):
    corpus = tmp_path / "split_corpus"
    corpus.mkdir()
    for file in tiny_corpus.iterdir():
        (corpus / file.name).write_bytes(file.read_bytes())
    table = pq.read_table(corpus / "index.parquet")
    words = pa.array(["val"] * 10 + ["train"] * 54)
    pq.write_table(table.append_column("split.2", words), corpus / "index.parquet")
    return corpus


def weights_of(network: Classifier) -> torch.Tensor:
    return network.model.get_parameter("trunk.stem.weight").detach()


@pytest.fixture
def started(monkeypatch):
    """The stem's weights that every training began with; each network is spoiled afterwards."""
    seen: list[torch.Tensor] = []

    def spy(bench, network, schedule, readout):
        assert all(parameter.requires_grad for parameter in network.model.trunk.parameters())
        seen.append(weights_of(network).clone())
        with torch.no_grad():
            network.model.get_parameter("trunk.stem.weight").add_(1.0)
        return []

    monkeypatch.setattr(modes, "_trained", spy)
    return seen


def test_finetuning_begins_from_the_encoder_for_every_label(tiny_corpus, encoder, started):
    bench, model = bench_for(tiny_corpus, encoder)
    given = model.get_parameter("trunk.stem.weight").detach().clone()
    model.requires_grad_(False)  # as after linear read-outs
    modes.finetune(bench, model)
    assert len(started) == 2
    assert all(torch.equal(weight, given) for weight in started)


def test_scratch_begins_from_new_weights_of_the_seed(tiny_corpus, encoder, started):
    for seed in (0, 0, 1):
        bench, model = bench_for(tiny_corpus, encoder, f"seed={seed}", "data.labels=[shape]")
        modes.scratch(bench, model)
    assert torch.equal(started[0], started[1])
    for other in (started[2], load(encoder).model.get_parameter("trunk.stem.weight")):
        assert not torch.equal(started[0], other)


def test_the_seed_is_the_encoders_own_unless_given(tiny_corpus, encoder):
    assert bench_for(tiny_corpus, encoder)[0].seed == 7
    assert bench_for(tiny_corpus, encoder, "seed=3")[0].seed == 3


def test_random_counts_under_its_own_seed(tiny_corpus, encoder, tmp_path):
    command = ["transfer", "small", str(encoder), "--data", str(tiny_corpus), "--out", str(tmp_path), *QUICK]
    main([*command, "--mode", "random,linear", "seed=3"])
    assert {content["mode"]: content["seed"] for content in read_results([tmp_path])} == {"random": 3, "linear": 7}


def test_rows_of_the_split_that_is_asked_for(split_corpus, encoder):
    usual, _ = bench_for(split_corpus, encoder)
    other, _ = bench_for(split_corpus, encoder, "data.split=2")
    assert usual.test_clips().videos.tolist() == list(range(48, 64))
    assert usual.test_clips(train=True).videos.tolist() == list(range(48))
    assert other.test_clips().videos.tolist() == list(range(10))
    assert other.train_clips(1).instances.videos.tolist() == list(range(10, 64))


def test_nearest_neighbours_by_the_formula(tiny_corpus, encoder):
    bench, model = bench_for(tiny_corpus, encoder, "knn.neighbours=3", "knn.temperature=0.1")
    shards = bench.task.shards
    pooled = []
    for video in range(64):
        count = np.array([shards.num_frames[video]] * 2)
        frames = clip_frames(CLIP, count, np.array([25.0, 25.0]), even_positions(2))
        pixels = torch.stack([shards.read(video, wanted) for wanted in frames])
        boxes = centre_boxes(np.array([24] * 2), np.array([28] * 2), CLIP)
        with torch.no_grad():
            clip = normalise(crop_resize(pixels, torch.from_numpy(boxes), 16))
            pooled.append(model.pooled(clip).mean(dim=0))
    features = torch.stack(pooled).double()
    labels = torch.from_numpy(shards.labels("shape"))
    unit = F.normalize(features, dim=1)
    similarity = unit[48:] @ unit[:48].T
    right = 0
    for row, truth in zip(similarity, labels[48:], strict=True):
        votes = torch.zeros(4, dtype=torch.float64)
        for neighbour in row.topk(3).indices:
            votes[labels[neighbour]] += torch.exp(row[neighbour] / 0.1)
        right += int(votes.argmax() == truth)
    rows = {(row["label"], row["layer"], row["readout"]): row for row in modes.knn(bench, model)}
    assert rows["shape", "pooled", "knn"]["top1"] == pytest.approx(100 * right / 16)
    assert rows["shape", "embedding", "knn"]["videos"] == 16


def test_an_untrained_embedding_is_not_tested(tiny_corpus, encoder, tmp_path):
    save_pretrained(load(encoder).model, tmp_path / "opn", CLIP, {"training": {"embedding": "untrained"}})
    bench, model = bench_for(tiny_corpus, tmp_path / "opn")
    assert {row["layer"] for row in modes.knn(bench, model)} == {"pooled"}


def test_shuffled_frames_are_the_same_frames_in_another_order():
    frames = torch.arange(8 * 6).view(8, 6, 1, 1, 1).expand(8, 6, 4, 4, 3)
    shuffled = _shuffle(frames, seed=0)
    assert torch.equal(shuffled[:, :, 0, 0, 0].sort(dim=1).values, frames[:, :, 0, 0, 0])
    moved = (shuffled != frames).flatten(1).any(dim=1)
    assert moved.sum() >= 7
    assert len({tuple((row % 6).tolist()) for row in shuffled[:, :, 0, 0, 0]}) > 4  # each has an order of its own
    assert torch.equal(_shuffle(frames, seed=0), shuffled)


class TestReadouts:
    def test_drawn_as_he_does(self):
        torch.manual_seed(0)
        readouts = Readouts({POOLED: 4096}, {"a": ["x"] * 50})
        weight = readouts.heads[0][0].weight
        assert weight.std().item() * 4096**0.5 == pytest.approx(2**0.5, rel=0.02)

    def test_standardised_features_have_one_scale_for_every_place(self):
        place = Place("conv1", "flat")
        readouts = Readouts({POOLED: 8, place: 512}, {"a": ["x", "y"]}, standardise=True).train()
        read = {POOLED: 100 + 30 * torch.randn(64, 8), place: 0.01 * torch.randn(64, 512)}
        scaled = {key: scale(read[key]) for key, scale in zip(readouts.places, readouts.scales, strict=True)}
        for key, values in scaled.items():
            wanted = (read[key] - read[key].mean(dim=0)) / read[key].std(dim=0, unbiased=False)
            torch.testing.assert_close(values, wanted / values.shape[1] ** 0.5, rtol=0.15, atol=1e-3)
            assert values.norm(dim=1).mean().item() == pytest.approx(1, rel=0.15)
        assert not list(readouts.scales.parameters())

    def test_small_features_are_learned(self, tiny_corpus, encoder):
        """At the release's learning rate, what is a thousandth as large stays at chance; standardised it does not."""
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(64) % 4
        read = {POOLED: 1e-3 * (F.one_hot(labels, 4) + 0.1 * torch.randn(64, 4, generator=generator))}
        reached = {}
        for standardise, rate in ((False, 0.01), (True, 3.0)):
            torch.manual_seed(0)
            readouts = Readouts({POOLED: 4}, {"a": list("wxyz")}, standardise)
            optimizer = torch.optim.SGD(readouts.parameters(), lr=rate, momentum=0.9)
            for _ in range(100):
                loss = F.cross_entropy(readouts(read)["a", POOLED], labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            reached[standardise] = loss.item()
        assert reached[True] < 0.1 < 1 < reached[False]


class TestBadVideos:
    def test_unreadable_test_videos_are_told(self, tiny_corpus, encoder, tmp_path, caplog):
        corpus = damaged(tiny_corpus, tmp_path / "corpus", 48, 49, 50)
        bench, model = bench_for(corpus, encoder, "data.labels=[shape]", "linear.test_every=0")
        rows = modes.linear(bench, model)
        assert {row["videos"] for row in rows} == {13}
        assert "3 of 16 test videos cannot be read" in caplog.text

    def test_nothing_is_learned_of_batches_that_cannot_be_read(self, tiny_corpus, encoder, tmp_path):
        corpus = damaged(tiny_corpus, tmp_path / "corpus", *range(48))
        bench, model = bench_for(corpus, encoder, "data.labels=[shape]", "finetune.test_every=0")
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        modes.finetune(bench, model)
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, before[name]), name


class TestCommand:
    def command(self, corpus, source, out, *more):
        main(["transfer", "small", str(source), "--data", str(corpus), "--out", str(out), *QUICK, *more])

    def test_another_encoder_under_the_same_name(self, tiny_corpus, encoder, tmp_path, capsys):
        self.command(tiny_corpus, encoder, tmp_path, "--mode", "knn", "--name", "mine")
        before = (tmp_path / "small-mine-knn-seed7.json").read_text()
        other = tmp_path / "other" / "encoder-la"
        card = {"training": {"stage": "ir", "seed": 7}}
        save_pretrained(create_model("vie_slow_r18", width=4, embed_dim=16), other, CLIP, card)
        with pytest.raises(SystemExit):
            self.command(tiny_corpus, other, tmp_path, "--mode", "knn", "--name", "mine")
        error = capsys.readouterr().err
        assert "holds results of which encoder.training, encoder.weights differ" in error
        assert (tmp_path / "small-mine-knn-seed7.json").read_text() == before
        self.command(tiny_corpus, encoder, tmp_path, "--mode", "knn", "--name", "mine")  # its own may be measured anew

    def test_another_protocol_or_other_weights_under_the_same_name(self, tiny_corpus, encoder, tmp_path, capsys):
        given = ["--mode", "knn", "--name", "mine"]
        self.command(tiny_corpus, encoder, tmp_path, *given)
        before = (tmp_path / "small-mine-knn-seed7.json").read_text()
        other = tmp_path / "encoder-again"
        loaded = load(str(encoder))
        with torch.no_grad():
            next(loaded.model.parameters()).add_(1e-3)
        save_pretrained(loaded.model, other, loaded.sampling, {"training": loaded.card["training"]})
        for source, more, what in (
            (encoder, ["knn.neighbours=3"], "protocol.knn"),
            (encoder, ["data.clips=1"], "protocol.clips_per_video"),
            (other, [], "encoder.weights"),
        ):
            with pytest.raises(SystemExit):
                self.command(tiny_corpus, source, tmp_path, *given, *more)
            assert f"holds results of which {what} differ: delete it to measure anew" in capsys.readouterr().err
        assert (tmp_path / "small-mine-knn-seed7.json").read_text() == before

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            (["linear.lr=-1"], "linear.lr=-1.0 is out of range"),
            (["data.clips=0"], "data.clips=0 is out of range"),
            (["data.test_split=train"], "are both 'train': give two splits"),
            (["linear.drops=[99]"], "lie outside the 6 steps"),
            (["task=a/b"], "cannot be part of a file's name"),
            (["--name", "a/b"], "cannot be part of a file's name"),
            (["modes=[]"], "no mode is asked for"),
            (
                ["--mode", "finetune", "finetune.steps=0", "finetune.drops=[]"],
                "has no schedule for mode finetune: set finetune",
            ),
            (
                ["--mode", "knn,random", "linear.steps=0", "linear.drops=[]"],
                "has no schedule for mode random: set linear",
            ),
        ],
    )
    def test_mistakes_are_one_line(self, tiny_corpus, encoder, tmp_path, capsys, more, message):
        with pytest.raises(SystemExit):
            self.command(tiny_corpus, encoder, tmp_path / "out", *more)
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1

    def test_no_checkpoint(self, tiny_corpus, capsys):
        with pytest.raises(SystemExit):
            main(["transfer", "small", f"data.path={tiny_corpus}"])
        assert "no checkpoint is given" in capsys.readouterr().err

    def test_a_readout_that_nothing_has(self, tiny_corpus, encoder, tmp_path, capsys):
        self.command(tiny_corpus, encoder, tmp_path, "--mode", "knn")
        for option in (["--readout", "knn conv9 flat"], ["--layers", "conv9"]):
            with pytest.raises(SystemExit):
                main(["table", str(tmp_path), *option])
            assert "pooled avg" in capsys.readouterr().err


def test_a_seed_that_lacks_a_split_is_no_part_of_the_mean(tmp_path, capsys):
    from tests.benchmarks.test_transfer import TestTable

    table = TestTable()
    for split, value in (("1", 10.0), ("2", 20.0), ("3", 60.0)):
        table.write(tmp_path, "whole", 0, {"action": value}, split)
    table.write(tmp_path, "part", 0, {"action": 85.0}, "1")
    printed = table.tables(tmp_path, capsys)
    mean = printed[printed.index("mean of splits") : printed.index("split 1")]
    assert "| whole | 1 | 30.0 |" in mean
    assert "part" not in mean


def test_tasks_refuse_what_is_no_task(tmp_path):
    (tmp_path / "mine.yaml").write_text("task: mine\nlinear: {steps: 5, lr: 1}\n")
    assert parse_task(str(tmp_path / "mine.yaml")).linear.steps == 5
    with pytest.raises(VieError, match=r"drops=\[9\] lie outside"):
        parse_task(str(tmp_path / "mine.yaml"), ["linear.drops=[9]"])


def test_probe_and_network_see_the_same_pooled_feature(encoder):
    model = load(encoder).model
    clip = torch.randn(2, 3, 4, 16, 16)
    probe = Probe(model, {"a": ["x", "y"]}, clip[:1], PLAIN).eval()
    whole = Classifier(model, "a", ["x", "y"], PLAIN).eval()
    at = probe.readouts.places.index(POOLED)
    whole.readouts.heads[0][0].load_state_dict(probe.readouts.heads[0][at].state_dict())
    torch.testing.assert_close(probe(clip)["a", POOLED], whole(clip)["a", POOLED])


def test_a_corpus_on_the_device_shows_the_same_pixels(tiny_corpus, encoder):
    config = parse_task("small", [f"data.path={tiny_corpus}", *QUICK, "data.cache=device"])
    benches = open_bench(config, load(encoder), CPU), bench_for(tiny_corpus, encoder)[0]
    cached, plain = (bench.test_clips()[0] for bench in benches)
    assert cached.positions.tolist() == plain.positions.tolist()
    clips = [crop_resize(batch.frames, torch.from_numpy(batch.boxes), 16) for batch in (cached, plain)]
    assert clips[0].std() > 0.01
    torch.testing.assert_close(*clips, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("device", "asked", "compiled"), [("cuda", "true", True), ("cuda", "false", False), ("cpu", "true", False)]
)
def test_the_augmentation_is_compiled_on_a_gpu(device, asked, compiled, tiny_corpus, encoder):
    config = parse_task("small", [f"data.path={tiny_corpus}", *QUICK, f"runtime.compile={asked}"])
    bench = replace(open_bench(config, load(encoder), CPU), device=torch.device(device))
    assert bench.apply is (compiled_apply_draw() if compiled else apply_draw)


def test_training_clips_are_augmented_in_that_way(tiny_corpus, encoder, monkeypatch):
    seen: list[int] = []

    def counting(frames, *rest):
        seen.append(len(frames))
        return apply_draw(frames, *rest)

    monkeypatch.setattr(Bench, "apply", property(lambda bench: counting))
    bench, model = bench_for(tiny_corpus, encoder)
    modes.linear(bench, model)
    assert seen == [bench.batch_size] * bench.config.linear.steps


@NEEDS_GPU
def test_clips_of_workers_are_where_a_gpu_reads_them(tiny_corpus, encoder):
    config = parse_task("small", [f"data.path={tiny_corpus}", *QUICK])
    bench = open_bench(config, load(encoder), CPU)
    assert next(stream(bench.train_clips(2), range(2), 1, pin_memory=True)).frames.is_pinned()


def test_new_weights_see_the_pixels_that_the_encoder_sees():
    model = create_model("vie_single_r18", width=4)
    model.mean, model.std, model.resize = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), Resize("squash")
    bench = SimpleNamespace(
        seed=3, device=torch.device("cpu"), config=SimpleNamespace(runtime=SimpleNamespace(channels_last=False))
    )
    fresh = modes.renewed(bench, model)
    assert (fresh.mean, fresh.std, fresh.resize) == (model.mean, model.std, model.resize)
    assert not torch.equal(next(fresh.parameters()), next(model.parameters()))
