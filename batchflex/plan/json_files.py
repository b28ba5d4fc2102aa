"""JSON: lines with an object each, and files that are one list of objects. Both are read as streams.

A file that is a list (``[{…}, {…}]``, or one object with such a list under ``"data"``) is taken apart object by object: in memory
is never more of it than one of these.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import IO

import msgspec

from ..core import InputError, Row
from .input_file import InputFile
from .reading import BLOCK_BYTES, DAMAGED, NEWLINE, PROGRESS_ROWS, Every, Fault, Reading, Rows, wanted

_decode = msgspec.json.Decoder().decode


class _Object(msgspec.Struct):
    """Any object: of its members nothing is kept."""


class _Data(msgspec.Struct):
    """An object that has a list of objects under ``"data"``."""

    data: list[_Object]


_decode_data = msgspec.json.Decoder(_Data).decode


def read_jsonl(reading: Reading, max_rows: int, position: int, skip: bytes | Every) -> Iterator[Rows]:
    texts: list[bytes] = []
    at: list[int] = []
    lines: list[int] = []
    whole = True
    number, told = reading.lines, position
    with reading.open() as stream:
        for found in _some_lines(stream, reading, max_rows):
            if number == 0:
                found[0] = found[0].removeprefix(_MARK) or b"\n"
            numbers: Sequence[int] = range(number + 1, number + 1 + len(found))
            number += len(found)
            last = found[-1]
            if last[-1] != NEWLINE and not last.isspace() and isinstance(parse_rows([last])[0], Fault):
                if reading.has_grown():
                    reading.leave(len(found.pop()))
                    number -= 1
                else:
                    whole = False
            if any(map(bytes.isspace, found)):
                numbers = [each for each, line in zip(numbers, found, strict=False) if not line.isspace()]
                found = [line for line in found if not line.isspace()]
            left = wanted(position, position + len(found), skip)
            if (
                len(texts) + len(left) > max_rows
                or sum(map(len, texts)) >= BLOCK_BYTES
                or position - told >= PROGRESS_ROWS
            ):
                yield Rows(position, parse_rows(texts), at, lines)
                texts, at, lines, told = [], [], [], position
            texts += found if len(left) == len(found) else [found[row - position] for row in left]
            lines += numbers if len(left) == len(found) else [numbers[row - position] for row in left]
            at += left
            position += len(found)
    reading.lines = number if reading.ends_a_line or not number else number - 1
    reading.is_extensible = whole and not reading.is_packed
    yield Rows(position, parse_rows(texts), at, lines)


def _some_lines(stream: IO[bytes], reading: Reading, most: int) -> Iterator[list[bytes]]:
    """The lines of a stream, so many at once, or fewer long ones."""
    lines: list[bytes] = []
    size, longest = 0, reading.longest_line
    for number, line in enumerate(iter(partial(stream.readline, longest), b""), reading.lines + 1):
        if len(line) == longest:
            raise InputError(reading.too_long(number))
        lines.append(line)
        size += len(line)
        if len(lines) == most or size >= BLOCK_BYTES:
            yield lines
            lines, size = [], 0
    if lines:
        yield lines


def parse_rows(lines: list[bytes]) -> list[Row | Fault]:
    """The rows in these lines, each of which is one."""
    try:
        rows = list(map(_decode, lines))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return list(map(parse_row, lines))
    return rows if all(type(row) is dict for row in rows) else list(map(parse_row, lines))


def parse_row(line: bytes) -> Row | Fault:
    try:
        row = _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Fault(f"not valid JSON: {error}" if _decodes(line) else "not valid UTF-8: save the file as UTF-8")
    if not isinstance(row, dict):
        return Fault(f"each line must be a JSON object; found {line.strip()[:40].decode('utf-8', 'replace')!r}")
    return row


def _decodes(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


# ------------------------------------------------------------------------------------------------- files that are a list

_FLAT = rb'[^"\[\]{}]*+(?:"(?:[^"\\]++|\\.)*+"[^"\[\]{}]*+)*+'  # no brackets, but in texts, where they mean nothing


def _nested(depth: int) -> bytes:
    return _FLAT + (rb"(?:[\[{]" + _nested(depth - 1) + rb"[\]}]" + _FLAT + rb")*+" if depth else b"")


# From the end of one bracket to that of the next, and to that of the one that closes it. They match no text that is cut off.
_NEXT = re.compile(_FLAT + rb"[\[\]{}]", re.DOTALL)
_REST = re.compile(_nested(4) + rb"[\]}]", re.DOTALL)
_OPENING = b"[{"
_LIST_OF_DATA = re.compile(rb'(?<!\\)"data"\s*:\s*\[$')
_UNFINISHED = (b"{", b"[", b",", b":")
_MARK = b"\xef\xbb\xbf"
_AT_ONCE = 1 << 20
_START = 1 << 12  # bytes within which something has to begin


def is_list(path: InputFile) -> bool:
    """Whether a file of JSON is one list of objects, or one object that has it, rather than an object a line.

    :raises InputError: if it cannot be read.
    """
    try:
        start = Reading(path).beginning(_START).removeprefix(_MARK).lstrip()
        if start[:1] != b"{":
            return start[:1] == b"["
        reading = Reading(path)
        with reading.open() as stream:
            lines = (line.removeprefix(_MARK) for line in iter(partial(stream.readline, reading.longest_line), b""))
            written = (line for line in lines if line and not line.isspace())
            first = next(written, b"")
            if len(first) == reading.longest_line:
                return True
            try:
                has_rows = bool(_decode_data(first).data)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                return first.rstrip().endswith(_UNFINISHED)
            return has_rows and next(written, None) is None
    except DAMAGED as error:
        if isinstance(error, OSError) and error.errno:
            raise InputError(f"{path} cannot be read: {error.strerror}") from None
        raise InputError(f"{path} is damaged: {error}") from None


def read_list(reading: Reading, max_rows: int, position: int, skip: bytes | Every) -> Iterator[Rows]:
    """A file that is one list of objects, or an object with one under ``data``. What stands after the list is not looked at."""
    texts: list[bytes] = []
    at: list[int] = []
    lines: list[int] = []
    size = 0
    with reading.open() as stream:
        for line, text in _objects(stream, reading):
            if position >= len(skip) or not skip[position]:
                texts.append(text)
                at.append(position)
                lines.append(line)
                size += len(text)
            position += 1
            if len(texts) >= max_rows or size >= BLOCK_BYTES or position % PROGRESS_ROWS == 0:
                yield Rows(position, parse_rows(texts), at, lines)
                texts, at, lines, size = [], [], [], 0
    yield Rows(position, parse_rows(texts), at, lines)


class _Brackets:
    """A stream of JSON, by its brackets. ``line`` is that of the last one."""

    def __init__(self, stream: IO[bytes], reading: Reading) -> None:
        self._stream = stream
        self._reading = reading
        self._text = b""
        self._at = 0
        self.line = 1

    def next(self) -> bytes:
        """What comes up to the next bracket, and the bracket.

        :raises InputError: if the file ends before that.
        """
        while (found := _NEXT.match(self._text, self._at)) is None:
            # As much again as there is: a long text is not gone through more often than that.
            rest = self._text[self._at :]
            data = self._stream.read(max(_AT_ONCE, len(rest)))
            if not data:
                raise InputError(f"{self._reading.path} ends within its list: it is cut off, or is not valid JSON")
            if len(rest) >= self._reading.longest_line:
                raise InputError(self._reading.too_long(self.line))
            self._text, self._at = rest + data, 0
        return self._passed(found)

    def rest(self) -> bytes:
        """What comes after the last bracket, up to the one that closes it.

        :raises InputError: if the file ends before that.
        """
        if (found := _REST.match(self._text, self._at)) is not None:  # nearly always: at hand, and not deep
            return self._passed(found)
        pieces, depth = [], 1
        while depth:
            pieces.append(self.next())
            depth += 1 if pieces[-1][-1] in _OPENING else -1
        return b"".join(pieces)

    def _passed(self, found: re.Match[bytes]) -> bytes:
        text = found.group()
        self._at = found.end()
        self.line += text.count(b"\n")
        return text


def _objects(stream: IO[bytes], reading: Reading) -> Iterator[tuple[int, bytes]]:
    """Each element of the list, with the line it begins in."""
    brackets = _Brackets(stream, reading)
    _begin(brackets, reading)
    is_first = True
    while True:
        piece = brackets.next()
        between = piece[:-1].strip()
        if piece[-1:] == b"]" and not between:
            return
        if piece[-1] not in _OPENING or between != (b"" if is_first else b","):
            what = (between.strip(b", \t\r\n") or piece[-1:])[:40].decode("utf-8", "replace")
            raise InputError(
                f"{reading.path}, line {brackets.line}: each element of the list must be an object; found {what!r}"
            )
        is_first = False
        line = brackets.line
        yield line, piece[-1:] + brackets.rest()


def _begin(brackets: _Brackets, reading: Reading) -> None:
    """Go on until the list has begun."""
    piece = brackets.next()
    if piece.removeprefix(_MARK).strip() == b"[":
        return
    if piece.removeprefix(_MARK).strip() != b"{":
        raise InputError(f"{reading.path} is not JSON: it has to begin with [ or {{")
    depth = 1
    while depth:
        piece = brackets.next()
        if depth == 1 and _LIST_OF_DATA.search(piece):
            return
        depth += 1 if piece[-1] in _OPENING else -1
    raise InputError(
        f'{reading.path} is one JSON object without a list of rows under "data": make it a list of objects ([…]), '
        "or write one object a line (.jsonl)"
    )
