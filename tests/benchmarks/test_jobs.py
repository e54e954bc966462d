import csv
import functools
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import yaml

import benchmarks
from benchmarks.jobs import Job, read_jobs
from benchmarks.listings import OPPOSITES
from benchmarks.listings import main as write_listing
from benchmarks.transfer.config import parse_task
from pretrain.config import Config
from pretrain.preparation.inputs import list_videos
from pretrain.settings import parse_config
from vie import VieError

FOLDER = Path(benchmarks.__file__).parent
FILES = sorted(path for path in FOLDER.glob("*.yaml") if not path.stem.endswith("_agents"))
CLAIMS = [path for path in FILES if path.stem.startswith("claim_")]


def config_of(job: Job) -> Config:
    return parsed(tuple(job.recipes), tuple(job.settings))


@functools.cache
def parsed(recipes: tuple[str, ...], settings: tuple[str, ...]) -> Config:
    """Which takes a tenth of a second, and several tests ask for the same."""
    return parse_config(recipes, settings)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_job_is_readable(path):
    for job in read_jobs(path).values():
        if job.recipes:
            config_of(job)
        for transfer in job.transfer:
            for settings in transfer.by_split():
                parse_task(transfer.task, settings)


def shares(jobs: dict[str, Job]) -> set[Fraction]:
    """After what share of its steps each job's learning rate falls."""
    configs = [config_of(job) for job in jobs.values() if not job.hybrid]
    return {Fraction(drop, config.total_steps) for config in configs for drop in config.optim.drops or [0]}


@pytest.mark.parametrize("path", CLAIMS, ids=lambda path: path.stem)
def test_the_jobs_of_a_claim_are_on_a_par(path):
    """One rule for the learning rate of all, and as many steps for a baseline as for VIE on its network."""
    jobs = read_jobs(path)
    (share,) = shares(jobs)
    assert Fraction(4, 5) < share < 1
    configs = {name: config_of(job) for name, job in jobs.items() if not job.hybrid}
    baselines = {name: config for name, config in configs.items() if config.method in ("opn", "simclr", "rotnet")}
    assert baselines
    for name, config in baselines.items():
        like = configs[f"{name.partition('-')[0]}-{'resnet3d' if config.method == 'rotnet' else 'single'}"]
        assert config.model == like.model
        assert config.total_steps == like.total_steps
        assert config.data.batch_size * (4 if config.method == "rotnet" else 1) == like.data.batch_size
        assert config.augmentation == like.augmentation


@pytest.mark.parametrize("path", CLAIMS, ids=lambda path: path.stem)
def test_the_parts_of_a_hybrid_fit(path):
    jobs = read_jobs(path)
    hybrids = [job for job in jobs.values() if job.hybrid]
    assert hybrids
    for job in hybrids:
        static, dynamic = (config_of(jobs[name]) for name in job.hybrid)
        assert static.model.name == "vie_single_r18"
        assert static.model.width == dynamic.model.width
        assert (static.data.size, static.data.short_side) == (dynamic.data.size, dynamic.data.short_side)
        assert static.data.size
        assert {jobs[name].corpus for name in job.hybrid} == {job.corpus}


@pytest.mark.parametrize("corpus", ["digits", "objects", "metaworld", "avletters"])
def test_read_outs_see_what_pretraining_saw(corpus):
    """But for the colours of moving digits, whose videos are grey."""
    task = parse_task(corpus)
    augmentation = parse_config([corpus if corpus != "digits" else "digits_static"]).augmentation
    if corpus == "digits":
        augmentation = replace(augmentation, brightness=0, contrast=0, saturation=0, hue=0, grey=0)
    assert task.augmentation == augmentation
    assert task.data.cache == ("device" if corpus == "digits" else "device+disk")
    small = parse_task("small")
    assert (task.linear, task.finetune, task.scratch) == (small.linear, small.finetune, small.scratch)


