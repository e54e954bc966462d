"""YAML recipes and ``key=value`` laid over the typed defaults of a dataclass."""

import difflib
import functools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentParser

from vie.errors import VieError

Settings = TypeVar("Settings")


def parse_settings(
    kind: type[Settings],
    recipes: Sequence[str | Path],
    overrides: Sequence[str],
    folder: Path,
    ranges: Mapping[str, tuple[float, float]],
    listed_by: str,
) -> Settings:
    """Builds settings from YAML files and overrides, each over those before it.

    Args:
        kind: A dataclass of dataclasses with defaults for everything.
        recipes: YAML files, or names of those in ``folder``; one that says ``over: NAME`` is laid over that one.
        overrides: ``key=value``, with dotted keys.
        folder: Where the files that come along lie.
        ranges: Least and greatest values that make sense, by dotted key.
        listed_by: The command that lists all keys, for errors.

    Raises:
        VieError: A file is missing, a key is unknown (the message names the nearest right one), or a value is of the
            wrong type or out of range.
    """
    known = list(flatten(asdict(kind())))  # type: ignore[call-overload]
    mappings = list(_mappings(kind))
    arguments: list[str] = []
    layers: dict[Path, dict[str, Any]] = {}
    for recipe in recipes:
        for path, content in _layers(recipe, folder):
            layers.setdefault(path, content)  # what lies below several of them is laid once
    for path, content in layers.items():
        for key, value in flatten(content, mappings).items():
            _check_key(key, known, str(path), listed_by)
            arguments.append(f"--{key}={value if isinstance(value, str) else json.dumps(_plain(value), default=str)}")
    for override in overrides:
        key, equals, value = override.removeprefix("--").partition("=")
        if not equals:
            raise VieError(f"{override!r} is no setting: write key=value, for example data.path=FOLDER")
        _check_key(key, known, "the command line", listed_by)
        arguments.append(f"--{key}={value}")
    parser = _parser_of(cast(type, kind))
    try:
        values = parser.instantiate(parser.parse_args(arguments)).as_dict()
    except Exception as error:  # jsonargparse raises errors of many types for a bad value
        raise VieError("bad setting: " + " ".join(str(error).split())) from error
    values.pop("config", None)
    settings = kind(**values)
    for key, value in flatten(asdict(settings)).items():  # type: ignore[call-overload]
        least, greatest = ranges.get(key, (-math.inf, math.inf))
        if isinstance(value, int | float) and not least <= value <= greatest:
            raise VieError(f"{key}={value} is out of range: give {_interval(least, greatest)}")
    return settings


def settings_parser(kind: type) -> ArgumentParser:
    """A parser that knows every key of a dataclass, its type and its description."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config", help="a recipe: a YAML file, or the name of one that comes along")
    parser.add_class_arguments(kind)
    return parser


_parser_of = functools.cache(settings_parser)
"""Where nobody changes it: to make one takes longer than to parse."""


def _interval(least: float, greatest: float) -> str:
    return f"at least {least:.12g}" if greatest == math.inf else f"a value from {least:.12g} to {greatest:.12g}"


def dump_settings(settings: Any) -> str:
    """All of them as YAML that ``parse_settings`` reads back."""
    return yaml.safe_dump(_plain(asdict(settings)), sort_keys=False)


def find_recipe(recipe: str | Path, folder: Path) -> Path:
    """The file of a recipe, by path or by its name in a folder."""
    for path in (Path(recipe), folder / f"{recipe}.yaml"):
        if path.is_file():
            return path
    names = sorted(path.stem for path in folder.glob("*.yaml"))
    near = difflib.get_close_matches(str(recipe), names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"give a YAML file, or one of {', '.join(names)}"
    raise VieError(f"there is no {folder.name.removesuffix('s')} {str(recipe)!r}: {hint}")


def _layers(recipe: str | Path, folder: Path, above: tuple[Path, ...] = ()) -> list[tuple[Path, dict[str, Any]]]:
    """A recipe and those that it lies over, the lowest first."""
    beside = above[-1].parent / recipe if above else Path(recipe)
    path = beside if beside.is_file() else find_recipe(recipe, folder)
    if path in above:
        names = " over ".join(one.stem for one in (*above, path))
        raise VieError(f"{path} lies over itself ({names}): take its key `over` away")
    content = dict(_read_yaml(path))
    below = content.pop("over", None)
    if below is not None and not isinstance(below, str):
        raise VieError(f"{path} lies over {below!r}, which is no name: give that of one recipe, or its YAML file")
    return [*([] if below is None else _layers(below, folder, (*above, path))), (path, content)]


def _read_yaml(path: Path) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(path.read_text()) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise VieError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, Mapping):
        raise VieError(f"{path} is no recipe: it must hold keys and values")
    return content


def flatten(tree: Mapping[str, Any], known: Sequence[str] = (), prefix: str = "") -> dict[str, Any]:
    """Values by dotted key.

    Args:
        tree: Mappings of mappings of values.
        known: Keys whose values are taken as they are, be they mappings; an empty mapping always is.
        prefix: Of all keys.
    """
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        whole = key in known or not isinstance(value, Mapping) or not value
        flat |= {key: value} if whole else flatten(value, known, f"{key}.")
    return flat


def _mappings(kind: type, prefix: str = "") -> Iterator[str]:
    """Keys of a dataclass whose values may be mappings."""
    for name, hint in get_type_hints(kind).items():
        if is_dataclass(hint) and isinstance(hint, type):
            yield from _mappings(hint, f"{prefix}{name}.")
        elif any(dict in (one, get_origin(one)) for one in (hint, *get_args(hint))):
            yield f"{prefix}{name}"


def _check_key(key: str, known: Sequence[str], where: str, listed_by: str) -> None:
    if key in known:
        return
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    # A key without its group (lr) or in the wrong one (model.lr) is a commoner slip than a misspelling.
    same_name = [candidate for candidate in known if candidate.rpartition(".")[2] == key.rpartition(".")[2]]
    candidates = same_name or near
    hint = f"did you mean {candidates[0]!r}?" if candidates else f"`{listed_by}` lists them all"
    raise VieError(f"{where} sets {key!r}, which is no setting: {hint}")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
