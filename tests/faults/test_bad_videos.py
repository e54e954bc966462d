"""Every kind of bad input, from the listing to the bank: named with its reason, and the rest trained on."""

import csv
import io
import os
import pickle
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pebble.common import CONSTS
from torch import Tensor
from torchvision.io import encode_jpeg

from pretrain.data.order import batch_instances
from pretrain.failures import FAILURES_NAME, read_failures
from pretrain.objective import Objective
from pretrain.preparation.inputs import Video, list_videos
from pretrain.preparation.prepare import PrepareConfig, PrepareReport, prepare
from pretrain.settings import parse_config
from pretrain.train import Trainer
from tests.conftest import rewrite_index, tiny_run
from tests.faults.bad_videos import HEIGHT, KINDS, WIDTH, healthy
from tests.pretrain.test_prepare import TREACHEROUS, failed_csv
from tests.videos import pictures
from vie import MemoryBank, VieError
from vie.history import read_history
from vie.video import Shards

CONFIG = PrepareConfig(short_side=HEIGHT, workers=2, timeout=8.0)  # more than a busy machine takes to start a decoder
STEPS, BATCH = 12, 8
TRAINED = 48  # instances of the tiny corpus, all of them in each of two epochs
BROKEN = b"\x55"


@dataclass(frozen=True)
class Prepared:
    """What became of the folder of all kinds."""

    videos: list[Video]
    out: Path
    report: PrepareReport


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prepared]:
    """All kinds in one folder, prepared once; the names that no file can have stand in the listing alone."""
    folder = tmp_path_factory.mktemp("kinds")
    source, out = folder / "in", folder / "out"
    source.mkdir()
    for kind in KINDS:
        kind.write(source / kind.file)
    with (source / "listing.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "split"], *([kind.file, "train"] for kind in KINDS)])
    (folder / "fake/decord").mkdir(parents=True)
    (folder / "fake/decord/__init__.py").write_text(TREACHEROUS)
    videos = list_videos(source / "listing.csv")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder / "fake")
        patch.setattr(CONSTS, "term_timeout", 0.5)
        report = prepare(videos, out, CONFIG, progress=False)
    yield Prepared(videos, out, report)
    (source / "pipe.mp4").unlink()  # whoever looks into the folder later would wait


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.square(one.astype(float) - other).mean()))


class TestPreparation:
    def test_every_bad_file_is_named_and_nothing_else(self, prepared):
        refused = {kind.file for kind in KINDS if kind.reason}
        assert prepared.report.failed.keys() == refused
        assert prepared.report.prepared == len(KINDS) - len(refused)
        assert failed_csv(prepared.out) == prepared.report.failed
        assert Shards(prepared.out).names == [kind.file for kind in KINDS if not kind.reason]
        assert prepared.report.seconds < 60

    @pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
    def test_kind(self, prepared, kind, table):
        if kind.reason:
            reason = prepared.report.failed[kind.file]
            assert re.search(kind.reason, reason)
            assert "\n" not in reason
            assert "\r" not in reason
            shown = re.sub(r"'/.*", "…", reason)  # a long reason is cut
            table("faults", kind=kind.name, found_by="prepare", outcome=f"refused: {shown}")
            return
        shards = Shards(prepared.out)
        row = shards.names.index(kind.file)
        assert shards.num_frames[row] == kind.frames
        frames = shards.read(row, range(kind.frames)).numpy()
        assert frames.shape == (kind.frames, *kind.size, 3)
        if kind.shows is not None:
            upright = kind.size == (WIDTH, HEIGHT)
            sides = (HEIGHT, WIDTH) if upright else kind.size
            wanted = kind.shows(pictures(kind.frames, *sides))
            assert min(map(psnr, frames, wanted)) > kind.psnr
        table("faults", kind=kind.name, found_by="prepare", outcome=f"used: {kind.frames} frames")

    def test_the_same_command_again_believes_its_report(self, prepared):
        """Whatever the names in it: not a file is opened, or the decoder that hangs would be waited for."""
        again = prepare(prepared.videos, prepared.out, CONFIG, progress=False)
        assert (again.prepared, again.failed) == (0, prepared.report.failed)
        assert again.seconds < 2

    def test_the_folder_itself_lists_them_too(self, prepared):
        source = prepared.videos[0].path.parent
        unlisted = {kind.file for kind in KINDS if not os.path.lexists(source / kind.file[:255])}
        unlisted |= {"folder.mp4", "huge.gif", "picture.gif", "camera.m2ts"}  # other names, or no file
        assert {video.name for video in list_videos(source)} == {kind.file for kind in KINDS} - unlisted

    def test_the_rest_is_trained_on(self, prepared, tmp_path):
        used = len(KINDS) - len(prepared.report.failed)
        settings = tiny_run(prepared.out, tmp_path / "run", "local_aggregation.steps=14")
        job = Trainer(parse_config([], settings))
        before = job.method.bank.embeddings.clone()
        job.train()
        losses = [row["loss"] for row in read_history(job.run) if "loss" in row]
        assert len(losses) == job.step == 18 >= used // BATCH
        assert np.isfinite(losses).all()
        assert not (job.run / FAILURES_NAME).exists()
        seen = np.unique(np.concatenate([batch_instances(0, step, used, BATCH) for step in range(job.step)]))
        assert len(seen) == used
        assert (job.method.bank.embeddings != before).any(dim=1).all()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_without_permission_is_named(tmp_path, table):
    healthy(tmp_path / "in/healthy.mp4")
    healthy(tmp_path / "in/locked.mp4").chmod(0)
    report = prepare(list_videos(tmp_path / "in"), tmp_path / "out", CONFIG, progress=False)
    assert report.failed.keys() == {"locked.mp4"}
    assert "Permission denied" in report.failed["locked.mp4"]
    table("faults", kind="no permission", found_by="prepare", outcome=f"refused: {report.failed['locked.mp4']}")


