"""The results of a folder, finished or not, and other formats of them. Streams: memory does not grow with the table."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from .assembly import assemble, is_newest
from .errors import FolderError
from .folder import Folder, replaced, storing
from .readers import without_ns

if TYPE_CHECKING:
    import polars as pl

_encode = msgspec.json.Encoder().encode
_BATCH_ROWS = 10_000
FORMATS = (".parquet", ".csv", ".jsonl")


class Results:
    """The table of a folder. Of a run that has not ended, or was killed: what there is by now.

    :raises FolderError: if there is no run in the folder.
    """

    def __init__(self, folder: Folder) -> None:
        folder.require()
        if is_current(folder):
            file = pq.ParquetFile(folder.results)
            self.schema: pa.Schema = file.schema_arrow
            self.rows = int(file.metadata.num_rows)
            self._batches: Iterable[pa.RecordBatch] = file.iter_batches(batch_size=_BATCH_ROWS)
        else:
            made = assemble(folder)
            self.schema, self.rows = made.schema, made.rows
            self._batches = (batch for part in made.batches for batch in part.to_batches())

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows in input order. Once only."""
        yield from self._batches

    def head(self, rows: int) -> pa.Table:
        """The first ``rows`` rows."""
        taken: list[pa.RecordBatch] = []
        for batch in self.batches():
            taken.append(batch.slice(0, rows))
            rows -= taken[-1].num_rows
            if rows <= 0:
                break
        return pa.Table.from_batches(taken, self.schema)


def is_current(folder: Folder) -> bool:
    """Whether ``results.parquet`` has all that is known: no run goes on, and no answer is newer."""
    return not folder.is_held() and is_newest(folder)


def write(results: Results, path: Path) -> None:
    """Write the table as Parquet, CSV or JSON lines, as the name says; atomically.

    :raises FolderError: if the name says something else, or there is no such folder.
    :raises StorageError: if it cannot be written.
    """
    _require_folder_of(path)
    writer = {".parquet": _parquet, ".csv": _csv, ".jsonl": _jsonl}.get(path.suffix.lower())
    if writer is None:
        raise FolderError(f"{path} should end in {', '.join(FORMATS)}")
    with storing(path), replaced(path) as stream:
        writer(results, stream)


def write_frame(frame: pl.DataFrame, path: Path) -> None:
    """Write a frame as Parquet, CSV or JSON lines, as the name says; atomically.

    :raises FolderError, StorageError: as :func:`write`.
    """
    _require_folder_of(path)
    writers: dict[str, Callable[[Any], Any]] = {
        ".parquet": frame.write_parquet, ".csv": frame.write_csv, ".jsonl": frame.write_ndjson,
    }  # fmt: skip
    if (writer := writers.get(path.suffix.lower())) is None:
        raise FolderError(f"{path} should end in {', '.join(FORMATS)}")
    with storing(path), replaced(path) as stream:
        writer(stream)


def _require_folder_of(path: Path) -> None:
    if not path.parent.is_dir():
        raise FolderError(f"there is no folder {path.parent} to write {path.name} into")


def _parquet(results: Results, stream: Any) -> None:
    with pq.ParquetWriter(stream, results.schema, compression="zstd") as writer:
        for batch in results.batches():
            writer.write_batch(batch)


def _csv(results: Results, stream: Any) -> None:
    schema = pa.schema([(f.name, pa.string() if _texter(f.type) else f.type) for f in results.schema])
    with pyarrow.csv.CSVWriter(stream, schema) as writer:
        for batch in results.batches():
            writer.write_batch(
                pa.RecordBatch.from_arrays([_as_text(column) for column in batch.columns], schema=schema)
            )


def _texter(kind: pa.DataType) -> Callable[[Any], str] | None:
    """How a value that CSV has no place for becomes text: lists as JSON, bytes in base64 as in JSON."""
    if pa.types.is_nested(kind):
        return lambda value: _encode(value).decode()
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return lambda value: base64.b64encode(value).decode()
    return None


def _as_text(column: pa.Array) -> pa.Array:
    texter = _texter(column.type)
    if texter is None:
        return column
    return pa.array([None if value is None else texter(value) for value in column.to_pylist()], pa.string())


def _jsonl(results: Results, stream: Any) -> None:
    schema = pa.schema([field.with_type(without_ns(field.type)) for field in results.schema])
    for batch in results.batches():
        rows = (batch if schema == batch.schema else batch.cast(schema, safe=False)).to_pylist()
        stream.write(b"".join(_encode(row) + b"\n" for row in rows))


def write_openai_batch(results: Results, path: Path) -> tuple[int, int]:
    """Write answers and failures as the OpenAI batch API does: ``path``, and beside it ``…_errors.jsonl``.

    Each line of ``path`` is ``{"id", "custom_id", "response": {"status_code", "request_id", "body"}, "error": null}``.
    Returns how many lines each file has.

    :raises FolderError: if there is no such folder.
    :raises StorageError: if they cannot be written.
    """
    _require_folder_of(path)
    errors = path.with_name(f"{path.stem}_errors{path.suffix or '.jsonl'}")
    written = [0, 0]
    with storing(path), replaced(path) as good, replaced(errors) as bad:
        for line, is_error in _batch_lines(results.batches()):
            (bad if is_error else good).write(line)
            written[is_error] += 1
    return written[0], written[1]


def _batch_lines(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[bytes, bool]]:
    for batch in batches:
        for row in batch.to_pylist():
            error = None
            if row["status"] == "failed":
                error = {"code": row["error_code"] or row["error_type"], "message": row["error_message"]}
            response = None
            if row["http_status"] is not None:
                body = _json_or_text(row["response"])
                request_id = body.get("id") if isinstance(body, dict) else None
                response = {"status_code": row["http_status"], "request_id": request_id, "body": body}
            line = {"id": f"batch_req_{row['key']}", "custom_id": row["id"], "response": response, "error": error}
            yield _encode(line) + b"\n", error is not None


def _json_or_text(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text


def stream_jsonl(results: Results, stream: BinaryIO | io.BufferedIOBase) -> None:
    """JSON lines to an open stream."""
    _jsonl(results, stream)
