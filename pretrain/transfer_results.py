"""The results files of `vie-bench transfer`: plain JSON, which the tables and the report read."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vie import VieError

FORMAT = "vie-transfer-1"
KEYS = {"task", "mode", "seed", "encoder", "protocol", "results"}


def read_results(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """The contents of results files, given as files or as folders of them; raises ``VieError`` for anything else."""
    files = [file for path in paths for file in (sorted(path.glob("*.json")) if path.is_dir() else [path])]
    contents = []
    for file in files:
        try:
            content = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise VieError(f"{file} cannot be read ({error}): give results of `vie-bench transfer`") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT or not content.keys() >= KEYS:
            raise VieError(f"{file} is no results file: give results of `vie-bench transfer`")
        contents.append(content)
    if not contents:
        raise VieError(f"{', '.join(map(str, paths))}: no results there: run `vie-bench transfer` first")
    return contents
