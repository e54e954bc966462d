import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from pretrain import evaluate
from pretrain.clips import EvalClips as EvaluationClips
from pretrain.clips import TrainBatch, TrainClips, workers_for
from pretrain.prefetch import stream
from pretrain.readers import DeviceReader, ShardReader
from pretrain.runtime import autocast_to
from vie import Sampling, VieError, create_model
from vie.video import Augmentation, Draw, Shards, augment, clip_frames

SAMPLING = Sampling(frames=3, stride=2, fps=25.0, size=16)
CPU = torch.device("cpu")


def train_clips(corpus: Path, reader: type[ShardReader] | type[DeviceReader] = ShardReader, **settings) -> TrainClips:
    shards = Shards(corpus)
    videos = shards.split("train")
    made = ShardReader(shards) if reader is ShardReader else DeviceReader(shards, videos, CPU)
    arguments = {"batch_size": 8, "seed": 3, "steps": 20, **settings}
    return TrainClips(shards, videos, made, SAMPLING, Augmentation(), **arguments)


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
    clips = TrainClips(shards, videos, ShardReader(shards), SAMPLING, Augmentation(), batch_size=8, seed=0, steps=1)
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
    helped = DeviceReader(plain.shards, plain.videos, CPU, workers=2)
    wanted = plain.videos, np.tile([9, 0, 9], (48, 1)), np.zeros((48, 4), dtype=np.float32)
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
    with pytest.raises(VieError, match="none of 8 clips can be read") as caught:
        list(stream(train_clips(folder), range(2), workers, pin_memory=False))
    assert "\n" not in str(caught.value)


class TestEvaluationClips:
    def test_clips_are_evenly_spread(self, mixed_corpus):
        clips = evaluation_clips(mixed_corpus, clips=3)
        batches = [clips[number] for number in range(len(clips))]
        assert [len(batch.frames) for batch in batches] == [7, 7, 7, 3]
        np.testing.assert_array_equal(np.concatenate([batch.positions for batch in batches]), np.repeat(range(8), 3))
        for batch, again in zip(batches, stream(clips, range(len(clips)), 2, pin_memory=False), strict=True):
            assert torch.equal(batch.frames, again.frames)
            np.testing.assert_array_equal(batch.boxes, again.boxes)

    def extract(self, corpus: Path, batch_size: int) -> evaluate.Features:
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
