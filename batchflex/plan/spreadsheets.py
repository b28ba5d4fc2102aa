"""Sheets of workbooks (.xlsx, .xls, .ods and their like), read as a whole: they end at a million rows."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from ..core import InputError, Row
from .input_file import InputFile, on_disk
from .reading import DAMAGED, Fault, Reading, Rows, fault, wanted

if TYPE_CHECKING:
    import polars as pl

_SHOWN_SHEETS = 12
_MISSING = "a spreadsheet is read by a package that is not installed; install it with: pip install 'batchflex[excel]'"


class _Stat(NamedTuple):
    size: int
    modified: int


class Sheet:
    """One sheet of a workbook: the one of this name, or the ``wanted``-th, from 1. Its rows are kept in memory from when they are
    first asked for, until the file changes.

    :raises InputError: if the file is no workbook, there is no such sheet, or what reads it is not installed.
    """

    def __init__(self, path: InputFile, wanted: str | int | None = None) -> None:
        self._path = path
        self._stat: _Stat | None = None
        self._frame: pl.DataFrame | None = None
        names = self._book().sheet_names
        if not names:
            raise InputError(f"{path} has no sheets")
        if wanted is None:
            self.name = str(names[0])
        elif isinstance(wanted, int):
            if wanted > len(names):
                raise InputError(
                    f"{path} has no sheet {wanted}: input.sheet goes from 1 to {len(names)} ({_listed(names)})"
                )
            self.name = str(names[wanted - 1])
        elif wanted in names:
            self.name = wanted
        else:
            raise InputError(f"{path} has no sheet {wanted!r}, which input.sheet names; there are: {_listed(names)}")
        # Which of several is read, where the job does not say.
        several = wanted is None and len(names) > 1
        self.note = f"the first of {len(names)} sheets is read: {_listed(names)}" if several else None

    def _book(self) -> Any:
        try:
            import fastexcel
        except ImportError:
            raise InputError(f"{self._path}: {_MISSING}") from None
        logger = logging.getLogger("fastexcel")
        if not logger.handlers:  # what it says of columns without values would go to standard error
            logger.addHandler(logging.NullHandler())
        try:
            return fastexcel.read_excel(str(on_disk(self._path)))
        except (fastexcel.FastExcelError, *DAMAGED) as error:
            raise fault(self._path, "is no workbook that can be read", error, _first_line(error)) from None

    @property
    def frame(self) -> pl.DataFrame:
        """Its rows, but for those that are empty; a column is a number, a date or a truth value if all of its cells are.

        :raises InputError: if it cannot be read.
        """
        try:
            stat = self._path.stat()
        except OSError as error:
            raise InputError(f"{self._path} cannot be read: {error.strerror or error}") from None
        now = _Stat(stat.st_size, stat.st_mtime_ns)
        if self._frame is None or now != self._stat:
            self._frame, self._stat = self._read(), now
        return self._frame

    def _read(self) -> pl.DataFrame:
        import fastexcel
        import polars as pl

        self._check_header()
        try:
            return pl.read_excel(
                on_disk(self._path),
                sheet_name=self.name,
                engine="calamine",
                infer_schema_length=None,
                raise_if_empty=False,
            )
        except (fastexcel.FastExcelError, pl.exceptions.PolarsError, *DAMAGED) as error:
            raise InputError(f"{self._path}, sheet {self.name!r}, cannot be read: {_first_line(error)}") from None

    def _check_header(self) -> None:
        """What reads a sheet gives a second column of one name another."""
        import fastexcel

        try:
            header = self._book().load_sheet(self.name, header_row=None, n_rows=1, dtypes="string")
            names = [value for column in header.to_polars() for value in column if value is not None]
        except (fastexcel.FastExcelError, *DAMAGED):
            return  # it is empty, or reading it all will say what is wrong
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"{self._path}, sheet {self.name!r}: two columns have the same name, {twice!r}")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN_SHEETS} more" if len(names) > _SHOWN_SHEETS else ""
    return ", ".join(map(repr, names[:_SHOWN_SHEETS])) + more


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]


def read_sheet(reading: Reading, max_rows: int, position: int, skip: bytes) -> Iterator[Rows]:
    frame: pl.DataFrame = reading.how.frame
    for begin in range(0, frame.height, max_rows):
        end = min(begin + max_rows, frame.height)
        at = wanted(position + begin, position + end, skip)
        if at:
            found: list[Row | Fault] = [*frame[[row - position for row in at]].to_dicts()]
            yield Rows(position + end, found, at)
    yield Rows(position + frame.height, [], [])
