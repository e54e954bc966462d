"""CIFAR-10 and CIFAR-100 as picture files, from the official binary version (Krizhevsky, 2009); no pickle is read.

A record is one byte for the class (CIFAR-100: one for the coarse class, one for the fine) and 3,072 for the pixels: a
plane of 32 x 32 for red, for green and for blue.
"""

import csv
import json
import os
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torchvision.io import write_png

from pretrain.corpora.writing import in_processes, write_once
from pretrain.preparation.listed import read_text
from vie.errors import VieError

LISTING_NAME = "pictures.csv"
PIXELS = (3, 32, 32)


@dataclass(frozen=True)
class _Version:
    """How the files of one of the two are called.

    Attributes:
        files: By split.
        classes: File of class names by label column, in the order of the label bytes.
        folder: The label column that names the folders.
    """

    files: dict[str, list[str]]
    classes: dict[str, str]
    folder: str


_VERSIONS = {
    "cifar10": _Version(
        {"train": [f"data_batch_{number}.bin" for number in range(1, 6)], "test": ["test_batch.bin"]},
        {"label": "batches.meta.txt"},
        "label",
    ),
    "cifar100": _Version(
        {"train": ["train.bin"], "test": ["test.bin"]},
        {"coarse": "coarse_label_names.txt", "label": "fine_label_names.txt"},
        "label",
    ),
}


def write_cifar(
    name: Literal["cifar10", "cifar100"],
    out: str | os.PathLike[str],
    source: str | os.PathLike[str],
    workers: int | None = None,
) -> Path:
    """Writes every picture as ``{train,test}/{class}/NNNNN.png``, numbered as in the source.

    A complete corpus of the same settings is left as it is.

    Args:
        name: Which of the two.
        out: Folder to create.
        source: Folder of the official binary version, unpacked.
        workers: Encoding processes; as many as there are processors where left out.

    Returns:
        The listing, ``pictures.csv``, with the columns path, label, split, and for CIFAR-100 also coarse.

    Raises:
        VieError: A file of the source is missing or damaged, or the folder holds something else or cannot be written.
    """
    version, folder, place = _VERSIONS[name], Path(source), Path(out)
    first = folder / version.files["train"][0]
    if first.with_suffix("").is_file() and not first.exists():
        raise VieError(
            f"{folder} holds the pickles of the Python version, as torchvision fetches them, and reading those would "
            "run code: give the folder of the unpacked binary version"
        )
    names = {column: _class_names(folder / file) for column, file in version.classes.items()}
    records = {split: _records(folder, files, names) for split, files in version.files.items()}

    def write(partial: Path) -> None:
        rows: list[dict[str, str]] = []
        pixels: list[npt.NDArray[np.uint8]] = []
        for split, content in records.items():
            for number, record in enumerate(content):
                labels = {column: known[record[i]] for i, (column, known) in enumerate(names.items())}
                path = f"{split}/{labels[version.folder]}/{number:05d}.png"
                rows.append({"path": path, **labels, "split": split})
                pixels.append(record[len(names) :].reshape(PIXELS))
        paths = [partial / row["path"] for row in rows]
        for parent in {path.parent for path in paths}:
            parent.mkdir(parents=True)
        for _ in in_processes(name, list(zip(paths, pixels, strict=True)), lambda item: _write(*item), workers):
            pass
        with (partial / LISTING_NAME).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    digest = blake2b(json.dumps(names).encode(), digest_size=8)
    for content in records.values():
        digest.update(content.data)
    counts = {split: len(content) for split, content in records.items()}
    write_once(place, name, {**counts, "source": digest.hexdigest()}, write)
    return place / LISTING_NAME


def _class_names(path: Path) -> list[str]:
    names = read_text(path).split()
    for name in names:
        if name in (".", "..") or Path(name).name != name:
            raise VieError(f"{path}: {name!a} is no class name: fetch the binary version again")
    return names


def _records(folder: Path, files: list[str], names: dict[str, list[str]]) -> npt.NDArray[np.uint8]:
    """All records of a split, (N, label bytes + 3072)."""
    length = len(names) + int(np.prod(PIXELS))
    parts = []
    for path in (folder / file for file in files):
        try:
            content = np.fromfile(path, dtype=np.uint8)
        except OSError as error:
            raise VieError(
                f"{path}: cannot be read ({error.strerror}): give the folder of the unpacked binary version"
            ) from error
        if not len(content) or len(content) % length:
            raise VieError(f"{path}: {len(content)} bytes are not whole records of {length}: fetch it again")
        parts.append(content.reshape(-1, length))
        for byte, known in enumerate(names.values()):
            if parts[-1][:, byte].max() >= len(known):
                raise VieError(f"{path}: its classes go beyond the {len(known)} names: fetch the binary version again")
    return np.concatenate(parts)


def _write(path: Path, planes: npt.NDArray[np.uint8]) -> None:
    write_png(torch.from_numpy(planes.copy()), str(path))
