import base64
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchvision.io import decode_jpeg, encode_jpeg

from pretrain.config import (
    BankConfig,
    Config,
    DataConfig,
    InstanceRecognitionConfig,
    KnnConfig,
    LocalAggregationConfig,
    ModelConfig,
    MonitorConfig,
)
from pretrain.evaluate import Features, protocol
from pretrain.reporting.gallery import draw_maps, find_neighbours
from pretrain.reporting.report import write_report
from pretrain.settings import dump_config
from pretrain.summary import last_stage, load_features, summarise
from vie import Sampling, VieError
from vie.video import Shards
from vie.video.index import write_index

VIDEOS, FRAMES, TRAIN = 36, 8, 24
MINUS = "\N{MINUS SIGN}"
SHAPES = ["disc", "ring <b>", "$star$"]
WRONG = 30  # a val video that lies among videos of another shape
THROUGHPUT = ("run", "static, IR", "static, LA")
STAGES = {"random": 0, "ir": 40, "la": 60}
TOP1 = {"random": 31.04, "ir": 52.36, "la": 83.57}


class Page(HTMLParser):
    """The parts of a page that the tests ask about."""

    def __init__(self, path: Path):
        super().__init__()
        self.text = path.read_text()
        self.tags, self.rows, self.images, self.in_cell = [], [], [], False
        self.feed(self.text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True
        elif tag == "img":
            self.images.append(attributes["src"])

    def handle_endtag(self, tag):
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data):
        if self.in_cell:
            self.rows[-1][-1] = (self.rows[-1][-1] + data).strip()

    @property
    def sections(self):
        return [attributes["id"] for tag, attributes in self.tags if tag == "section"]

    def figures(self, section):
        part = self.text.split(f'<section id="{section}">')[1].split("</section>")[0]
        return re.findall(r"<svg.*?</svg>", part, re.DOTALL)


def write_corpus(path, columns):
    path.mkdir()
    rows = []
    with (path / "shard-000000.tar").open("wb") as file:
        for video in range(VIDEOS):
            frames = torch.full((FRAMES, 3, 24, 32), 5 * video, dtype=torch.uint8)
            jpegs = [bytes(encode_jpeg(frame).numpy()) for frame in frames]
            row = {
                "name": f"{video}.mp4",
                "split": "train" if video < TRAIN else "val",
                "shard": "shard-000000.tar",
                "offset": file.tell(),
                "frame_bytes": [len(jpeg) for jpeg in jpegs],
                "fps": 25.0,
                "height": 24,
                "width": 32,
                "label.shape": SHAPES[video % 3],
                "label.side": "left" if video < TRAIN // 2 else "right",
                "label.trained": "yes" if video < TRAIN else None,
            }
            rows.append(row)
            file.write(b"".join(jpegs))
    write_index(path / "index.parquet", rows, columns)


def write_run(path, corpus, columns, model="vie_single_r18"):
    path.mkdir()
    config = Config(
        run=str(path),
        model=ModelConfig(name=model, width=4, embed_dim=8),
        data=DataConfig(path=str(corpus), size=16, batch_size=4, frames=6 if "3d" in model else 1),
        bank=BankConfig(),
        instance_recognition=InstanceRecognitionConfig(steps=40),
        local_aggregation=LocalAggregationConfig(steps=20),
        monitor=MonitorConfig(log_every=10),
    )
    (path / "config.yaml").write_text(dump_config(config))
    generator = torch.Generator().manual_seed(len(model))
    results, history = [], []
    for stage, step in STAGES.items():
        rows = [
            {
                "label": column,
                "readout": readout,
                # "shape" gains from training and "side" does not.
                "top1": (TOP1[stage] if column == "shape" else 50.0 - step / 10) + (readout == "linear"),
                "chance": 33.3,
                "videos": VIDEOS - TRAIN,
            }
            for column in columns
            for readout in ("knn", "linear")
        ]
        results += [{"steps": step, "stage": stage, **row} for row in rows]
        history.append({"step": step, "evaluation": rows})
        pooled = 0.05 * torch.randn(VIDEOS, 6, generator=generator)
        pooled[torch.arange(VIDEOS), torch.arange(VIDEOS) % 3] += 1.0
        pooled[WRONG] = pooled[1]
        videos = torch.arange(VIDEOS)
        parts = {"train": slice(TRAIN), "val": slice(TRAIN, None)}
        tensors = {f"{name}.videos": videos[part].clone() for name, part in parts.items()}
        tensors |= {f"{name}.pooled": pooled[part].clone() for name, part in parts.items()}
        save_file(tensors, path / f"features-{stage}.safetensors")
    for step in range(10, 61, 10):
        seconds = {"data_s": 0.1, "step_s": 0.25, "other_s": 0.05}
        stage = "ir" if step <= 40 else "la"
        if stage == "la":  # as on a GPU
            seconds |= {"host_s": 0.123, "device_s": 0.234}
        history.append({"step": step, "stage": stage, "loss": 9.0 / step, "clips_per_s": 100.0, **seconds})
        bank = [{"label": c, "readout": "knn_bank", "top1": 40.0, "chance": 33.3, "videos": 12} for c in columns]
        history.append({"step": step, "monitor": bank})
    history.sort(key=lambda row: row["step"])
    (path / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in history))
    stages = [{"stage": stage, "steps": steps} for stage, steps in STAGES.items()]
    metrics = {
        "machine": "an abacus",
        "protocol": protocol(3, Sampling(1, 1, None, 16), KnnConfig()),
        "stages": stages,
        "results": results,
    }
    (path / "metrics.json").write_text(json.dumps(metrics))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def runs(folder):
    write_corpus(folder / "shapes", ["shape", "side"])
    static = write_run(folder / "static", folder / "shapes", ["shape", "side"])
    return [static, write_run(folder / "dynamic", folder / "shapes", ["shape", "side"], "vie_resnet3d_r18")]


