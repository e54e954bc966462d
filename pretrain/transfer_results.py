"""The results files of `vie-bench transfer`: plain JSON, which the tables and the report read."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vie import VieError
from vie.files import write_text_atomically

FORMAT = "vie-transfer-1"
KEYS = {"task", "mode", "seed", "encoder", "protocol", "results"}


def read_results(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """The contents of results files, given as files or as folders of them; raises ``VieError`` for anything else.

    A file that ends in ``.jsonl`` holds any number of results, one in each line. In a folder such files are passed
    over: they may hold what lies beside them.
    """
    files = [file for path in paths for file in (sorted(path.glob("*.json")) if path.is_dir() else [path])]
    contents = []
    for file in files:
        try:
            text = file.read_text()
        except (OSError, ValueError) as error:
            raise VieError(f"{file} cannot be read ({error}): give results of `vie-bench transfer`") from error
        for number, part in enumerate(text.split("\n") if file.suffix == ".jsonl" else [text], 1):
            if not part and number > 1:  # after the last line
                continue
            place = f"line {number} of {file}" if file.suffix == ".jsonl" else f"{file}"
            try:
                content = json.loads(part)
            except ValueError as error:
                raise VieError(f"{place} cannot be read ({error}): give results of `vie-bench transfer`") from error
            if not isinstance(content, dict) or content.get("format") != FORMAT or not content.keys() >= KEYS:
                raise VieError(f"{place} is no results file: give results of `vie-bench transfer`")
            contents.append(content)
    if not contents:
        raise VieError(f"{', '.join(map(str, paths))}: no results there: run `vie-bench transfer` first")
    return contents


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """What two results differ in but for the machine and what was measured, such as ``encoder.weights``.

    Weights are compared where both results tell them, which earlier versions did not.
    """
    passed_over = {"protocol.machine"}
    if not all("weights" in result["encoder"] for result in (one, other)):
        passed_over.add("encoder.weights")
    return [
        f"{part}.{key}"
        for part in ("encoder", "protocol")
        for key in sorted(one[part] | other[part])
        if one[part].get(key) != other[part].get(key) and f"{part}.{key}" not in passed_over
    ]


def gather(contents: Sequence[dict[str, Any]], path: Path) -> None:
    """Writes results into one ``.jsonl`` file, which ``read_results`` reads.

    Raises:
        VieError: The file has another suffix or cannot be written.
    """
    if path.suffix != ".jsonl":
        raise VieError(f"{path} does not end in .jsonl, by which files of many results are known: give such a name")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(path, "".join(json.dumps(content) + "\n" for content in contents))
    except OSError as error:
        raise VieError(f"{path} cannot be written ({error.strerror}): give another folder") from error
