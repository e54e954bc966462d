import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from pretrain import evaluate
from pretrain.data.clips import EvalClips as EvaluationClips
from pretrain.data.clips import TrainBatch, TrainClips, workers_for
from pretrain.data.instances import whole_videos
from pretrain.data.prefetch import stream
from pretrain.data.readers import DeviceReader, Pixels, ShardReader
from pretrain.data.room import Room, fresh
from pretrain.runtime import autocast_to
from vie import Sampling, create_model
from vie.bank import PADDING
from vie.video import Augmentation, Draw, Shards, augment, clip_frames, draw

SAMPLING = Sampling(frames=3, stride=2, fps=25.0, size=16)
CPU = torch.device("cpu")


def train_clips(corpus: Path, reader: type[ShardReader] | type[DeviceReader] = ShardReader, **settings) -> TrainClips:
    shards = Shards(corpus)
    videos = shards.split("train")
    made = ShardReader(shards) if reader is ShardReader else DeviceReader(shards, videos, CPU)
    arguments = {"batch_size": 8, "seed": 3, "steps": 20, **settings}
    return TrainClips(shards, whole_videos(shards, videos), made, SAMPLING, Augmentation(), **arguments)


def evaluation_clips(corpus: Path, clips: int = 2, batch_size: int = 7) -> EvaluationClips:
    shards = Shards(corpus)
    return EvaluationClips(
        shards, shards.split("val"), ShardReader(shards), SAMPLING, clips=clips, batch_size=batch_size
    )


def damaged(corpus: Path, folder: Path, *videos: int) -> Path:
    """A copy of a corpus in which the frames of some videos are overwritten."""
    shutil.copytree(corpus, folder)
    shards = Shards(folder)
    for video in videos:
        place = shards.locate(video, range(shards.num_frames[video]))
        with place.path.open("r+b") as file:
            file.seek(int(place.offsets[0]))
            file.write(b"\x55" * int(place.lengths.sum()))
    return folder


def assert_equal(one: TrainBatch, other: TrainBatch) -> None:
    np.testing.assert_array_equal(one.instances, other.instances)
    np.testing.assert_array_equal(one.boxes, other.boxes)
    assert torch.equal(one.frames, other.frames)
    for field in fields(Draw):
        np.testing.assert_array_equal(getattr(one.drawn, field.name), getattr(other.drawn, field.name))
    assert one.failures == other.failures


@pytest.mark.parametrize("fixture", ["tiny_corpus", "mixed_corpus"])
def test_a_step_is_the_same_with_any_number_of_workers_and_from_any_start(fixture, request):
    clips = train_clips(request.getfixturevalue(fixture))
    wanted = [clips[step] for step in range(9)]
    for workers, start in ((0, 0), (0, 4), (2, 0), (2, 4)):
        batches = list(stream(clips, range(start, 9), workers, pin_memory=False))
        assert len(batches) == 9 - start
        for batch, expected in zip(batches, wanted[start:], strict=True):
            assert_equal(batch, expected)


def test_steps_of_an_epoch_show_all_videos_once(tiny_corpus):
    clips = train_clips(tiny_corpus)
    assert len(clips) == 20
    assert clips.steps_per_epoch == 6
    first, second = (np.concatenate([clips[6 * epoch + step].instances for step in range(6)]) for epoch in range(2))
    np.testing.assert_array_equal(np.sort(first), np.arange(48))
    np.testing.assert_array_equal(np.sort(second), np.arange(48))
    assert (first != second).any()


def test_an_instance_is_seen_anew_in_each_epoch(tiny_corpus):
    clips = train_clips(tiny_corpus)
    seen = {
        int(instance): (batch.drawn.position[place], batch.boxes[place].tolist())
        for batch in (clips[step] for step in range(6))
        for place, instance in enumerate(batch.instances)
    }
    for batch in (clips[step] for step in range(6, 12)):
        for place, instance in enumerate(batch.instances):
            assert seen[int(instance)][0] != batch.drawn.position[place]


def test_instances_are_rows_of_the_split(tiny_corpus):
    """Instance i shows video i of the split, whichever rows of the corpus these are."""
    shards = Shards(tiny_corpus)
    videos = np.array([60, 3, 17, 9, 44, 50, 21, 2])
    instances, reader = whole_videos(shards, videos), ShardReader(shards)
    clips = TrainClips(shards, instances, reader, SAMPLING, Augmentation(), batch_size=8, seed=0, steps=1)
    batch = clips[0]
    whole = augment(batch.frames, batch.drawn, 16, batch.boxes)
    reader = DeviceReader(shards, np.arange(len(shards)), CPU)
    for place, instance in enumerate(batch.instances):
        video = videos[instance][None]
        drawn = batch.drawn.take(np.array([place]))
        frames = clip_frames(SAMPLING, shards.num_frames[video], shards.fps[video], drawn.position)
        pixels = reader.read(video, frames, drawn.boxes)
        torch.testing.assert_close(augment(pixels.frames, drawn, 16)[0], whole[place], atol=1e-4, rtol=0)