@pytest.fixture(scope="module")
def single(runs, folder):
    return Page(write_report(runs[:1], folder / "new" / "single.html"))


@pytest.fixture(scope="module")
def double(runs, folder):
    return Page(write_report(runs, folder / "double.html"))


def decoded(images):
    streams = [
        torch.frombuffer(bytearray(base64.b64decode(i.partition("base64,")[2])), dtype=torch.uint8) for i in images
    ]
    return decode_jpeg(streams)


def test_a_page_needs_nothing_else(single, double):
    for page in (single, double):
        assert "http" not in page.text
        assert not [tag for tag, _ in page.tags if tag in ("script", "link", "iframe", "object")]
        assert all(image.startswith("data:image/jpeg;base64,") for image in page.images)
        assert "url(" not in page.text.replace("url(#", "")


def test_a_run_fills_every_section(single):
    assert single.sections == ["results", "curves", "neighbours", "maps", "throughput", "settings"]
    assert {name: len(single.figures(name)) for name in single.sections[:-1]} == {
        "results": 2,  # one for each label
        "curves": 3,  # loss, and one for each label
        "neighbours": 0,
        "maps": 2,
        "throughput": 1,
    }
    assert "static on shapes" in single.text
    assert "trained without labels on\n24 videos of shapes\nfor 60 steps" in single.text
    assert "12 videos are held out" in single.text
    assert "clips of each video</dt><dd>3" in single.text
    assert "embed_dim: 8" in single.text


def test_the_table_holds_the_metrics(single):
    shape = [
        ["static", "random initialisation", "0", "31.0", "", "32.0", "", "33.3"],
        ["instance recognition", "40", "52.4", "+21.3", "53.4", "+21.3", "33.3"],
        ["local aggregation", "60", "83.6", "+52.5", "84.6", "+52.5", "33.3"],
    ]
    side = [
        ["static", "random initialisation", "0", "50.0", "", "51.0", "", "33.3"],
        ["instance recognition", "40", "46.0", MINUS + "4.0", "47.0", MINUS + "4.0", "33.3"],
        ["local aggregation", "60", "44.0", MINUS + "6.0", "45.0", MINUS + "6.0", "33.3"],
    ]
    assert [row for row in single.rows if len(row) in (7, 8) and row[0] not in ("stream", *THROUGHPUT)] == shape + side
    assert re.findall(r"<td class=\"n\"><strong>(.*?)</strong>", single.text) == ["83.6", "84.6", "50.0", "51.0"]


def test_curves_mark_the_switch_of_stages(single):
    loss, *accuracies = single.figures("curves")
    assert "IR → LA at step 40" in loss
    assert all("IR → LA" in figure for figure in accuracies)
    assert all(name in accuracies[0] for name in ("linear 84.6", "kNN 83.6", "kNN, bank 40.0", "chance"))


def test_thumbnails_are_pictures_framed_by_agreement(single):
    pictures = decoded(single.images)
    assert len(pictures) == 6 * 6
    assert all(picture.shape == (3, 160, 160) for picture in pictures)
    frames = [attributes["class"] for tag, attributes in single.tags if tag == "figure"]
    assert frames.count("thumb") == 6
    assert frames.count("thumb right") == 25
    assert frames.count("thumb wrong") == 5  # one query lies among another shape
    assert "gained most by training (+52.5 points)" in " ".join(single.text.split())
    assert '<span class="wrong">kNN: ring &lt;b&gt;</span>' in single.text


