"""Rows as Parquet, CSV, TSV, JSON or a spreadsheet, compressed or not, to an open stream."""

from __future__ import annotations

import codecs
import contextlib
import gzip
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet as pq

from ..core import cell_values

FORMATS = ("parquet", "csv", "tsv", "jsonl", "json", "xlsx")
PACKINGS = ("gz", "zst")
PACKED_ANYWAY = {"parquet": "Parquet", "xlsx": "an Excel workbook"}
_GROUP_ROWS, _GROUP_BYTES = 50_000, 16 << 20  # of Parquet: small ones make a large table slow to open
_GZIP_LEVEL = 6
# What begins so a spreadsheet computes, or may: after Owasp's page on CSV injection.
_FORMULA = r"\A[=+\-@\t\r\n＝＋－＠]"
_NUMBER = r"\A[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?\z"
_encode = msgspec.json.Encoder().encode


class Naming(NamedTuple):
    """What a file's name says of what is in it: the name up to that, the ``suffix``, and the format and compression that it
    stands for, if it does."""

    stem: str
    suffix: str
    format: str | None
    packing: str | None


def naming(path: Path) -> Naming:
    """``answers.csv.gz`` is ``answers`` and ``.csv.gz``, CSV and gzip; capitals do not matter."""
    name, packing = path.name, None
    if path.suffix.lower().removeprefix(".") in PACKINGS:
        packing = path.suffix.lower().removeprefix(".")
        name = name[: -len(path.suffix)]
    inner = Path(name)
    kind = inner.suffix.lower().removeprefix(".")
    stem = inner.stem
    return Naming(stem, path.name[len(stem) :], kind if kind in FORMATS else None, packing)


class Style(NamedTuple):
    """How cells are written, where a format leaves a choice: ``structured`` are the columns of JSON text that become objects in
    JSON, ``excel`` says that CSV is for a spreadsheet."""

    structured: frozenset[str] = frozenset()
    excel: bool = False


class Writer:
    """Takes rows by the batch, all with the schema it was made for. ``held`` are the bytes that wait in memory; they go with
    :meth:`flush`. Either :meth:`close` ends it, or :meth:`drop`, when what it has written is not wanted.

    ``defused`` are the cells that a spreadsheet would have taken for a formula, ``cut`` those with more text than one holds.
    """

    held = defused = cut = 0

    def write(self, batch: pa.RecordBatch) -> None:
        raise NotImplementedError

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass

    def drop(self) -> None:
        pass


def writer(
    kind: str, stream: IO[bytes], schema: pa.Schema, spill: Path | None = None, style: Style | None = None
) -> Writer:
    """A writer of one of :data:`FORMATS`. The stream stays open. With ``spill``, a folder, rows of Parquet wait in a file there
    without a name until they are all known: for one of many writers, whose row groups would be too small, and too many."""
    if kind == "parquet" and spill is not None:
        return _Spilled(_Onward(stream), schema, spill)
    onward: Any = _Onward(stream)
    style = style or Style()
    match kind:
        case "parquet":
            return _Parquet(onward, schema)
        case "csv" | "tsv":
            return _Csv(onward, schema, "," if kind == "csv" else "\t", style.excel)
        case "xlsx":
            from .spreadsheet import Spreadsheet

            return Spreadsheet(onward, schema)
    return (_Jsonl if kind == "jsonl" else _Json)(onward, schema, style.structured)


def packed(stream: IO[bytes], packing: str | None) -> IO[bytes]:
    """A stream that compresses into this one, which stays open when it is closed."""
    if packing == "gz":
        onward: Any = _Onward(stream)
        return gzip.GzipFile(filename="", fileobj=onward, mode="wb", compresslevel=_GZIP_LEVEL, mtime=0)  # type: ignore[return-value]
    if packing == "zst":
        into: IO[bytes] = pa.CompressedOutputStream(pa.PythonFile(_Onward(stream), "w"), "zstd")
        return into
    return _Onward(stream)  # type: ignore[return-value]