@pytest.mark.parametrize("again", ["a.mp4", "./a.mp4", "b/../a.mp4"])
def test_a_name_listed_twice_is_refused(tmp_path, again, table):
    (tmp_path / "listing.csv").write_text(f"path\na.mp4\nb.mp4\n{again}\n")
    with pytest.raises(VieError, match=r"listing\.csv: a\.mp4 is listed twice") as caught:
        list_videos(tmp_path / "listing.csv")
    assert "\n" not in str(caught.value)
    outcome = f"refused: {str(caught.value).removeprefix(f'{tmp_path}/')}"
    table("faults", kind=f"listed twice, as a.mp4 and {again}", found_by="listing", outcome=outcome)


def write_frames(folder: Path, video: int, *frames: bytes) -> None:
    """Overwrites the frames of a video; what is left of each is filled up with zeros."""
    place = Shards(folder).locate(video, range(len(frames)))
    with place.path.open("r+b") as file:
        for frame, offset, length in zip(frames, place.offsets.tolist(), place.lengths.tolist(), strict=True):
            file.seek(offset)
            file.write(frame[:length].ljust(length, b"\0"))


def all_frames(folder: Path, video: int, change: Callable[[Tensor], bytes]) -> None:
    shards = Shards(folder)
    write_frames(folder, video, *(change(frame) for frame in shards.read(video, range(shards.num_frames[video]))))


def small_jpeg(frame: Tensor) -> bytes:
    return encode_jpeg(frame[:8, :8].permute(2, 0, 1).contiguous(), 50).numpy().tobytes()


