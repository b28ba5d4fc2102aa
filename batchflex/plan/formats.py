"""The formats of input files: what a file is by its name, and how those of a format are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import PurePath
from typing import Any, NamedTuple

from ..core import InputError
from . import arrow_files, csv_files, json_files, spreadsheets
from .csv_dialect import Dialect
from .input_file import InputFile
from .reading import PACKED, Fault, Reading, Rows, suffix

_ENDINGS = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json",
    ".parquet": "parquet", ".pq": "parquet",
    ".csv": "csv", ".tsv": "csv",
    ".arrow": "arrow", ".feather": "arrow", ".ipc": "arrow", ".arrows": "arrow",
    ".xlsx": "excel", ".xlsm": "excel", ".xlsb": "excel", ".xls": "excel", ".ods": "excel",
}  # fmt: skip
ENDINGS = ", ".join(_ENDINGS)


class Format(NamedTuple):
    """How files of one format are read. ``is_text`` tells that rows can be appended to one that is not packed, and that it can
    be read from a row on. ``columns`` and ``schema`` are known before any row is, as far as there are such. ``rows`` tells the
    number of rows without making any; where it is ``None``, a text's lines are counted."""

    read: Callable[[Reading, int, int, Any], Iterator[Rows]]
    is_text: bool = False
    columns: Callable[[InputFile, Any], list[str]] | None = None
    schema: Callable[[InputFile, Any], Any] | None = None
    rows: Callable[[InputFile, Any], int] | None = None


FORMATS = {
    "jsonl": Format(json_files.read_jsonl, is_text=True),
    "json": Format(json_files.read_list),
    "csv": Format(csv_files.read_csv, is_text=True, columns=csv_files.csv_header),
    "parquet": Format(
        arrow_files.read_parquet,
        columns=lambda path, how: list(arrow_files.parquet_schema(path).names),
        schema=lambda path, how: arrow_files.parquet_schema(path),
        rows=lambda path, how: int(arrow_files.parquet_metadata(path).num_rows),
    ),
    "arrow": Format(
        arrow_files.read_ipc,
        columns=lambda path, how: list(arrow_files.ipc_schema(path).names),
        schema=lambda path, how: arrow_files.ipc_schema(path),
        rows=lambda path, how: arrow_files.count_ipc(path),
    ),
    "excel": Format(
        spreadsheets.read_sheet,
        columns=lambda path, sheet: list(sheet.frame.columns),
        schema=lambda path, sheet: sheet.frame.head(0).to_arrow().schema,
        rows=lambda path, sheet: int(sheet.frame.height),
    ),
}


class Settings(NamedTuple):
    """What a job says of how its files are to be read."""

    format: str = "auto"
    separator: str | None = None
    encoding: str | None = None
    sheet: str | int | None = None


# By path, beginning and what it seems to be: the dialect that a file has been read in before, if it begins as it did then.
Remembered = Callable[[InputFile, bytes, Dialect], Dialect | None]


class Opening(NamedTuple):
    """How one file is to be read: its format, and what that has to know besides. ``note`` tells that where it is not as in most
    files, and ``keys`` are those of the job that would say otherwise. ``beginning`` is what the dialect of CSV was told from."""

    kind: str
    how: Any = None
    note: str | None = None
    keys: tuple[str, ...] = ()
    beginning: bytes = b""


def opening(path: InputFile, settings: Settings, remembered: Remembered) -> Opening:
    """
    :raises InputError: if the kind of a file cannot be told, or it is not of that kind.
    """
    kind = _kind(path, settings.format)
    if kind == "excel":
        sheet = spreadsheets.Sheet(path, settings.sheet)
        return Opening(kind, sheet, sheet.note, ("input.sheet",))
    if kind != "csv":
        return Opening(kind)
    start = csv_files.beginning(path)
    seems = csv_files.dialect(path, start, settings.separator, settings.encoding)
    before = remembered(path, start, seems)
    how = seems if before is None else before._replace(skipped=seems.skipped)
    # What the job says itself holds, and is not told.
    how = how._replace(separator=settings.separator or how.separator, encoding=settings.encoding or how.encoding)
    usual = csv_files.usual_separator(path)
    unusual = {
        "input.separator": None if settings.separator else how.separator_words(usual),
        "input.encoding": None if settings.encoding else how.encoding_words,
    }
    told = {key: words for key, words in unusual.items() if words}
    return Opening(kind, how, ", ".join(told.values()) or None, tuple(told), start)


def _kind(path: InputFile, given: str) -> str:
    kind = given if given != "auto" else _ENDINGS.get(suffix(path))
    if kind is None:
        raise InputError(
            f"what {path} holds cannot be told from its name. Known are the endings {ENDINGS} "
            "(.gz and .zst may follow those of JSON and CSV); name it so, or set input.format"
        )
    if kind == "json" and given == "auto" and not json_files.is_list(path):
        return "jsonl"
    return kind


def is_known(path: InputFile | PurePath) -> bool:
    """Whether the name of a file says what it is."""
    return suffix(path) in _ENDINGS


def may_grow(path: InputFile | PurePath, kind: str) -> bool:
    """Whether rows can be appended to a file without changing what is there."""
    known = FORMATS.get(kind)
    return (known is None or known.is_text) and path.suffix.lower() not in PACKED


def whole(path: InputFile, kind: str, begin: int, end: int) -> int:
    """Where a file that goes to the byte ``end`` for now ends without a last line that is being written; ``begin`` at least.
    A last line without line break may be whole in JSONL, where that can be seen.

    :raises OSError: if it cannot be read.
    """
    at, tail = end, b""
    with path.open("rb", buffering=0) as stream:
        while at > begin and b"\n" not in tail:
            size = min(1 << 16, at - begin)
            at -= size
            stream.seek(at)
            tail = stream.read(size) + tail
    tail = tail[tail.rfind(b"\n") + 1 :]
    if not tail or (kind == "jsonl" and (tail.isspace() or not isinstance(json_files.parse_row(tail), Fault))):
        return end
    return end - len(tail)
