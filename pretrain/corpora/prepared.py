"""A corpus that is computed, straight into the shards that training reads; no video encoder is needed."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from pretrain.corpora.writing import Rendered, threads
from pretrain.corpus_folder import FORMAT, write_corpus
from pretrain.frames import Transcoded, encode_frames
from pretrain.listed import Video
from pretrain.shard_writer import SHARD_VIDEOS, ShardWriter, SourceKey

QUALITY = 90


def write_prepared(
    folder: Path, kind: str, total: int, chunks: Iterable[Sequence[Rendered]], fps: int, size: int, workers: int | None
) -> None:
    """Writes the corpus that ``prepare`` makes of such videos, except that its frames were encoded only once.

    Args:
        folder: An empty folder.
        kind: What the progress bar says.
        total: Number of videos.
        chunks: The videos, some at a time.
        fps: Frames per second.
        size: Height and width of the frames, in pixels.
        workers: Encoding threads; as many as there are processors where left out.
    """
    settings: dict[str, object] = {"format": FORMAT, "short_side": size, "quality": QUALITY}
    videos: list[Video] = []
    keys: list[SourceKey] = []

    def encode(video: Rendered) -> Transcoded:
        return encode_frames(fps, [video.frames], size, QUALITY)

    with (
        threads(kind, total, workers) as (pool, bar),
        ShardWriter(folder, SHARD_VIDEOS, settings, on_finish=lambda: None) as writer,
    ):
        for chunk in chunks:
            for video, stored in zip(chunk, pool.map(encode, chunk), strict=True):
                videos.append(Video(video.name, folder / video.name, video.split, video.labels))
                keys.append(SourceKey(video.name, -1, -1))  # there is no source file
                writer.add(videos[-1], keys[-1], stored)
            bar.update(len(chunk))
    write_corpus(folder, videos, keys, writer.finished, settings)
