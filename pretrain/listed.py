"""One video of a corpus, as every kind of listing names it."""

from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

SPLITS = {"train": "train", "val": "val", "validate": "val", "validation": "val", "valid": "val", "test": "test"}
LABEL = "label"  # the label column of listings that have only one, nameless


@dataclass(frozen=True)
class Video:
    """One video of a corpus; a picture is a video of one frame.

    Attributes:
        name: Path relative to the corpus, with forward slashes; unique within it.
        path: Where the file is, or should be.
        split: ``train``, ``val``, ``test`` or the source's own word.
        labels: Class name by label column; a column without a label for this video is left out.
    """

    name: str
    path: Path
    split: str
    labels: dict[str, str] = field(default_factory=dict)


def split_word(word: str) -> str:
    """The usual word for a split; one that is not known stays as it is."""
    return SPLITS.get(word.lower(), word)


def held_out(name: str, fraction: float) -> str:
    """``val`` for about a share ``fraction`` of all names, by a hash of the name, and ``train`` for the others."""
    share = int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big") / 2**64
    return "val" if share < fraction else "train"
