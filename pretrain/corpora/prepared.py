"""A corpus that is computed, straight into the shards that training reads; no video encoder is needed."""

from collections.abc import Sequence
from pathlib import Path

from pretrain.corpora.writing import Chunk, Rendered, in_chunks
from pretrain.preparation.corpus_folder import FORMAT, write_corpus
from pretrain.preparation.frames import Transcoded, encode_frames
from pretrain.preparation.listed import Video
from pretrain.preparation.shard_writer import SHARD_VIDEOS, ShardWriter, SourceKey

QUALITY = 90


def write_prepared(folder: Path, kind: str, chunks: Sequence[Chunk], fps: int, size: int, workers: int | None) -> None:
    """Writes the corpus that ``prepare`` makes of such videos, except that its frames were encoded only once.

    Args:
        folder: An empty folder.
        kind: What the progress bar says.
        chunks: The videos, some at a time.
        fps: Frames per second.
        size: Height and width of the frames, in pixels.
        workers: Processes; as many as there are processors where left out.
    """
    settings: dict[str, object] = {"format": FORMAT, "short_side": size, "quality": QUALITY}
    videos: list[Video] = []
    keys: list[SourceKey] = []

    def encode(video: Rendered) -> tuple[Video, Transcoded]:
        listed = Video(video.name, folder / video.name, video.split, video.labels)
        return listed, encode_frames(fps, [video.frames], size, QUALITY)

    with ShardWriter(folder, SHARD_VIDEOS, settings, on_finish=lambda: None) as writer:
        for video, stored in in_chunks(kind, chunks, encode, workers):
            videos.append(video)
            keys.append(SourceKey(video.name, -1, -1))  # there is no source file
            writer.add(video, keys[-1], stored)
    write_corpus(folder, videos, keys, writer.finished, settings)
