"""Rows as Parquet, CSV or JSON lines, compressed or not, to an open stream."""

from __future__ import annotations

import contextlib
import gzip
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet as pq

from ..core import cell_values

FORMATS = ("parquet", "csv", "jsonl")
PACKINGS = ("gz", "zst")
_GROUP_ROWS, _GROUP_BYTES = 50_000, 16 << 20  # of Parquet: small ones make a large table slow to open
_GZIP_LEVEL = 6
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


class Writer:
    """Takes rows by the batch, all with the schema it was made for. ``held`` are the bytes that wait in memory; they go with
    :meth:`flush`. Either :meth:`close` ends it, or :meth:`drop`, when what it has written is not wanted."""

    held = 0

    def write(self, batch: pa.RecordBatch) -> None:
        raise NotImplementedError

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass

    def drop(self) -> None:
        pass


def writer(kind: str, stream: IO[bytes], schema: pa.Schema, spill: Path | None = None) -> Writer:
    """A writer of one of :data:`FORMATS`. The stream stays open. With ``spill``, a folder, rows of Parquet wait in a file there
    without a name until they are all known: for one of many writers, whose row groups would be too small, and too many."""
    if kind == "parquet" and spill is not None:
        return _Spilled(_Onward(stream), schema, spill)
    makers: dict[str, Callable[[Any, pa.Schema], Writer]] = {"parquet": _Parquet, "csv": _Csv, "jsonl": _Jsonl}
    return makers[kind](_Onward(stream), schema)


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
    def __init__(self, stream: Any, schema: pa.Schema) -> None:
        self._stream = stream
        self._schema = pa.schema([(field.name, cell_values.csv_type(field.type)) for field in schema])
        pyarrow.csv.write_csv(self._schema.empty_table(), stream)

    def write(self, batch: pa.RecordBatch) -> None:
        columns = [cell_values.csv_cells(column) for column in batch.columns]
        made = pa.RecordBatch.from_arrays(columns, schema=self._schema)
        # Not one writer of pyarrow's for the whole file: each keeps room for the largest batch it has had.
        pyarrow.csv.write_csv(made, self._stream, pyarrow.csv.WriteOptions(include_header=False))


class _Jsonl(Writer):
    def __init__(self, stream: Any, schema: pa.Schema) -> None:
        self._stream, self._names = stream, schema.names

    def write(self, batch: pa.RecordBatch) -> None:
        names = self._names
        lines = [_encode(dict(zip(names, row, strict=True))) for row in cell_values.rows(batch)]
        self._stream.write(b"\n".join(lines) + b"\n" if lines else b"")
