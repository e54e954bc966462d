"""The source videos of a measurement, and the readers of them that are installed."""

from pathlib import Path

from benchmarks.speed.record import Job, Table
from benchmarks.speed.synthetic import write_synthetic
from pretrain.preparation.inputs import Video, list_videos
from vie.errors import VieError
from vie.video.source import require_decoder


def source_videos(job: Job, folder: Path, most: int, synthetic: int) -> list[Video]:
    """The first videos of those that the job names, or synthetic ones, written below ``folder``."""
    if job.videos:
        return list_videos(job.videos)[:most]
    return list_videos(write_synthetic(folder / "source", 2 if job.quick else synthetic))


def has_pytorchvideo(table: Table) -> bool:
    """Whether PyTorchVideo's loader can be imported; the table says so if not."""
    try:
        import pytorchvideo.data.encoded_video  # noqa: F401
    except ImportError as error:
        table.skip("PyTorchVideo", error)
        return False
    return True


def has_decoder(table: Table, decoder: str) -> bool:
    """Whether a decoder can be used; the table says so if not."""
    try:
        require_decoder(decoder)
    except VieError as error:
        table.skip(decoder, error)
        return False
    return True
