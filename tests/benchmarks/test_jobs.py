import csv
from pathlib import Path

import pytest
import yaml

import benchmarks
from benchmarks.jobs import read_jobs
from benchmarks.listings import OPPOSITES
from benchmarks.listings import main as write_listing
from benchmarks.transfer.config import parse_task
from pretrain.inputs import list_videos
from pretrain.settings import parse_config
from vie import VieError

FOLDER = Path(benchmarks.__file__).parent
FILES = sorted(path for path in FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_job_is_readable(path):
    for job in read_jobs(path).values():
        if job.recipes:
            parse_config(job.recipes, job.settings)
        for transfer in job.transfer:
            parse_task(transfer.task, transfer.settings)


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
    assert "seed=2" in measuring
    path.write_text(yaml.safe_dump(dict(reversed(entries.items())), sort_keys=False))
    with pytest.raises(VieError, match="a-hybrid needs a-static, a-trn: list what it needs before it"):
        read_jobs(path)


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
