"""How a CSV file is written: what separates its columns, and in which encoding. Told from its beginning, and from nothing else.

A file whose first line has the separator that its name promises (commas, in a ``.tsv`` tabs), and no other, has that one. Else
that is taken by which the rows are as wide as the header, and the header is widest. What stands in quotes separates nothing.
"""

from __future__ import annotations

import codecs
import importlib.util
import io
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from .encodings import legacy

MARKS = (",", ";", "\t", "|")
ONE_COLUMN = ""
ONE_COLUMN_OF_LINES = "\n"  # in which quotes are signs like any other
_NOWHERE = "\x1f"  # stands in no text: the separator of a file with one column
_QUOTE_MINIMAL, _QUOTE_NONE = 0, 3  # as csv has them
_SAMPLE_ROWS = 200
_SAMPLE_BYTES = 1 << 16  # for the separator; the encoding shows in fewer places
_AGREEING = 0.5  # of the rows have the separator, or it is none
_FITTING = 8  # tenths of the rows are as wide as the header
_UTF8 = "utf-8"
# Encodings in which a byte of a line break may be part of something else, or the meaning of bytes depends on those before.
_NOT_BY_LINES = re.compile(r"utf[-_]?(16|32|7)|utf_(16|32|7)|iso2022|hz")
_MARKED = (
    (codecs.BOM_UTF8, _UTF8), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
_NAMES = {"cp932": "shift_jis", "iso8859-1": "latin-1", "gb18030": "gb18030"}


class Dialect(NamedTuple):
    """``separator`` is empty where there is but one column, and a line break if quotes mean nothing there. ``skipped`` lines are
    before the header: one, where a first line ``sep=;`` names the separator."""

    separator: str
    encoding: str
    skipped: int = 0

    @property
    def is_one_column(self) -> bool:
        return self.separator in (ONE_COLUMN, ONE_COLUMN_OF_LINES)

    def cells(self, lines: Iterator[str]) -> Any:
        """The rows of cells that lines have, as csv's reader gives them."""
        quoting = _QUOTE_NONE if self.separator == ONE_COLUMN_OF_LINES else _QUOTE_MINIMAL
        mark = _NOWHERE if self.is_one_column else self.separator
        return parser.reader(lines, delimiter=mark, quoting=quoting, strict=True)

    @property
    def is_by_lines(self) -> bool:
        """Whether the bytes of a line mean the same wherever it stands, so that a file can be read from a line on."""
        return _NOT_BY_LINES.match(codecs.lookup(self.encoding).name) is None

    def separator_words(self, usual: str) -> str | None:
        """``separated by ';'``, unless that is what a file of its name has."""
        return None if self.separator == usual else separated(self.separator)

    @property
    def encoding_words(self) -> str | None:
        """``read as windows-1252``, unless it is UTF-8."""
        return None if self.encoding == _UTF8 else f"read as {shown(self.encoding)}"


def separated(mark: str) -> str:
    if mark in (ONE_COLUMN, ONE_COLUMN_OF_LINES):
        return "read as one column"
    return "separated by tabs" if mark == "\t" else f"separated by {mark!r}"


def shown(encoding: str) -> str:
    """The name of an encoding that people know it by."""
    name = codecs.lookup(encoding).name
    return _NAMES.get(name) or re.sub(r"^cp(125\d|874)$", r"windows-\1", name)


def _own_csv() -> Any:
    """The parser of the csv module with a limit of its own on the length of a cell: that of the module, 128 KB, is one for all
    who use it in this process."""
    found = importlib.util.find_spec("_csv")
    if found is None or found.loader is None:
        raise ImportError("this Python has no csv parser")
    made = importlib.util.module_from_spec(found)
    found.loader.exec_module(made)
    made.field_size_limit(1 << 30)
    return made


parser = _own_csv()


def sniffed(
    beginning: bytes, usual: str, separator: str | None = None, encoding: str | None = None, *, is_whole: bool = False
) -> Dialect:
    """The dialect of a file that begins so, or, if it ``is_whole``, is so. ``usual`` is the separator of a file of this name;
    ``separator`` and ``encoding`` are what the job says of it."""
    encoding = encoding or _encoding(beginning, is_whole=is_whole)
    sample = beginning[:_SAMPLE_BYTES]
    is_whole = is_whole and len(sample) == len(beginning)
    text = codecs.getincrementaldecoder(encoding)(errors="replace").decode(sample, final=is_whole)
    text = text.removeprefix("\ufeff")
    first = re.match(r"sep=(.)[ \t]*(?:\r\n|\n|\r)", text, re.IGNORECASE)
    if first is not None:
        return Dialect(first[1] if separator is None else separator, encoding, 1)
    return Dialect(_separator(text, usual, is_whole=is_whole) if separator is None else separator, encoding)


# ------------------------------------------------------------------------------------------------------- separators


def _separator(text: str, usual: str, *, is_whole: bool) -> str:
    line = re.split(r"[\r\n]", text.lstrip("\r\n"), maxsplit=1)[0]
    others = [mark for mark in MARKS if mark != usual and mark in line]
    if not others and usual in line:
        return usual
    if not others:  # the first cell of the header may have a line break
        others = [mark for mark in MARKS if mark != usual]
    is_cut = not is_whole
    found = [_judged(_rows(text, mark, is_cut=is_cut), mark, usual) for mark in (usual, *others)]
    best = max(filter(None, found), default=None)
    if best is not None:
        return best.separator
    header, *body = _rows(text, usual, is_cut=is_cut) or [[]]
    if len(header) != 1 or all(len(row) == 1 for row in body):
        return usual
    is_parsed = all(_rows(text, ONE_COLUMN, is_cut=is_cut))
    return ONE_COLUMN if is_parsed else ONE_COLUMN_OF_LINES


class _Judged(NamedTuple):
    """How well a separator fits; the greatest is the best. ``agreeing`` is the share of rows that are as wide as the header, in
    tenths."""

    fits: bool
    width: int
    agreeing: int
    tidy: int
    is_usual: bool
    separator: str


def _judged(rows: Sequence[Sequence[str]], separator: str, usual: str) -> _Judged | None:
    """``None`` if it separates nothing."""
    if not rows or len(rows[0]) < 2:
        return None
    header, *body = rows
    parsed = [row for row in body if row]
    if separator != usual and sum(len(row) > 1 for row in parsed) < _AGREEING * len(parsed):
        return None
    agreeing = round(10 * sum(len(row) == len(header) for row in body) / len(body)) if body else 10
    # "Name, first name;Age" has two columns, whichever separates them.
    untidy = sum(cell != cell.strip() for cell in header)
    return _Judged(agreeing >= _FITTING, len(header), agreeing, -untidy, separator == usual, separator)


def _rows(text: str, separator: str, *, is_cut: bool) -> list[list[str]]:
    """The first rows of a text. One that cannot be parsed is as wide as no header, and the last; not so one that does not end."""
    found: list[list[str]] = []
    lines = io.StringIO(text, newline="")
    try:
        for row in Dialect(separator, _UTF8).cells(lines):
            if row:
                found.append(row)
            if len(found) > _SAMPLE_ROWS:
                return found
    except parser.Error:
        return [*found, []] if lines.read(1) else found
    return found[:-1] if is_cut and len(found) > 1 else found  # the end of the last is not there


# --------------------------------------------------------------------------------------------------------- encodings


def _encoding(beginning: bytes, *, is_whole: bool) -> str:
    for mark, name in _MARKED:
        if beginning.startswith(mark):
            return name
    if beginning.isascii() and b"\0" not in beginning:
        return _UTF8
    if (wide := _without_mark(beginning)) is not None:
        return wide
    try:
        codecs.getincrementaldecoder(_UTF8)().decode(beginning)
        return _UTF8
    except UnicodeDecodeError:
        pass
    lines = re.split(rb"[\r\n]+", beginning)
    telling = [line for line in (lines if is_whole or len(lines) == 1 else lines[:-1]) if not line.isascii()]
    if not telling or sum(map(_is_utf8, telling)) >= 0.5 * len(telling):
        return _UTF8  # with some lines that are broken
    return legacy(b"\n".join(telling))


def _without_mark(beginning: bytes) -> str | None:
    """UTF-16 without a byte order mark, of a text that is mostly in Latin letters: each second byte is 0."""
    length = len(beginning) // 2
    if length < 2:
        return None
    low, high = beginning[1::2].count(0), beginning[0::2].count(0)
    if low > 0.4 * length and high < 0.1 * length:
        return "utf-16-le"
    return "utf-16-be" if high > 0.4 * length and low < 0.1 * length else None


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True