def test_a_hybrid_and_what_begins_from_another(tmp_path):
    path = tmp_path / "jobs.yaml"
    entries = {
        "a-static": {"corpus": "a", "recipes": ["digits_static"]},
        "a-trn": {"corpus": "a", "recipes": ["digits_dynamic"], "start": "a-static"},
        "a-hybrid": {"corpus": "a", "hybrid": ["a-static", "a-trn"], "transfer": [{"task": "small"}]},
    }
    path.write_text(yaml.safe_dump(entries, sort_keys=False))
    jobs = read_jobs(path)
    for name in ("a-static", "a-trn"):
        folder = jobs[name].run(tmp_path, 2)
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text('{"stages": [{"stage": "ir"}, {"stage": "la"}], "results": []}')
    trn = jobs["a-trn"].making(jobs, tmp_path, tmp_path, 2)
    assert f"model.start={tmp_path}/seed2/a-static/encoder-la" in trn
    hybrid = jobs["a-hybrid"].making(jobs, tmp_path, tmp_path, 2)
    assert hybrid[4:] == [
        f"{tmp_path}/seed2/a-static/encoder-la",
        f"{tmp_path}/seed2/a-trn/encoder-la",
        f"{tmp_path}/seed2/a-hybrid/encoder-joined",
    ]
    (measuring,) = jobs["a-hybrid"].measuring(tmp_path, tmp_path, 2)
    assert measuring[measuring.index("--name") + 1] == "hybrid"
    assert not any(one.startswith("seed=") for one in measuring)  # read-outs take the encoder's
    path.write_text(yaml.safe_dump(dict(reversed(entries.items())), sort_keys=False))
    with pytest.raises(VieError, match="a-hybrid needs a-static, a-trn: list what it needs before it"):
        read_jobs(path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "cannot be read as YAML"),
        ("", "holds no jobs"),
        ("- a", "holds no jobs"),
        ("a: {corpus: [", "cannot be read as YAML"),
        ("a-b: {corpsu: a}", "a-b is no job"),
        ("a-b: text", "a-b is no job"),
        ("a-b: {corpus: a, transfer: [{tusk: small}]}", "a-b is no job"),
    ],
)
def test_files_that_hold_no_jobs_are_told_apart(tmp_path, text, told):
    path = tmp_path / "jobs.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(VieError, match=told) as error:
        read_jobs(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_entries_may_share_what_they_hold(tmp_path):
    path = tmp_path / "jobs.yaml"
    path.write_text("a-b: &b {corpus: a, transfer: [{task: small}]}\na-c: *b\n")
    assert [len(job.transfer) for job in read_jobs(path).values()] == [1, 1]


class TestListings:
    def test_opposite_tasks_of_meta_world(self, tmp_path):
        tasks = ["door-open-v3", "door-close-v3", "push-v3", "soccer-v3"]
        lines = [f"{task}.mp4,{task},expert,1,train" for task in tasks]
        (tmp_path / "labels.csv").write_text("\n".join(["path,task,policy,success,split", *lines]))
        write_listing(["metaworld", str(tmp_path / "labels.csv"), str(tmp_path / "out.csv")])
        videos = list_videos(tmp_path / "out.csv")
        assert [video.labels.get("pair.door") for video in videos] == ["door-open-v3", "door-close-v3", None, None]
        assert [video.labels.get("pair.push") for video in videos] == [None, None, "push-v3", None]
        assert len({task for pair in OPPOSITES.values() for task in pair}) == 2 * len(OPPOSITES)

    def test_every_talker_is_left_out_once(self, tmp_path):
        talkers = ["Zoe", "Bill", "Faye", "Anya", "John", "Kate", "Steve", "Verity"]
        rows = [{"path": f"{t}-{n}.mp4", "letter": "A", "talker": t, "split": "train"} for t in talkers for n in (1, 2)]
        with (tmp_path / "labels.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        write_listing(["avletters", str(tmp_path / "labels.csv"), str(tmp_path / "out.csv")])
        videos = list_videos(tmp_path / "out.csv")
        left_out = [{v.labels["talker"] for v in videos if v.splits[f"talkers{n}"] == "val"} for n in range(1, 5)]
        assert [len(pair) for pair in left_out] == [2, 2, 2, 2]
        assert set.union(*left_out) == set(talkers)

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            (None, "No such file"),
            ("path,policy\na.mp4,expert\n", "has no column 'task'"),
            ("path,task\n", "lists no videos"),
            ("", "lists no videos"),
            ("path,task\na.mp4\n", "more or fewer fields"),
            ("path,task\na.mp4,push-v3,x\n", "more or fewer fields"),
            (b"path,task\n\xff,push-v3\n", "cannot be read as CSV"),
        ],
    )
    def test_other_files_are_refused_in_one_line(self, tmp_path, text, told):
        labels, out = tmp_path / "labels.csv", tmp_path / "out.csv"
        if text is not None:
            labels.write_bytes(text if isinstance(text, bytes) else text.encode())
        out.write_text("as it was")
        with pytest.raises(SystemExit) as stopped:
            write_listing(["metaworld", str(labels), str(out)])
        assert told in str(stopped.value)
        assert "\n" not in str(stopped.value)
        assert out.read_text() == "as it was"
