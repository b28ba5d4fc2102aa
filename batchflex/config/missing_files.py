"""What is said where an input is named that is not there."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core import did_you_mean
from .mistake_messages import Mistake

_SHOWN_FILES = 8
_MOST_FILES = 5_000  # of a folder that are looked at


def input_path(pattern: str) -> Path:
    """A path of ``input.path``, with ``~`` as the home folder."""
    try:
        return Path(pattern).expanduser()
    except RuntimeError:  # there is no such user: then it is a name
        return Path(pattern)


def absent_input(pattern: str) -> str | None:
    """A sentence if there is nothing at a path of ``input.path``, with the nearest name that there is; ``None`` if there is, or
    if it is a pattern or an address."""
    if "\0" in pattern:
        return f"the input {pattern!r} is no path"
    path = input_path(pattern)
    try:
        if "://" in pattern or path.exists() or any(c in pattern for c in "*?["):
            return None
        return f"there is no input file {path}{_instead(path)}"
    except OSError as error:
        return f"the input {pattern} cannot be looked for: {error.strerror or error}"


def _instead(path: Path) -> str:
    if near := did_you_mean(path):
        return near
    folder = path.parent
    if not folder.is_dir():
        while not folder.parent.is_dir():
            folder = folder.parent
        return f": there is no folder {folder}"
    try:
        some = itertools.islice(folder.iterdir(), _MOST_FILES)
        names = sorted(each.name for each in some if not each.name.startswith("."))
    except OSError:
        return ""
    if not names:
        return "; its folder is empty"
    more = f" and {len(names) - _SHOWN_FILES} more" if len(names) > _SHOWN_FILES else ""
    return f"; its folder has {', '.join(names[:_SHOWN_FILES])}{more}"


def absent_inputs(job: Mapping[str, Any]) -> list[Mistake]:
    """The same of a whole job, as far as it names paths, as mistakes beside others."""
    section = job.get("input")
    paths = section.get("path") if isinstance(section, Mapping) else None
    named = [paths] if isinstance(paths, str) else paths if isinstance(paths, list) else []
    found = (absent_input(path) for path in named if isinstance(path, str) and path)
    return [Mistake("input.path", fault) for fault in found if fault is not None]