class _Onward:
    """Writes to a stream that stays open; knows where it is, which a pipe does not."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._at, self.closed = stream, 0, False

    def write(self, data: Any) -> int:
        self._stream.write(data)
        written = memoryview(data).nbytes
        self._at += written
        return written

    def tell(self) -> int:
        return self._at

    def flush(self) -> None:
        self._stream.flush()

    def close(self) -> None:
        self.closed = True

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False


class _Gathering(Writer):
    """Batches wait in memory until they are written as one table."""

    def __init__(self, schema: pa.Schema, writer: Any) -> None:
        self._schema, self._writer = schema, writer
        self._waiting: list[pa.RecordBatch] = []
        self._rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        self._waiting.append(batch)
        self._rows += len(batch)
        self.held += batch.nbytes

    def flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.Table.from_batches(self._waiting, self._schema).combine_chunks())
        self._waiting, self._rows, self.held = [], 0, 0

    def close(self) -> None:
        self.flush()
        self._writer.close()


class _Parquet(_Gathering):
    def __init__(self, stream: Any, schema: pa.Schema) -> None:
        super().__init__(schema, pq.ParquetWriter(stream, schema, compression="zstd"))

    def write(self, batch: pa.RecordBatch) -> None:
        super().write(batch)
        if self._rows >= _GROUP_ROWS or self.held >= _GROUP_BYTES:
            self.flush()

    def drop(self) -> None:
        with contextlib.suppress(OSError, pa.ArrowException):  # as on a full disk
            self._writer.close()


class _Spilled(_Gathering):
    def __init__(self, stream: Any, schema: pa.Schema, folder: Path) -> None:
        self._stream = stream
        self._spill = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by close and drop
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        super().__init__(schema, pa.ipc.new_stream(self._spill, schema, options=options))

    def close(self) -> None:
        super().close()
        self._spill.seek(0)
        with self._spill, contextlib.closing(_Parquet(self._stream, self._schema)) as into:
            for batch in pa.ipc.open_stream(self._spill):
                into.write(batch)

    def drop(self) -> None:
        self._spill.close()


class _Csv(Writer):
    def __init__(self, stream: Any, schema: pa.Schema, delimiter: str, excel: bool) -> None:
        self._stream, self._delimiter, self._excel = stream, delimiter, excel
        types = [cell_values.csv_type(field.type) for field in schema]
        names = schema.names
        if excel:
            types = [pa.timestamp("s") if pa.types.is_timestamp(kind) else kind for kind in types]
            names = self._defused(pa.array(names, pa.string())).to_pylist()
            stream.write(codecs.BOM_UTF8)
        self._schema = pa.schema(list(zip(names, types, strict=True)))
        self._write(self._schema.empty_table(), header=True)

    def write(self, batch: pa.RecordBatch) -> None:
        columns = [cell_values.csv_cells(column) for column in batch.columns]
        if self._excel:
            columns = [
                self._defused(column) if pa.types.is_string(kind) or pa.types.is_large_string(kind)
                else column.cast(kind, safe=False)
                for column, kind in zip(columns, self._schema.types, strict=True)
            ]  # fmt: skip
        self._write(pa.RecordBatch.from_arrays(columns, schema=self._schema), header=False)

    def _write(self, rows: pa.RecordBatch | pa.Table, *, header: bool) -> None:
        # Not one writer of pyarrow's for the whole file: each keeps room for the largest batch it has had.
        options = pyarrow.csv.WriteOptions(include_header=header, delimiter=self._delimiter)
        pyarrow.csv.write_csv(rows, self._stream, options)

    def _defused(self, column: pa.Array) -> pa.Array:
        """With an apostrophe before what a spreadsheet would compute. A number stays one."""
        is_formula = pc.and_not(pc.match_substring_regex(column, _FORMULA), pc.match_substring_regex(column, _NUMBER))
        found = pc.sum(is_formula).as_py() or 0
        if not found:
            return column
        self.defused += found
        return pc.if_else(
            is_formula,
            pc.binary_join_element_wise(pa.scalar("'", column.type), column, pa.scalar("", column.type)),
            column,
        )


class _Jsonl(Writer):
    def __init__(self, stream: Any, schema: pa.Schema, structured: frozenset[str]) -> None:
        self._stream, self._structured = stream, structured

    def write(self, batch: pa.RecordBatch) -> None:
        lines = self._lines(batch)
        self._stream.write(b"\n".join(lines) + b"\n" if lines else b"")

    def _lines(self, batch: pa.RecordBatch) -> list[bytes]:
        return list(map(_encode, objects(batch, self._structured)))


class _Json(_Jsonl):
    """One array, a row a line."""

    def __init__(self, stream: Any, schema: pa.Schema, structured: frozenset[str]) -> None:
        super().__init__(stream, schema, structured)
        stream.write(b"[")
        self._before = b"\n"

    def write(self, batch: pa.RecordBatch) -> None:
        if lines := self._lines(batch):
            self._stream.write(self._before + b",\n".join(lines))
            self._before = b",\n"

    def close(self) -> None:
        self._stream.write(b"\n]\n")


def objects(batch: pa.RecordBatch, structured: Collection[str]) -> Iterator[dict[str, Any]]:
    """Each row as JSON has it, by its columns; those of ``structured`` hold JSON, which becomes what it says."""
    columns = [
        list(map(_as_json, values)) if name in structured else values
        for name, values in zip(batch.schema.names, cell_values.columns(batch), strict=True)
    ]
    return (dict(zip(batch.schema.names, row, strict=True)) for row in zip(*columns, strict=True))


def _as_json(text: str | None) -> msgspec.Raw | str | None:
    """What a text says, if it is JSON, without white space between; else itself, as of a failure that came as a page."""
    if text is None:
        return None
    try:
        return msgspec.Raw(msgspec.json.format(text.encode(), indent=-1))
    except msgspec.DecodeError:
        return text