def bad_frames(folder: Path) -> dict[int, str]:
    all_frames(folder, 5, lambda frame: BROKEN * 10**5)
    all_frames(folder, 30, lambda frame: b"")
    all_frames(folder, 7, small_jpeg)
    whole = Shards(folder)
    place = whole.locate(12, range(whole.num_frames[12]))
    data = place.path.read_bytes()
    halves = [data[a : a + n // 2] for a, n in zip(place.offsets.tolist(), place.lengths.tolist(), strict=True)]
    write_frames(folder, 12, *halves)
    all_frames(folder, 50, lambda frame: b"")  # held out: left out of the tests
    return {
        5: "frames overwritten with a pattern",
        30: "frames overwritten with zeros",
        7: "frames of another size",
        12: "frames of which the second half is lost",
    }


def bad_rows(folder: Path) -> dict[int, str]:
    shards, table = Shards(folder), pq.read_table(folder / "index.parquet")
    offsets, lengths, heights = (table[column].to_pylist() for column in ("offset", "frame_bytes", "height"))
    offsets[9] += 10**9
    offsets[10] = 2**63 - 1
    offsets[20] += 1
    lengths[3] = [lengths[3][0] - 9, *lengths[3][1:-1], lengths[3][-1] + 9]
    lengths[4] = [2**31 - 1] * len(lengths[4])
    lengths[11] = [0] * len(lengths[11])
    heights[13] = 4096
    rewrite_index(folder, {"offset": offsets, "frame_bytes": lengths, "height": heights})
    assert len(shards) == len(Shards(folder))
    return {
        9: "index: begins beyond the shard's end",
        10: "index: begins at byte 2^63 - 1",
        20: "index: begins one byte late",
        3: "index: wrong lengths of frames",
        4: "index: frames of 2 GiB",
        11: "index: frames without bytes",
        13: "index: frames of 4096 rows",
    }


def cut_shard(folder: Path) -> dict[int, str]:
    place = Shards(folder).locate(36, [0])
    with place.path.open("r+b") as file:
        file.truncate(int(place.offsets[0]) + 100)
    return dict.fromkeys(range(36, 48), "shard cut in the middle")


def replaced_shard(folder: Path, name: str, replace: Callable[[Path], object]) -> dict[int, str]:
    shard = folder / "shard-000001.tar"
    shard.unlink()
    replace(shard)
    return dict.fromkeys(range(24, 48), name)


DAMAGE: dict[str, Callable[[Path], dict[int, str]]] = {
    "frames": bad_frames,
    "index": bad_rows,
    "cut": cut_shard,
    "missing": lambda folder: replaced_shard(folder, "shard missing", lambda path: None),
    "pipe": lambda folder: replaced_shard(folder, "shard that is a named pipe", os.mkfifo),
    "folder": lambda folder: replaced_shard(folder, "shard that is a folder", Path.mkdir),
}
REASONS = {
    5: "cannot be read",
    7: r"a picture is \(8, 8\), not \(24, 28\) as the index says",
    9: r"the file ends \d+ bytes early",
    4: r"the file ends \d+ bytes early",
    13: r"a picture is \(24, 28\), not \(4096, 28\) as the index says",
}


@pytest.mark.parametrize(
    ("damage", "settings"),
    [
        *((name, ()) for name in DAMAGE),
        ("frames", ("data.cache=device",)),
        ("cut", ("data.cache=device",)),
        ("cut", ("data.workers=2",)),
    ],
    ids=lambda value: "+".join(value) or "plain" if isinstance(value, tuple) else value,
)
def test_damage_after_preparation(tiny_corpus, tmp_path, monkeypatch, damage, settings, table):
    folder = shutil.copytree(tiny_corpus, tmp_path / "corpus")
    bad = DAMAGE[damage](folder)
    steps: list[tuple[Tensor, Tensor]] = []
    end_step = Objective.end_step

    def watched(self: Objective, embedding: Tensor, instances: Tensor) -> None:
        steps.append((embedding.detach().clone(), instances.clone()))
        end_step(self, embedding, instances)

    monkeypatch.setattr(Objective, "end_step", watched)
    job = Trainer(parse_config([], tiny_run(folder, tmp_path / "run", *settings)))
    job.train()
    assert job.step == STEPS

    names = Shards(tiny_corpus).names
    rows = [(int(step), int(instance), name, reason) for step, instance, name, reason in read_failures(job.run)]
    shown = [set(batch_instances(0, step, TRAINED, BATCH).tolist()) for step in range(STEPS)]
    wanted = [(step, instance) for step in range(STEPS) for instance in shown[step] & bad.keys()]
    assert sorted(row[:2] for row in rows) == sorted(wanted)
    assert {instance for _, instance, *_ in rows} == bad.keys()
    shards = Shards(folder)
    for _, instance, name, reason in rows:
        assert name == names[instance]
        assert reason.startswith(f"{name}: its frames in {shards.locate(instance, [0]).path} cannot be read (")
        if damage in ("frames", "index"):
            assert re.search(REASONS.get(instance, ""), reason)
        assert "\n" not in reason

    fresh = MemoryBank(TRAINED, 16, seed=0).embeddings
    untouched = (job.method.bank.embeddings == fresh).all(dim=1)
    assert untouched.nonzero().flatten().tolist() == sorted(bad)

    embedding, instances = steps[0]
    counted = instances >= 0
    assert set(instances[counted].tolist()) == shown[0] - bad.keys()
    assert counted.sum() < BATCH, "no clip of the first step is bad: the test proves nothing of the loss"
    similarity = embedding[counted].double() @ fresh.double().T / job.config.bank.temperature
    own = similarity.gather(1, instances[counted][:, None])[:, 0]
    loss = next(row["loss"] for row in read_history(job.run) if "loss" in row)
    assert loss == pytest.approx((similarity.logsumexp(dim=1) - own).mean().item(), rel=1e-5)

    if not settings:
        found_by = {"index": "training (index)"}.get(damage, "training")
        for instance in {kind: instance for instance, kind in bad.items()}.values():
            reason = next(row[3] for row in rows if row[1] == instance)
            short = re.sub(r"^.*cannot be read \((.*)\): prepare.*$", r"\1", reason).replace(str(folder), "…")
            count = sum(kind == bad[instance] for kind in bad.values())
            table("faults", kind=bad[instance], found_by=found_by, outcome=f"left out, {count} of 48: {short}")


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.place),)


