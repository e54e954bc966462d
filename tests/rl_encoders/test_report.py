"""The page about runs of agents."""

import base64
import json
import re
from html.parser import HTMLParser
from typing import get_args, get_type_hints

import numpy as np
import pytest

pytest.importorskip("gymnasium")
from rl_encoders.cli import main
from rl_encoders.cli import run as carry_out
from rl_encoders.replay.trajectory import Trajectory
from rl_encoders.reporting.figures import Curve, learning_figure
from rl_encoders.reporting.report import METRICS, write_report
from rl_encoders.reporting.run import ALGORITHMS, read_run
from rl_encoders.rollout import Episode
from rl_encoders.training.films import keep_films, read_films
from rl_encoders.training.settings import AgentConfig, parse_train_config
from tests.rl_encoders.training.runs import Training, agent, config
from tests.rl_encoders.training.worlds import LENGTH, Line, random_walks
from vie import VieError
from vie.history import read_history
from vie.settings import dump_settings

SETTINGS = [
    *("environment.name=maze:PointMaze_UMaze-v3", "environment.state=[velocity]", "encoder.source=runs/static"),
    *("dataset=data", "offline_updates=100", "online_steps=400", "evaluation_episodes=25"),
]
MINUS = "\N{MINUS SIGN}"


class Page(HTMLParser):
    """The parts of a page that the tests ask about."""

    def __init__(self, path):
        super().__init__()
        self.text = path.read_text()
        self.rows, self.videos, self.sections, self.in_cell = [], [], [], False
        self.feed(self.text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True
        elif tag == "video":
            self.videos.append(attributes["src"])
        elif tag == "section":
            self.sections.append(attributes["id"])

    def handle_endtag(self, tag):
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data):
        if self.in_cell:
            self.rows[-1][-1] = (self.rows[-1][-1] + data).strip()

    def row(self, name):
        return next(row for row in self.rows if row and row[0] == name)

    def figures(self, section):
        part = self.text.split(f'<section id="{section}">')[1].split("</section>")[0]
        return re.findall(r"<svg.*?</svg>", part, re.DOTALL)


def history(*evaluations, phases=(("offline", 50), ("offline", 100), ("online", 150)), episodes=()):
    rows = [{"step": 0, "phase": "imitate", "imitated": count, "policy_loss": 3.0 / count} for count in (10.0, 20.0)]
    rows += [{"step": step, "phase": phase, "q": -step / 10, "entropy": 0.5} for phase, step in phases]
    rows += [{"step": 100, "environment_steps": steps, "episode_return": value} for steps, value in episodes]
    rows += [
        {"step": updates, "environment_steps": steps, "return": result, "length": 30.0, "success": success}
        for updates, steps, result, success in evaluations
    ]
    return rows


def film(run, updates, steps, success, seed=7):
    shade = np.full((5, 64, 64, 3), (updates + steps) % 250, np.uint8)
    trajectory = Trajectory("", {"pixels": shade}, np.zeros((4, 1), np.float32), np.ones(4, np.float32), terminal=False)
    keep_films(run, [Episode(trajectory, success, seed)], 10.0, updates, steps)


def write_run(folder, rows, *changes):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(dump_settings(parse_train_config([], [f"run={folder}", *SETTINGS, *changes])))
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


WHOLE = ((50, 0, -9.5, 0.2), (100, 0, -4.0, 0.4), (300, 200, -2.0, 0.8), (500, 400, -1.25, 1.0))


@pytest.fixture
def whole(tmp_path):
    folder = write_run(tmp_path / "mine <b>", history(*WHOLE, episodes=[(10 * n, -n) for n in range(1, 31)]))
    for updates, steps, _, success in WHOLE:
        film(folder, updates, steps, success > 0.5)
    return folder