def test_cached_corpus_gives_the_same_clips(tiny_corpus):
    plain, cached = train_clips(tiny_corpus), train_clips(tiny_corpus, DeviceReader)
    for step in (0, 7):
        one, other = plain[step], cached[step]
        np.testing.assert_array_equal(one.instances, other.instances)
        pictures = (augment(batch.frames, batch.drawn, 16, batch.boxes) for batch in (one, other))
        torch.testing.assert_close(*pictures, atol=1e-4, rtol=0)
    helped = DeviceReader(plain.shards, plain.instances.videos, CPU, workers=2)
    wanted = plain.instances.videos, np.tile([9, 0, 9], (48, 1)), np.zeros((48, 4), dtype=np.float32)
    assert torch.equal(helped.read(*wanted).frames, cached.reader.read(*wanted).frames)
    assert workers_for(cached.reader, 4) == 0
    assert workers_for(plain.reader, 4) == 4


@pytest.mark.parametrize("reader", [ShardReader, DeviceReader])
def test_damaged_videos_are_left_out_and_named(tiny_corpus, tmp_path, reader):
    whole = train_clips(tiny_corpus, reader)
    part = train_clips(damaged(tiny_corpus, tmp_path / "corpus", 5, 30), reader)
    missed = []
    for step in range(6):
        expected, batch = whole[step], part[step]
        kept = np.flatnonzero(~np.isin(expected.instances, [5, 30]))
        np.testing.assert_array_equal(batch.instances, expected.instances[kept])
        assert len(batch.frames) == len(batch.boxes) == len(kept)
        pictures = augment(batch.frames, batch.drawn, 16, batch.boxes)
        wanted = augment(expected.frames, expected.drawn, 16, expected.boxes)[kept]
        torch.testing.assert_close(pictures, wanted, atol=1e-4, rtol=0)
        for instance, reason in batch.failures.items():
            assert part.shards.names[instance] in reason
            assert "\n" not in reason
            missed.append(instance)
    assert sorted(missed) == [5, 30]


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_lost_shard(tiny_corpus, tmp_path, damage):
    folder = shutil.copytree(tiny_corpus, tmp_path / "corpus")
    shard = folder / "shard-000001.tar"  # videos 24 to 47
    if damage == "missing":
        shard.unlink()
    else:
        with shard.open("r+b") as file:
            file.truncate(4096)
    clips = train_clips(folder)
    batches = [clips[step] for step in range(6)]
    assert sorted(instance for batch in batches for instance in batch.failures) == list(range(24, 48))
    assert sorted(instance for batch in batches for instance in batch.instances.tolist()) == list(range(24))
    assert all(shard.name in reason for batch in batches for reason in batch.failures.values())


@pytest.mark.parametrize("workers", [0, 2])
def test_nothing_can_be_read(tiny_corpus, tmp_path, workers):
    folder = shutil.copytree(tiny_corpus, tmp_path / "corpus")
    for shard in folder.glob("*.tar"):
        shard.unlink()
    for batch in stream(train_clips(folder), range(2), workers, pin_memory=False):
        assert batch.is_empty
        assert batch.instances.tolist() == [PADDING]
        assert len(batch.failures) == 8
        assert not batch.frames.any()
        assert not any("\n" in reason for reason in batch.failures.values())


class Faulty:
    """A reader that cannot read the clips at some positions of a batch."""

    def __init__(self, shards: Shards, *positions: int) -> None:
        self.inner = ShardReader(shards)
        self.failures = {position: f"clip {position} is gone" for position in positions}

    def read(self, videos: np.ndarray, frames: np.ndarray, boxes: np.ndarray, room: Room = fresh) -> Pixels:
        pixels = self.inner.read(videos, frames, boxes, room)
        kept = np.setdiff1d(np.arange(len(videos)), list(self.failures))
        return Pixels(pixels.frames[kept], pixels.boxes[kept], kept, self.failures)