@pytest.mark.parametrize("cache", ["none", "device"])
def test_nothing_that_lies_in_a_corpus_is_unpacked_or_unpickled(tiny_corpus, tmp_path, cache, table):
    folder = shutil.copytree(tiny_corpus, tmp_path / "corpus")
    bomb = pickle.dumps(Bomb(tmp_path / "gone off"))
    with tarfile.open(folder / "shard-000000.tar", "a") as tar:
        for name in ("../escaped", "/tmp/vie-escaped", "000000.pyd", "000000.pickle", "000000.pth"):
            member = tarfile.TarInfo(name)
            member.size = len(bomb)
            tar.addfile(member, io.BytesIO(bomb))
    for name in ("index.pkl", "index.pickle", "dataset.pkl", "checkpoint.pt", "shard-000000.pyd"):
        (folder / name).write_bytes(bomb)
    index = pq.read_table(folder / "index.parquet")
    carrier = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": bomb}
    field = pa.field("extra", pa.int64(), metadata=carrier)
    metadata = {b"pandas": bomb, b"vie": bomb}
    index = index.append_column(field, pa.array(range(len(index)))).replace_schema_metadata(metadata)
    pq.write_table(index, folder / "index.parquet")
    before = sorted(path.name for path in folder.iterdir())

    job = Trainer(parse_config([], tiny_run(folder, tmp_path / "run", f"data.cache={cache}")))
    job.train()
    assert job.step == STEPS
    assert not read_failures(job.run)
    assert (job.method.bank.embeddings != MemoryBank(TRAINED, 16, seed=0).embeddings).any(dim=1).all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "run"]
    assert sorted(path.name for path in folder.iterdir()) == before
    assert not Path("/tmp/vie-escaped").exists()
    assert pickle.loads(bomb) is None  # it was live
    assert (tmp_path / "gone off").exists()
    if cache == "none":
        for kind in ("members `../x` and `/x` in a shard", "pickles beside and in the index and in a shard"):
            table("faults", kind=kind, found_by="training", outcome="used: never unpacked, never loaded")


def first_changed(column: str, value: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        values = pq.read_table(folder / "index.parquet")[column].to_pylist()
        rewrite_index(folder, {column: [value, *values[1:]]})

    return change


def only_part(folder: Path) -> None:
    index = folder / "index.parquet"
    index.write_bytes(index.read_bytes()[:-100])


def replaced_index(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "index.parquet").unlink()
        make(folder / "index.parquet")

    return change


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "index cut": (only_part, r"index\.parquet: damaged"),
    "index of text": (replaced_index(lambda path: path.write_text("a,b\n" * 100)), r"index\.parquet: damaged"),
    "index that is a pickle": (replaced_index(lambda path: path.write_bytes(pickle.dumps(1))), r"index\.parquet: dam"),
    "index missing": (replaced_index(lambda path: None), r"index\.parquet is missing"),
    "index that is a named pipe": (replaced_index(os.mkfifo), r"index\.parquet is missing"),
    "index without a column": (lambda folder: rewrite_index(folder, {}, ["offset"]), "no column `offset`"),
    "index that names `../x.tar`": (first_changed("shard", "../x.tar"), "not a file in the corpus: do not trust"),
    "index that names `/etc/passwd`": (first_changed("shard", "/etc/passwd"), "not a file in the corpus: do not trust"),
    "index with an offset of -1": (first_changed("offset", -1), "negative value -1"),
    "index with a frame of -1 bytes": (first_changed("frame_bytes", [-1, 2]), "negative value -1"),
    "index with a video without frames": (first_changed("frame_bytes", []), "has no frames"),
    "index with a frame rate of 0": (first_changed("fps", 0.0), "has no frame rate above 0"),
    "index with a frame rate that is no number": (first_changed("fps", float("nan")), "has no frame rate above 0"),
    "index with a height of 0": (first_changed("height", 0), "height"),
    "index with a width of -5": (first_changed("width", -5), "width"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_an_index_that_cannot_be_relied_on_is_refused_at_the_start(tiny_corpus, tmp_path, kind, table):
    folder = shutil.copytree(tiny_corpus, tmp_path / "corpus")
    change, message = REFUSED[kind]
    change(folder)
    with pytest.raises(VieError, match=message) as caught:
        Trainer(parse_config([], tiny_run(folder, tmp_path / "run")))
    told = str(caught.value)
    assert "\n" not in told
    assert told.startswith(str(folder))
    assert "index.parquet" in told
    assert not (tmp_path / "run").exists()
    table("faults", kind=kind, found_by="index", outcome=f"refused: {told.replace(str(folder), '…')}")


def test_a_corpus_without_its_shards_is_refused_in_one_line(tiny_corpus, tmp_path, table):
    folder = shutil.copytree(tiny_corpus, tmp_path / "corpus")
    for shard in folder.glob("*.tar"):
        shard.unlink()
    with pytest.raises(VieError, match="can be read") as caught:
        Trainer(parse_config([], tiny_run(folder, tmp_path / "run"))).train()
    assert "\n" not in str(caught.value)
    table("faults", kind="all shards missing", found_by="training", outcome=f"refused: {caught.value}")


def test_writing_them_leaves_this_process_its_priority():
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