def test_one_run_from_its_first_evaluation_to_its_last(whole):
    page = Page(write_report([whole], whole / "report.html"))
    assert page.sections == ["results", "curves", "films", "updates", "settings"]
    shown = [f"{number:,}" for number in (50, 0, 20)] + [f"{MINUS}9.5"]
    shown += ["100", "0", "40", f"{MINUS}4", "500", "400", "100", f"{MINUS}1.25"]
    assert page.row("mine <b>")[1:] == shown
    assert len(page.figures("curves")) == 2
    assert all("offline → online" in figure for figure in page.figures("curves"))
    assert "±20 points" in page.text
    titles = [METRICS["q"], METRICS["entropy"], "imitation: policy_loss"]
    for figure, title in zip(page.figures("updates"), titles, strict=True):
        assert title in figure.replace("&#x27;", "'")
    assert page.row("environment.state")[1] == "velocity"
    assert "Unfinished" not in page.text
    assert "<b>" not in page.text


def test_before_and_after_can_be_seen_without_any_other_file(whole):
    page = Page(write_report([whole], whole / "report.html"))
    films = [base64.b64decode(video.removeprefix("data:video/mp4;base64,")) for video in page.videos]
    made = read_films(whole)
    assert films == [made[number].video(whole).read_bytes() for number in (0, 1, 3)]
    assert len({*films}) == 3
    assert "after 50 updates on offline data" in page.text
    assert "after 400 steps of the environment" in page.text
    assert not re.search(r"""(src|href)=["'](?!data:|#)|url\((?!#)|@import""", page.text)


def test_a_curve_goes_on_where_the_first_phase_ends(whole):
    run = read_run(whole, "#000000", [])
    assert [(one.updates, one.environment_steps) for one in run.evaluations] == [one[:2] for one in WHOLE]
    assert run.metrics["q"] == ([50, 100, 150], [-5.0, -10.0, -15.0])
    assert run.metrics["imitation: policy_loss"][0] == [10, 20]
    assert (run.switch, run.unfinished, run.environment_steps) == (100, "", 400)
    seen = learning_figure(
        [
            Curve("a", "#2a67b1", ([50, 100], [1.0, 2.0]), ([0, 400], [2.0, 31.25])),
            Curve("b", "#cc5f2d", ([50], [7.5])),
        ],
        "return",
        None,
        800,
    )
    assert "a 31.2" in seen
    assert "b 7.5" in seen


def test_what_a_run_writes_is_what_is_read(tmp_path):
    training = Training(config(tmp_path, online_steps=LENGTH), agent("pa-rl"), random_walks(4), Line())
    training.train()
    run = read_run(write_run(tmp_path, read_history(tmp_path), "offline_updates=40", "online_steps=12"), "#000000", [])
    assert run.metrics["imitation: policy_loss"][0] == [10]
    assert run.metrics["td_loss"][0] == [10, 20, 30, 40, 50]
    assert [(one.updates, one.environment_steps) for one in run.evaluations] == [(0, 0), (40, 0), (52, 12)]
    assert run.episodes[0] == [12]
    assert run.unfinished == ""


def test_an_agent_that_was_evaluated_before_it_learned(tmp_path):
    offline = write_run(tmp_path / "offline", history((0, 0, -9.0, 0.1), *WHOLE), "agent.algorithm=parl")
    page = Page(write_report([offline], tmp_path / "report.html"))
    assert page.rows[2][1:5] == ["0", "0", "10", f"{MINUS}9"]
    assert len(page.figures("curves")) == 2
    scratch = write_run(tmp_path / "scratch", history((0, 0, -9.0, 0.1), (200, 200, -1.0, 1.0)), "offline_updates=0")
    page = Page(write_report([scratch], tmp_path / "report.html"))
    assert not any("updates on offline data" in figure for figure in page.figures("curves"))
    begun = write_run(tmp_path / "begun", history((0, 0, -9.0, 0.1)))
    assert "curves" not in Page(write_report([begun], tmp_path / "report.html")).sections


def test_runs_side_by_side_and_what_they_differ_in(whole, tmp_path):
    other = write_run(tmp_path / "other", history(*WHOLE[:3]), "agent.algorithm=iql", "data.gamma=0.9")
    page = Page(write_report([whole, other], tmp_path / "new" / "both.html"))
    assert page.row("agent.algorithm")[1:] == ["calql", "iql"]
    assert page.row("data.gamma")[1:] == ["0.99", "0.9"]
    assert not any(row and row[0] == "data.edge" for row in page.rows)
    assert "Unfinished: 200 of 400 steps of the environment are done." in page.text
    for name in ("mine &lt;b&gt; ", "other "):
        assert all(name in figure for figure in page.figures("curves"))


