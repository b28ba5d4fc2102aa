"""Reads an output folder and writes its report."""

from __future__ import annotations

import datetime
import importlib.util
import re
from pathlib import Path
from typing import Any, NamedTuple

from ..core import FolderError, MissingExtra
from ..storage import Folder, replaced, storing
from . import digest as digests, headline
from .digest import Digest

_NEEDED = ("altair", "vl_convert")
_HEAD_CHARS = 2_000  # of the page, where it says what it was made of


class Written(NamedTuple):
    """``path`` has ``size`` bytes."""

    path: Path
    size: int


read = digests.digest


def is_current(folder: Folder) -> bool:
    """Whether the page in the folder was made of the answers and scores that are there now, by what it says of that itself."""
    made_of = digests.made_of(folder)
    try:
        with folder.report.open(encoding="utf-8") as stream:
            return made_of is not None and f'content="{made_of}"' in stream.read(_HEAD_CHARS)
    except (OSError, UnicodeDecodeError):
        return False


def write_charts(digest: Digest, to: Path) -> list[Path]:
    """Write each chart of the report as SVG and PNG into the folder ``to``, which is made if it is not there; they are named by
    section and title.

    :raises MissingExtra: if the libraries for charts are not installed.
    :raises FolderError: if there is no place for the folder.
    :raises StorageError: if a file cannot be written.
    """
    _require_libraries()
    from . import canvas, sections, vega

    if to.exists() and not to.is_dir():
        raise FolderError(f"{to} is a file; name a folder for the charts")
    if not to.parent.is_dir():
        raise FolderError(f"there is no folder {to.parent} to make the folder {to.name} in")
    written: list[Path] = []
    with storing(to):
        to.mkdir(exist_ok=True)
    for section in sections.chapters(digest):
        for figure in section.figures:
            drawn = vega.svg(canvas.alone(figure.spec))
            name = _file_name(f"{section.key}-{figure.title}" if figure.title else section.key)
            name = name if not any(path.stem == name for path in written) else f"{name}-{figure.id}"
            for path, content in ((to / f"{name}.svg", drawn.encode()), (to / f"{name}.png", vega.png(drawn))):
                with storing(path), replaced(path) as stream:
                    stream.write(content)
                written.append(path)
    return written


def _file_name(title: str) -> str:
    return re.sub(r"[^\w.]+", "-", title).strip("-")[:80]


def _require_libraries() -> None:
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtra(
            "the report's charts need packages that are not installed; install them with: pip install 'batchflex[report]'"
        )


def write(folder: Folder, digest: Digest | None = None, path: Path | None = None) -> Written:
    """Write the page atomically, by default as ``report.html`` in the folder.

    :raises MissingExtra: if the libraries for charts are not installed.
    :raises FolderError: if there is no run in the folder, or no folder to write into.
    :raises StorageError: if it cannot be written.
    """
    _require_libraries()
    from . import page

    path = path or folder.report
    if not path.parent.is_dir():
        raise FolderError(f"there is no folder {path.parent} to write {path.name} into")
    text = page.render(digest or read(folder), datetime.datetime.now().astimezone()).encode("utf-8", "replace")
    with storing(path), replaced(path) as stream:
        stream.write(text)
    return Written(path, len(text))


def as_json(digest: Digest, written: Written | None) -> dict[str, Any]:
    """The content of :func:`~batchflex.report.headline.summary` for programs."""
    ending = headline.ending(digest)
    whole = digest.whole
    said, more = headline.headline(digest)
    return {
        "report": str(written.path) if written else None,
        "bytes": written.size if written else None,
        "job": digest.name,
        "status": ending.word,
        "verdict": f"{said}. {more}".strip(),
        "rows": whole.rows,
        "statuses": whole.status,
        "prompt_tokens": whole.prompt_tokens,
        "completion_tokens": whole.completion_tokens,
        "cache_read_input_tokens": whole.cache_read_input_tokens,
        "cost": whole.cost,
        "latency_s": whole.latency_s,
        "points": [
            {
                "point": dict(zip(digest.variables, point.values, strict=True)),
                "rows": point.figures.rows,
                "scores": {
                    name: {"mean": s.mean, "low": s.low, "high": s.high, "n": s.n} for name, s in point.scores.items()
                },
            }
            for point in digest.points
        ],
        "failures": [cause._asdict() for cause in digest.causes],
        "notes": digest.notes,
    }