def test_names_from_the_corpus_are_escaped(single):
    assert "ring <b>" not in single.text
    assert "ring &lt;b&gt;" in single.figures("maps")[0]
    assert "$star$" in single.figures("maps")[0]


def test_the_machine_stands_beside_the_throughput(single):
    assert "static ran on an abacus." in single.text.split('<section id="throughput">')[1]


def test_throughput_adds_up(single):
    rows = [row for row in single.rows if row[0] in THROUGHPUT][1:]
    wall = ["10.00", "25.00", "5.00", "40.00", "100"]
    within = {"IR": ["-", "-"], "LA": ["12.30", "23.40"]}
    assert rows == [[f"static, {stage}", *wall, *within[stage]] for stage in ("IR", "LA")]


def test_two_runs_are_joined(double, runs):
    wanted = summarise(runs)["results"]
    joined = [row for row in double.rows if row[0] == "last stages joined"]
    for label, row in zip(("shape", "side"), joined, strict=True):
        top1 = {r["readout"]: r["top1"] for r in wanted if (r["label"], r["stage"]) == (label, "joined")}
        assert [row[2], row[4]] == [f"{top1['knn']:.1f}", f"{top1['linear']:.1f}"]
    assert [row[0] for row in double.rows].count("static + dynamic") == 2
    assert len(double.figures("curves")) == 2 + 2 * 2
    assert len(double.figures("maps")) == 2 * 2
    assert "features of the streams side by side" in double.text


def test_a_summary_that_is_given_is_not_made_again(runs, double, tmp_path, monkeypatch):
    summary = summarise(runs)
    monkeypatch.setattr("pretrain.reporting.report.summarise", None)
    assert write_report(runs, tmp_path / "report.html", summary).read_text() == double.text


def test_joined_streams_are_tested_on_the_labels_of_both_splits(tmp_path):
    write_corpus(tmp_path / "shapes", ["shape", "side", "trained"])
    runs = [write_run(tmp_path / name, tmp_path / "shapes", ["shape", "side"]) for name in ("a", "b")]
    joined = [row for row in summarise(runs)["results"] if row["stage"] == "joined"]
    assert {row["label"] for row in joined} == {"shape", "side"}


def test_a_moving_stream_shows_frames_side_by_side(double):
    pictures = decoded(double.images)
    assert {tuple(picture.shape) for picture in pictures[:36]} == {(3, 160, 160)}
    assert {tuple(picture.shape) for picture in pictures[36:]} == {(3, 96, 4 * 96)}


def test_videos_without_labels_have_neighbours_without_colour(tmp_path):
    write_corpus(tmp_path / "bare", [])
    run = write_run(tmp_path / "run", tmp_path / "bare", [])
    page = Page(write_report([run], tmp_path / "report.html"))
    assert page.sections == ["curves", "neighbours", "maps", "throughput", "settings"]
    assert {attributes["class"] for tag, attributes in page.tags if tag == "figure"} == {"thumb"}
    assert len(page.figures("maps")) == 1
    assert last_stage(run) == "la"
    for stage in ("random", "ir"):  # the page shows the trained network
        (run / f"features-{stage}.safetensors").unlink()
    assert write_report([run], tmp_path / "again.html").read_text() == page.text


def test_the_last_stage_of_a_run_whose_metrics_name_no_stages(runs, tmp_path):
    run = Path(shutil.copytree(runs[0], tmp_path / "run"))
    metrics = json.loads((run / "metrics.json").read_text())
    del metrics["stages"]
    (run / "metrics.json").write_text(json.dumps(metrics))
    assert last_stage(run) == "la"


@pytest.mark.parametrize(
    ("missing", "left"),
    [
        ("features-*", ["results", "curves", "throughput", "settings"]),
        ("metrics.json", ["curves", "throughput", "settings"]),
        ("history.jsonl", ["results", "neighbours", "maps", "settings"]),
        ("[!c]*", ["settings"]),
    ],
)
def test_a_missing_part_makes_the_page_shorter(runs, tmp_path, missing, left):
    run = Path(shutil.copytree(runs[0], tmp_path / "run"))
    for path in run.glob(missing):
        path.unlink()
    assert Page(write_report([run], tmp_path / "report.html")).sections == left


