import json
import re
import statistics

import pytest

from pretrain.cli import main
from pretrain.reporting.report import write_report
from pretrain.transfer_results import read_results
from tests.pretrain.test_report import Page, write_corpus, write_run
from vie import VieError

SHARED = {"corpus": "shapes", "split": None, "train": ["train", 24], "test": ["val", 1200], "clips_per_video": 3}
SCHEDULE = {"steps": 1300, "lr": 0.1, "drops": [900, 1200], "weight_decay": 1e-4, "standardise": True}


def content(encoder, mode, rows, *, seed=0, split=None, labels=("digit", "motion")):
    """What a results file holds; ``rows`` gives the accuracy on every label by (read-out, layer, pooling)."""
    schedule = None if mode == "knn" else SCHEDULE
    protocol = {**SHARED, "split": split, "crop": "centre", "batch_size": 64, "schedule": schedule, "precision": "fp32"}
    return {
        "format": "vie-transfer-1",
        "task": "task",
        "mode": mode,
        "seed": seed,
        "encoder": {"name": encoder, "model": "vie_slow_r18"},
        "protocol": {**protocol, "machine": "an abacus"},
        "results": [
            {"label": label, "readout": place[0], "layer": place[1], "pooling": place[2], "top1": top1}
            | {"chance": 12.5, "videos": 1200}
            for place, accuracies in rows.items()
            for label, top1 in zip(labels, accuracies, strict=True)
        ],
    }


KNN, LOGISTIC, FLAT, AVG = (
    ("knn", "pooled", "avg"),
    ("logistic", "pooled", "avg"),
    ("linear", "conv5", "flat"),
    ("linear", "conv5", "avg"),
)
CONTENTS = [
    content("hybrid", "knn", {KNN: (71.26, 90.0), LOGISTIC: (80.0, 95.5), ("knn", "embedding", "avg"): (1.0, 2.0)}),
    content("hybrid", "linear", {FLAT: (82.0, 91.0), AVG: (83.0, 92.0)}),
    content("static", "random", {FLAT: (30.0, 11.0), AVG: (31.0, 13.0)}),
    content("static", "linear", {FLAT: (84.0, 12.0), AVG: (82.5, 14.0)}),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("transfer")
    write_corpus(folder / "shapes", ["shape"])
    return write_run(folder / "static", folder / "shapes", ["shape"])


@pytest.fixture
def page(run, tmp_path):
    return lambda contents: Page(write_report([run], tmp_path / "report.html", transfer=contents))


def rows_of(page):
    """Rows of the section's tables by encoder; the first column is the encoder."""
    part = page.text.split('<section id="transfer">')[1].split("</section>")[0]
    names = ("static", "static (random)", "hybrid")
    return part, [row for row in page.rows if row and row[0] in names and len(row) in (5, 6)]


def test_a_table_for_every_label(page):
    part, rows = rows_of(page(CONTENTS))
    assert rows == [
        ["static", "", "", "84.0", "82.5"],
        ["static (random)", "", "", "30.0", "31.0"],
        ["hybrid", "71.3", "80.0", "82.0", "83.0"],
        ["static", "", "", "12.0", "14.0"],
        ["static (random)", "", "", "11.0", "13.0"],
        ["hybrid", "90.0", "95.5", "91.0", "92.0"],
    ]
    assert [part.count(f"<strong>{best}</strong>") for best in ("71.3", "84.0", "83.0", "82.0", "91.0")] == [
        *(1, 1, 1),  # of the digit
        *(0, 1),
    ]
    assert "1,200 videos; chance 12.5." in part
    assert part.count('class="pale"') == 2


def test_the_protocol_stands_below(page):
    part, _ = rows_of(page(CONTENTS))
    assert "shapes: 24 videos of train to learn from, 1,200 of val tested" in part
    assert "1,300 steps of 64 clips, learning rate 0.1 (a tenth of it after 900 and 1,200)" in part
    assert "weight decay 0.0001, on standardised features; tested after the last step" in part
    assert "hybrid: vie_slow_r18; static: vie_slow_r18" in part


def test_the_figure_holds_every_encoder_and_label(page):
    (figure,) = page(CONTENTS).figures("transfer")
    assert all(text in figure for text in ("digit", "motion", "chance", "pooled logistic", "80.0", "95.5"))
    without = [one for one in CONTENTS if one["mode"] != "knn"]
    (figure,) = page(without).figures("transfer")  # the last column, where there is no logistic regression
    assert all(text in figure for text in ("conv5 avg", "static (random)", "82.5", "92.0", "13.0"))


def test_seeds_and_labels_of_one_family_are_averaged(page):
    values = {0: (60.0, 70.0), 1: (81.0, 90.3)}
    labels = ("pair.door", "pair.drawer")
    contents = [content("static", "linear", {FLAT: top1}, seed=seed, labels=labels) for seed, top1 in values.items()]
    shown = page(contents)
    mean = statistics.mean(value for pair in values.values() for value in pair)
    assert [row for row in shown.rows if row[:1] == ["static"] and len(row) == 2] == [["static", f"{mean:.1f}"]]
    assert "<h3>pair.*</h3>" in shown.text
    assert "<dt>seeds</dt><dd>0; 1</dd>" in shown.text


def test_shuffled_frames_have_lines_of_their_own(page):
    ordered, shuffled = (content("static", "linear", {FLAT: top1}) for top1 in ((90.0, 80.0), (20.0, 10.0)))
    for row in shuffled["results"]:
        row["shuffled"] = True
    part, _ = rows_of(page([shuffled, ordered, content("another", "linear", {FLAT: (5.0, 6.0)})]))
    names = re.findall(r"</span>([^<]+)</td>", part)
    assert names == ["static", "static, frames shuffled", "another"] * 2


def test_splits_have_tables_of_their_own(page):
    shown = page([content("static", "finetune", {("finetune", "pooled", "avg"): (40.0, 50.0)}, split=s) for s in "12"])
    assert [f"<h3>task, split {split}</h3>" in shown.text for split in "12"] == [True, True]
    assert len(shown.figures("transfer")) == 2


def test_names_are_escaped(page):
    text = page([content("<b>", "linear", {FLAT: (1.0, 2.0)})]).text
    assert "<b>" not in text
    assert text.count("&lt;b&gt;") >= 3


def test_damaged_results_cost_the_section_alone(page):
    broken = [{**CONTENTS[0], "protocol": {}}]
    shown = page(broken)
    assert "transfer" not in shown.sections
    assert "transfer results: " in shown.text


def test_the_command_reads_a_folder(run, tmp_path, capsys):
    for number, one in enumerate(CONTENTS):
        (tmp_path / f"{number}.json").write_text(json.dumps(one))
    main(["report", str(run), "--transfer", str(tmp_path), "--out", str(tmp_path / "page.html")])
    assert capsys.readouterr().out.strip() == str(tmp_path / "page.html")
    _, rows = rows_of(Page(tmp_path / "page.html"))
    assert ["hybrid", "71.3", "80.0", "82.0", "83.0"] in rows


def test_folders_without_results_are_refused(tmp_path):
    with pytest.raises(VieError, match="no results there"):
        read_results([tmp_path])
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(VieError, match="is no results file"):
        read_results([tmp_path])
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(VieError, match="cannot be read"):
        read_results([tmp_path])