class TestViews:
    @pytest.mark.parametrize("fixture", ["tiny_corpus", "mixed_corpus"])
    def test_the_first_views_are_those_of_a_batch_with_one(self, fixture, request):
        corpus = request.getfixturevalue(fixture)
        one, two = train_clips(corpus), train_clips(corpus, views=2)
        for step in (0, 7):
            single, double = one[step], two[step]
            np.testing.assert_array_equal(double.instances, single.instances)
            assert len(double.frames) == len(double.boxes) == len(double.drawn.position) == 16
            first, second = (np.arange(8) + 8 * view for view in range(2))
            for field in fields(Draw):
                np.testing.assert_array_equal(
                    getattr(double.drawn.take(first), field.name), getattr(single.drawn, field.name)
                )
            pictures = augment(double.frames, double.drawn, 16, double.boxes)
            wanted = augment(single.frames, single.drawn, 16, single.boxes)
            torch.testing.assert_close(pictures[first], wanted, atol=1e-4, rtol=0)
            assert (double.drawn.position[second] != single.drawn.position).all()
            assert ((pictures[second] - wanted).abs().amax(dim=(1, 2, 3, 4)) > 0.1).all()

    def test_the_second_views_show_the_same_instances(self, mixed_corpus):
        """Read one by one, from their draws."""
        clips = train_clips(mixed_corpus, views=2)
        batch = clips[3]
        pictures = augment(batch.frames, batch.drawn, 16, batch.boxes)
        shards = clips.shards
        for place, instance in enumerate(batch.instances):
            video = np.array([instance])
            drawn = draw(
                Augmentation(),
                16,
                shards.height[video],
                shards.width[video],
                seed=3,
                epoch=1,
                instances=video,
                view=1,
            )
            frames = clip_frames(SAMPLING, shards.num_frames[video], shards.fps[video], drawn.position)
            wanted = augment(shards.read(int(instance), frames[0])[None], drawn, 16)[0]
            torch.testing.assert_close(pictures[8 + place], wanted, atol=1e-4, rtol=0)

    @pytest.mark.parametrize("gone", [(2,), (13,), (2, 10), (2, 13)])
    def test_an_instance_is_left_out_whole(self, tiny_corpus, gone):
        whole, clips = train_clips(tiny_corpus, views=2), train_clips(tiny_corpus, views=2)
        clips.reader = Faulty(clips.shards, *gone)
        expected, batch = whole[4], clips[4]
        missed = sorted({position % 8 for position in gone})
        kept = np.setdiff1d(np.arange(8), missed)
        np.testing.assert_array_equal(batch.instances, expected.instances[kept])
        assert sorted(batch.failures) == sorted(expected.instances[missed].tolist())
        chosen = np.concatenate([kept, 8 + kept])
        np.testing.assert_array_equal(batch.boxes, expected.boxes[chosen])
        assert torch.equal(batch.frames, expected.frames[chosen])
        np.testing.assert_array_equal(batch.drawn.position, expected.drawn.position[chosen])

    @pytest.mark.parametrize("reader", [ShardReader, DeviceReader])
    def test_damaged_videos(self, tiny_corpus, tmp_path, reader):
        clips = train_clips(damaged(tiny_corpus, tmp_path / "corpus", 5, 30), reader, views=2)
        batches = [clips[step] for step in range(6)]
        assert sorted(instance for batch in batches for instance in batch.failures) == [5, 30]
        for batch in batches:
            assert len(batch.frames) == len(batch.boxes) == 2 * len(batch.instances)
            assert len(batch.instances) + len(batch.failures) == 8

    def test_no_instance_with_both_views(self, tiny_corpus):
        clips = train_clips(tiny_corpus, views=2)
        clips.reader = Faulty(clips.shards, 0, 1, 2, 3, 12, 13, 14, 15)
        assert clips[0].is_empty
        assert len(clips[0].failures) == 8
        assert len(clips[0].frames) == len(clips[0].boxes) == 2


class TestEvaluationClips:
    def test_clips_are_evenly_spread(self, mixed_corpus):
        clips = evaluation_clips(mixed_corpus, clips=3)
        batches = [clips[number] for number in range(len(clips))]
        assert [len(batch.frames) for batch in batches] == [7, 7, 7, 3]
        np.testing.assert_array_equal(np.concatenate([batch.positions for batch in batches]), np.repeat(range(8), 3))
        for batch, again in zip(batches, stream(clips, range(len(clips)), 2, pin_memory=False), strict=True):
            assert torch.equal(batch.frames, again.frames)
            np.testing.assert_array_equal(batch.boxes, again.boxes)

    def extract(self, corpus: Path, batch_size: int) -> evaluate.ClipFeatures:
        torch.manual_seed(0)
        model = create_model("vie_single_r18", width=4, embed_dim=8).train()
        clips = evaluation_clips(corpus, batch_size=batch_size)
        features = evaluate.extract(model, clips, CPU, autocast_to("fp32", CPU), workers=0)
        assert model.training
        return features

    def test_features_do_not_depend_on_the_batches(self, tiny_corpus):
        one, other = self.extract(tiny_corpus, 7), self.extract(tiny_corpus, 64)
        torch.testing.assert_close(one.pooled, other.pooled)
        torch.testing.assert_close(one.clip_embeddings, other.clip_embeddings)
        assert one.videos.tolist() == list(range(48, 64))
        assert one.clip_positions.tolist() == other.clip_positions.tolist() == np.repeat(range(16), 2).tolist()

    @pytest.mark.parametrize("batch_size", [64, 2])
    def test_damaged_video_is_left_out(self, tiny_corpus, tmp_path, batch_size):
        """Also where it fills a batch of its own."""
        whole = self.extract(tiny_corpus, batch_size)
        part = self.extract(damaged(tiny_corpus, tmp_path / "corpus", 51), batch_size)
        others = [place for place, video in enumerate(whole.videos.tolist()) if video != 51]
        assert part.videos.tolist() == whole.videos[others].tolist()
        torch.testing.assert_close(part.pooled, whole.pooled[others])
        assert part.clip_positions.tolist() == np.repeat(range(15), 2).tolist()
