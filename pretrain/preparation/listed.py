"""What all kinds of listings have in common: a video, the words for its split, the text."""

import csv
import io
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from vie.errors import VieError

SPLITS = {"train": "train", "val": "val", "validate": "val", "validation": "val", "valid": "val", "test": "test"}
Row = dict[str, str]
"""One line of a CSV, by column."""

LABEL = "label"  # the label column of listings that have only one, nameless


@dataclass(frozen=True)
class Video:
    """One video of a corpus; a picture is a video of one frame.

    Attributes:
        name: Path relative to the corpus, with forward slashes; unique within it.
        path: Where the file is, or should be.
        split: ``train``, ``val``, ``test`` or the source's own word.
        labels: Class name by label column; a column without a label for this video is left out.
        splits: Its split by the name of the way to split, for a corpus with several; ``split`` is the usual one.
    """

    name: str
    path: Path
    split: str
    labels: dict[str, str] = field(default_factory=dict)
    splits: dict[str, str] = field(default_factory=dict)


def split_word(word: str) -> str:
    """The usual word for a split; one that is not known stays as it is."""
    return SPLITS.get(word.lower(), word)


def held_out(name: str, fraction: float) -> str:
    """``val`` for about a share ``fraction`` of all names, by a hash of the name, and ``train`` for the others."""
    share = int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big") / 2**64
    return "val" if share < fraction else "train"


def read_csv(source: Path) -> tuple[list[str], list[Row]]:
    """The columns of a CSV, and its rows with what is missing as empty; raises ``VieError`` where it is none."""
    reader = csv.DictReader(io.StringIO(read_text(source), newline=""), skipinitialspace=True)
    try:
        rows = [{key: (value or "").strip() for key, value in row.items() if key} for row in reader]
    except (csv.Error, AttributeError) as error:
        raise VieError(f"{source}: not a readable CSV ({error}): save it as comma-separated UTF-8") from error
    return [column for column in reader.fieldnames or [] if column], rows


def read_text(source: Path) -> str:
    """Reads a listing; raises ``VieError`` where it cannot be read or is not UTF-8."""
    try:
        return source.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise VieError(f"{source}: not UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8") from error
    except OSError as error:
        raise VieError(f"{source}: cannot be read ({error.strerror}): check the file and its permissions") from error