def test_a_corpus_that_is_gone_leaves_numbers(runs, tmp_path):
    run = Path(shutil.copytree(runs[0], tmp_path / "run"))
    config = run / "config.yaml"
    config.write_text(re.sub(r"path: .*", "path: gone", config.read_text()))
    page = Page(write_report([run], tmp_path / "report.html"))
    assert page.sections == ["results", "curves", "throughput", "settings"]
    assert "corpus of run: gone is not in the current folder" in page.text


def test_a_relative_corpus_is_found_from_the_folder_it_was_named_in(runs, folder, tmp_path, monkeypatch):
    run = Path(shutil.copytree(runs[0], tmp_path / "run"))
    config = run / "config.yaml"
    config.write_text(re.sub(r"path: .*", "path: shapes", config.read_text()))
    monkeypatch.chdir(folder)
    page = Page(write_report([run], tmp_path / "report.html"))
    assert page.sections == ["results", "curves", "neighbours", "maps", "throughput", "settings"]


def test_a_damaged_shard_costs_the_neighbours_alone(tmp_path):
    write_corpus(tmp_path / "shapes", ["shape", "side"])
    run = write_run(tmp_path / "run", tmp_path / "shapes", ["shape", "side"])
    (tmp_path / "shapes" / "shard-000000.tar").write_bytes(b"")
    page = Page(write_report([run], tmp_path / "report.html"))
    assert page.sections == ["results", "curves", "maps", "throughput", "settings"]
    assert "neighbours of run: " in page.text
    assert not list(tmp_path.glob("*.partial"))


def test_gains_of_a_run_that_began_from_an_encoder_are_over_that(runs, single, tmp_path):
    run = Path(shutil.copytree(runs[0], tmp_path / "static"))
    metrics = json.loads((run / "metrics.json").read_text())
    for row in (*metrics["results"], *metrics["stages"]):
        row["stage"] = row["stage"].replace("random", "start")
    (run / "metrics.json").write_text(json.dumps(metrics))
    page = Page(write_report([run], tmp_path / "report.html"))
    begun = {"random initialisation": "the encoder that it began from"}
    assert page.rows == [[begun.get(cell, cell) for cell in row] for row in single.rows]
    assert page.figures("results") == single.figures("results")


def test_a_run_in_its_first_stage(runs, tmp_path):
    run = Path(shutil.copytree(runs[0], tmp_path / "run"))
    history = [line for line in (run / "history.jsonl").read_text().splitlines() if json.loads(line)["step"] <= 30]
    (run / "history.jsonl").write_text("\n".join(history))
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["results"] = [row for row in metrics["results"] if row["stage"] == "random"]
    (run / "metrics.json").write_text(json.dumps(metrics))
    page = Page(write_report([run], tmp_path / "report.html"))
    assert page.sections == ["results", "curves", "neighbours", "maps", "throughput", "settings"]
    assert "30 of 60 steps" in page.text
    assert "IR → LA" not in page.text
    assert page.figures("results") == []


def test_a_damaged_record_is_named(runs, tmp_path):
    run = Path(shutil.copytree(runs[0], tmp_path / "run"))
    (run / "history.jsonl").write_text('{"step": 1, "lo\n')
    assert "history.jsonl of run: " in Page(write_report([run], tmp_path / "report.html")).text


def test_faults_of_the_caller_are_one_line(runs, tmp_path):
    with pytest.raises(VieError, match=r"holds no run \(config.yaml is missing\): give .*") as error:
        write_report([tmp_path], tmp_path / "report.html")
    assert "\n" not in str(error.value)
    with pytest.raises(VieError, match="two runs are called 'static'"):
        write_report([runs[0], runs[0]], tmp_path / "report.html")
    with pytest.raises(VieError, match="cannot be written"):
        write_report(runs[:1], tmp_path)


def test_the_same_runs_make_the_same_page(runs, single, tmp_path):
    assert write_report(runs[:1], tmp_path / "again.html").read_text() == single.text


def test_queries_are_right_and_wrong(runs, folder):
    gallery = find_neighbours(
        load_features(runs[0], "la"), Shards(folder / "shapes"), Sampling(1, 1, None, 16), "shape", KnnConfig()
    )
    assert [query.vote == query.shown.label for query in gallery.queries] == [True] * 5 + [False]


def test_many_videos_are_mapped_by_tsne(runs, folder):
    videos = torch.arange(60) % VIDEOS
    features = Features(videos, torch.randn(60, 5, generator=torch.Generator().manual_seed(0)))
    method, maps = draw_maps(features, Shards(folder / "shapes"), 400)
    assert (method, len(maps)) == ("t-SNE", 2)
