"""Videos through the worker pool of one machine into shards."""

from collections.abc import Generator, Sequence
from contextlib import closing

from pretrain.preparation.listed import Video
from pretrain.preparation.shard_writer import ShardWriter, SourceKey
from pretrain.preparation.worker_pool import Job, transcode_all

Work = Sequence[tuple[Video, SourceKey]]
Outcomes = Generator[tuple[Video, SourceKey, str], None, None]


def store(work: Work, job: Job, writer: ShardWriter) -> Outcomes:
    """Transcodes videos and writes them, in order.

    Yields:
        Each video, the state of its file, and the reason why it is left out; empty where it was given to ``writer``.

    Raises:
        VieError: Worker processes cannot start.
    """
    with closing(transcode_all([video for video, _ in work], job)) as results:
        for (video, key), result in zip(work, results, strict=True):
            if isinstance(result, str):
                yield video, key, result
            else:
                writer.add(video, key, result)
                yield video, key, ""
