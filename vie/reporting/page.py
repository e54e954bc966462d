"""One HTML file that needs no other file and no network: how the pages of all rooms look and are made."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from safetensors import SafetensorError

from vie.errors import VieError
from vie.files import write_text_atomically

TEMPLATES = Path(__file__).parent / "templates"
Found = TypeVar("Found")


def write_page(out: Path, templates: Path, name: str, **content: Any) -> Path:
    """Writes a page whole, or not at all.

    Args:
        out: The file to write.
        templates: Folder of the page's template, which lies over ``page.html.j2`` of this room.
        name: Of the template.
        content: What it shows; text is escaped, ``Markup`` is not.

    Returns:
        The file.

    Raises:
        VieError: It cannot be written.
    """
    environment = Environment(
        loader=FileSystemLoader([templates, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(name).render(**content)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(out, page)
    except OSError as error:
        raise VieError(f"{out} cannot be written ({error.strerror}): give another file") from error
    return out


def check_names(runs: Sequence[Path]) -> None:
    """Raises ``VieError`` where two folders of runs share a name: a page tells runs apart by it."""
    names = [run.resolve().name for run in runs]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise VieError(f"two runs are called {twice[0]!r}: rename one's folder, the page tells them apart by it")


def attempt(thing: str, read: Callable[[], Found], notes: list[str]) -> Found | None:
    """What ``read`` finds; a fault becomes a note on the page."""
    try:
        return read()
    except (VieError, OSError, RuntimeError, ValueError, LookupError, TypeError, SafetensorError) as error:
        notes.append(f"{thing}: {'missing' if isinstance(error, FileNotFoundError) else error}")
        return None