def test_exploration_beside_exploitation(tmp_path):
    ooo = tmp_path / "ooo"
    explore = write_run(ooo / "explore", history(*WHOLE), "agent.exploration=0.5")
    film(explore, 300, 200, False)
    film(explore, 500, 400, True)
    found = {
        "200": {"return": -1.5, "success": 0.9, "explored_return": -2.0, "explored_success": 0.8},
        "400": {"return": -1.0, "success": 0.96},
    }
    (ooo / "retraining.json").write_text(json.dumps(found))
    film(ooo / "retrained-200", 50, 0, True)
    page = Page(write_report([ooo], ooo / "report.html"))
    assert page.row("200") == ["200", "80", "90", "+10", f"{MINUS}2", f"{MINUS}1.5", "+0.5"]
    assert page.row("400") == ["400", "", "96", "", "", f"{MINUS}1", ""]
    assert "Cal-QL with a bonus for novelty" in page.text
    section = page.text.split('<section id="retrained">')[1].split("</section>")[0]
    assert re.findall(r"(explored|retrained): <span class=\"(\w+)", section) == [
        ("explored", "wrong"),
        ("retrained", "right"),
    ]


def test_a_return_that_says_no_more_than_success_is_left_out(tmp_path):
    run = write_run(tmp_path / "run", history(*WHOLE), "environment.reward=success")
    page = Page(write_report([run], tmp_path / "report.html"))
    assert len(page.figures("curves")) == 1
    assert page.rows[2][-3:] == ["500", "400", "100"]


def test_a_run_that_has_only_begun_says_so(tmp_path):
    empty = write_run(tmp_path / "empty", [])
    page = Page(write_report([empty], tmp_path / "report.html"))
    assert page.sections == ["nothing", "settings"]
    assert "Unfinished: 0 of 100 offline updates are done." in page.text
    (empty / "history.jsonl").write_text("{broken}\n")
    page = Page(write_report([empty], tmp_path / "report.html"))
    assert "history.jsonl of empty: " in page.text
    some = write_run(tmp_path / "some", history(phases=[("offline", 50)]))
    assert Page(write_report([some], tmp_path / "report.html")).sections == ["nothing", "updates", "settings"]
    alone = write_run(tmp_path / "alone", [], "environment.name=", "online_steps=0")
    assert "there is no environment to act in" in write_report([alone], tmp_path / "report.html").read_text()


def test_from_the_command_line(whole, tmp_path, capsys):
    carry_out(["report", str(whole)])
    assert capsys.readouterr().out.strip() == str(whole / "report.html")
    carry_out(["report", str(whole), "--out", str(tmp_path / "page.html")])
    assert (tmp_path / "page.html").read_text() == (whole / "report.html").read_text()


def test_mistakes_are_named(whole, tmp_path, capsys):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "file").write_text("")
    again = write_run(tmp_path / "again" / whole.name, [])
    for arguments, message in (
        ([tmp_path / "thesis"], r"thesis holds no run \(config.yaml is missing\): give the folder that vie-rl train"),
        ([tmp_path / "absent"], "absent holds no run"),
        ([whole, again], "two runs are called 'mine <b>': rename one's folder"),
        ([whole, "--out", tmp_path / "file/page.html"], "cannot be written .*: give another file"),
        ([whole, "--what=1"], "unknown arguments --what=1; see `vie-rl report --help`"),
    ):
        with pytest.raises(VieError, match=message):
            carry_out(["report", *map(str, arguments)])
    with pytest.raises(SystemExit):
        main(["report", str(tmp_path / "thesis")])
    assert "holds no run" in capsys.readouterr().err


def test_every_algorithm_has_a_name():
    assert set(get_args(get_type_hints(AgentConfig)["algorithm"])) == set(ALGORITHMS)
