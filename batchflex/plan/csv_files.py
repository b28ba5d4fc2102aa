"""CSV: a header, and rows of texts, in whichever dialect they are written; read as a stream."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import partial
from typing import Any

from ..core import InputError, Row
from .csv_dialect import Dialect, parser, shown, sniffed
from .input_file import InputFile
from .reading import BLOCK_BYTES, DAMAGED, PROGRESS_ROWS, Every, Fault, Reading, Rows, suffix

_SNIFFED_BYTES = 1 << 18
_NEAR = 12  # characters shown before a byte that cannot be decoded


def usual_separator(path: InputFile) -> str:
    return "\t" if suffix(path) == ".tsv" else ","


def beginning(path: InputFile) -> bytes:
    """As much of a file as its dialect is told from.

    :raises InputError: if it cannot be read.
    """
    try:
        return Reading(path).beginning(_SNIFFED_BYTES)
    except DAMAGED as error:
        if isinstance(error, OSError) and error.errno:
            raise InputError(f"{path} cannot be read: {error.strerror}") from None
        raise InputError(f"{path}: the header cannot be read: {error}") from None


def dialect(path: InputFile, start: bytes, separator: str | None = None, encoding: str | None = None) -> Dialect:
    """The dialect of the file that begins so; ``separator`` and ``encoding`` are those that the job names."""
    return sniffed(start, usual_separator(path), separator, encoding, is_whole=len(start) < _SNIFFED_BYTES)


def _dialect_of(reading: Reading) -> Dialect:
    return reading.how if reading.how is not None else Dialect(usual_separator(reading.path), "utf-8")


def _cells(reading: Reading, dialect: Dialect) -> tuple[io.TextIOWrapper, Any]:
    text = io.TextIOWrapper(reading.open(), encoding=dialect.encoding, errors="surrogateescape", newline="")
    return text, dialect.cells(_lines(text, reading, dialect))


def _lines(text: io.TextIOWrapper, reading: Reading, dialect: Dialect) -> Iterator[str]:
    """The lines from the header on, or from where it is read on."""
    longest, skipped = reading.longest_line, 0 if reading.begin else dialect.skipped
    for number, line in enumerate(iter(partial(text.readline, longest), ""), reading.lines + 1):
        if len(line) == longest:
            raise InputError(reading.too_long(number))
        if number == 1:
            line = line.removeprefix("\ufeff")
        if number > skipped:
            yield line


def csv_header(path: InputFile, how: Dialect | None = None) -> list[str]:
    """:raises InputError: if the file has no header that can be read."""
    reading = Reading(path, how=how)
    dialect = _dialect_of(reading)
    try:
        text, reader = _cells(reading, dialect)
        with text:
            header: list[str] | None = next(reader, None)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}, line 1: {_undecodable(error.object[error.start], dialect, '')}") from None
    except (*DAMAGED, parser.Error) as error:
        raise InputError(f"{path}: the header cannot be read: {error}") from None
    if not header:
        raise InputError(f"{path} has no header: the first line of a CSV file names its columns")
    if fault := _broken(header, dialect):
        raise InputError(f"{path}, line {1 + dialect.skipped}: {fault}")
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise InputError(f"{path}: two columns have the same name, {twice!r}")
    return header


def _broken(cells: list[str], dialect: Dialect) -> str | None:
    """What is wrong where bytes are not of the encoding: they are kept as surrogates, which cannot be encoded."""
    text = "".join(cells)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return _undecodable(ord(text[error.start]) & 0xFF, dialect, text[max(0, error.start - _NEAR) : error.start])
    return None


def _undecodable(byte: int, dialect: Dialect, before: str) -> str:
    after = f" after {before!r}" if before else ""
    encoding = shown(dialect.encoding)
    if encoding == "utf-8":
        todo = 'save the file as UTF-8, or name its encoding, such as input.encoding = "windows-1252"'
    else:
        todo = "name the encoding that the file is in with input.encoding, or save it as UTF-8"
    name = "UTF-8" if encoding == "utf-8" else encoding
    return f"not valid {name}: the byte 0x{byte:02x}{after}; {todo}"


def read_csv(reading: Reading, max_rows: int, position: int, skip: bytes | Every) -> Iterator[Rows]:
    path, dialect = reading.path, _dialect_of(reading)
    header = csv_header(path, dialect)
    before = reading.lines if reading.begin else dialect.skipped
    text, reader = _cells(reading, dialect)
    with text:
        rows: list[Row | Fault] = []
        at: list[int] = []
        lines: list[int] = []
        size = 0
        is_torn = False
        if not reading.begin:
            next(reader)
        while True:
            line = before + reader.line_num + 1
            try:
                cells = next(reader, None)
            except (parser.Error, UnicodeDecodeError) as error:
                if is_torn := reading.has_grown():
                    break
                raise InputError(f"{path}, line {line}: {_unreadable(error, dialect)}") from None
            if cells is None:
                break
            if not cells:
                continue
            if len(rows) >= max_rows or size >= BLOCK_BYTES:  # the last row stays at hand
                yield Rows(position, rows, at, lines)
                rows, at, lines, size = [], [], [], 0
            position += 1
            if position <= len(skip) and skip[position - 1]:
                if position % PROGRESS_ROWS == 0:
                    yield Rows(position, [], [])
                continue
            if len(cells) != len(header):
                rows.append(Fault(f"has {len(cells)} cells, the header {len(header)}"))
            elif fault := _broken(cells, dialect):
                rows.append(Fault(fault))
            else:
                rows.append(dict(zip(header, cells, strict=True)))
            at.append(position - 1)
            lines.append(line)
            size += sum(map(len, cells))
        # Its last cell may be cut off in the middle.
        if not reading.ends_a_line and rows and reading.has_grown():
            position -= 1
            del rows[-1], at[-1], lines[-1]
        reading.lines = before + reader.line_num
        is_whole = reading.ends_a_line and not is_torn and not reading.is_packed
        reading.is_extensible = is_whole and dialect.is_by_lines
        yield Rows(position, rows, at, lines)


def _unreadable(error: Exception, dialect: Dialect) -> str:
    if isinstance(error, UnicodeDecodeError):
        return _undecodable(error.object[error.start], dialect, "")
    text = str(error)
    if "unexpected end" in text:
        return f"{text}: a quote that opens a cell of this row is never closed"
    if "expected after" not in text:
        return text
    if dialect.is_one_column:
        text = "the end of the line expected after '\"'"
    return f"{text}: within a cell in quotes a quote is written twice"
