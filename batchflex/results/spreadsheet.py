"""Rows as an Excel workbook with one sheet. Streams: what is written waits in a temporary file, not in memory."""

from __future__ import annotations

import datetime
import functools
import importlib.util
import math
import tempfile
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from ..core import JobError, MissingExtra, cell_values, text_tables
from .export_formats import Writer

MOST_ROWS = 1_048_575  # and the header
_MOST_COLUMNS = 16_384
_MOST_CHARS = 32_767  # of a cell, as UTF-16 has them
_EXACT = 10**15  # numbers have 15 digits
_FIRST_DAY = datetime.date(1900, 3, 1)  # before it Excel counts a day that there never was
_NARROWEST, _WIDEST = 6, 60
_SAMPLE_ROWS = 200  # that the widths go by
_DATE, _TIME, _MOMENT = "yyyy-mm-dd", "hh:mm:ss", "yyyy-mm-dd hh:mm:ss"

Write = Callable[[int, int, Any], Any]


def require() -> None:
    """:raises MissingExtra: if the package that writes workbooks is not installed."""
    if importlib.util.find_spec("xlsxwriter") is None:
        raise MissingExtra(
            "an Excel workbook needs a package that is not installed; install it with: pip install 'batchflex[excel]'"
        )


def require_room(rows: int, columns: int) -> None:
    """:raises JobError: if a sheet has not so many rows or columns."""
    if rows > MOST_ROWS:
        raise JobError(
            f"an Excel sheet has room for {MOST_ROWS:,} rows, and these are {rows:,}: choose some with --where, write a file "
            "for each value of a column with --split-by, or write .parquet or .csv"
        )
    if columns > _MOST_COLUMNS:
        raise JobError(
            f"an Excel sheet has room for {_MOST_COLUMNS:,} columns, and these are {columns:,}: name some with --columns"
        )


class Spreadsheet(Writer):
    """Text is never a formula nor a link. Numbers, truth values, dates and times are Excel's own, moments in UTC; numbers of more
    than 15 digits, which it would round, are text."""

    def __init__(self, stream: Any, schema: pa.Schema) -> None:
        require()
        import xlsxwriter

        require_room(0, len(schema))
        self._temporary = tempfile.TemporaryDirectory(prefix="batchflex-xlsx-")
        settings = {"constant_memory": True, "tmpdir": self._temporary.name, "remove_timezone": True}
        self._stream = _Lasting(stream)
        self._book = xlsxwriter.Workbook(self._stream, settings)
        self._book.use_zip64()  # only where it has to be
        self._sheet: Any = self._book.add_worksheet("results")
        self._rows = 0
        bold = self._book.add_format({"bold": True})
        self._names = [_fitting(name)[0] for name in schema.names]
        for at, name in enumerate(self._names):
            self._sheet.write_string(0, at, name, bold)
        self._sheet.freeze_panes(1, 0)
        self._widths = [text_tables.width(name) for name in self._names]
        self._writers = [self._writer(cell_values.csv_type(field.type)) for field in schema]

    def _writer(self, kind: pa.DataType) -> Write:
        """How the values of a column are written."""
        t = pa.types
        if t.is_boolean(kind):
            write: Write = self._sheet.write_boolean
            return write
        if t.is_integer(kind) or t.is_floating(kind) or t.is_decimal(kind):
            return self._write_number
        for is_it, shape in ((t.is_timestamp, _MOMENT), (t.is_date, _DATE), (t.is_time, _TIME)):
            if is_it(kind):
                look = self._book.add_format({"num_format": shape})
                return functools.partial(self._write_date, look)
        return self._write_text

    def _write_number(self, row: int, at: int, value: Any) -> None:
        is_exact = math.isfinite(value) if isinstance(value, float) else abs(value) < _EXACT
        if is_exact:
            self._sheet.write_number(row, at, float(value))
        else:
            self._sheet.write_string(row, at, str(value))

    def _write_date(self, look: Any, row: int, at: int, value: Any) -> None:
        if isinstance(value, datetime.datetime) and value.tzinfo is not None:
            value = value.astimezone(datetime.UTC)
        is_day = isinstance(value, datetime.date)  # also with a time
        day = value.date() if isinstance(value, datetime.datetime) else value
        if is_day and day < _FIRST_DAY:
            self._sheet.write_string(row, at, value.isoformat())
        else:
            self._sheet.write_datetime(row, at, value, look)

    def _write_text(self, row: int, at: int, value: Any) -> None:
        text, is_cut = _fitting(value if isinstance(value, str) else str(value))
        self.cut += is_cut
        self._sheet.write_string(row, at, text)

    def write(self, batch: pa.RecordBatch) -> None:
        require_room(self._rows + len(batch), len(self._writers))
        cells = pa.RecordBatch.from_arrays([cell_values.csv_cells(each) for each in batch.columns], batch.schema.names)
        if self._rows < _SAMPLE_ROWS:
            self._measure(cells.slice(0, _SAMPLE_ROWS))
        for row, values in enumerate(cell_values.rows(cells), self._rows + 1):
            for at, (write, value) in enumerate(zip(self._writers, values, strict=True)):
                if value is not None:
                    write(row, at, value)
        self._rows += len(batch)

    def _measure(self, sample: pa.RecordBatch) -> None:
        for at, column in enumerate(cell_values.columns(sample)):
            lines = (str(value)[: 2 * _WIDEST].partition("\n")[0] for value in column if value is not None)
            self._widths[at] = max(self._widths[at], max(map(text_tables.width, lines), default=0))

    def close(self) -> None:
        from xlsxwriter.exceptions import FileCreateError

        with self._temporary:
            for at, cells in enumerate(self._widths):
                self._sheet.set_column(at, at, min(_WIDEST, max(_NARROWEST, cells)) + 2)
            self._sheet.autofilter(0, 0, self._rows, max(0, len(self._widths) - 1))
            try:
                self._book.close()
            except FileCreateError as error:  # has the error that the system gave
                self._sheet._opt_close()
                raise (error.args[0] if isinstance(error.args[0], OSError) else error) from None
        if self._stream.failed is not None:
            raise self._stream.failed

    def drop(self) -> None:
        self._sheet._opt_close()
        self._temporary.cleanup()


class _Lasting:
    """A stream to which writing never fails, as what packs the workbook would try it again when it is thrown away. ``failed`` is
    why nothing more is written."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.failed: OSError | None = None

    def write(self, data: Any) -> int:
        if self.failed is None:
            try:
                self._stream.write(data)
            except OSError as error:
                self.failed = error
        return memoryview(data).nbytes

    def flush(self) -> None:
        pass


def _fitting(text: str) -> tuple[str, bool]:
    """As much of a text as a cell holds, and whether that is not all."""
    # Of text in these tags the library makes markup of its own, which it does not escape.
    if text.startswith("<r>") and text.endswith("</r>"):
        text += " "
    if len(text) * 2 <= _MOST_CHARS:
        return text, False
    encoded = text.encode("utf-16-le")
    if len(encoded) <= 2 * _MOST_CHARS:
        return text, False
    return encoded[: 2 * _MOST_CHARS].decode("utf-16-le", "ignore"), True
