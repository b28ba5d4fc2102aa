"""Input files to blocks of raw rows: JSONL, CSV (each also ``.gz`` and ``.zst``) and Parquet; lazily.

A block is read, handed on and forgotten: memory does not grow with the input. What a row means is decided in
:mod:`batchflex.items`.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec

from .errors import InputError
from .model import Row

_FORMATS = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl",
    ".parquet": "parquet", ".pq": "parquet",
    ".csv": "csv", ".tsv": "csv",
}  # fmt: skip
_PACKED = (".gz", ".zst")
BLOCK_ROWS = 1_000
BLOCK_BYTES = 4 << 20


class Fault(NamedTuple):
    """A row that cannot be read; the text says why."""

    text: str


class Block(NamedTuple):
    """Consecutive rows of one file. ``start`` is the position of the first in the whole input, from 0.

    ``lines`` are the rows' line numbers where the file has lines, from 1.
    """

    file: str
    start: int
    rows: list[Row | Fault]
    lines: list[int] | None

    def where(self, index: int) -> str:
        """``reviews.jsonl, line 17`` for the row at ``index`` of this block."""
        if self.lines is not None:
            return f"{self.file}, line {self.lines[index]}"
        return f"{self.file}, row {self.start + index + 1}" if self.file else f"row {self.start + index + 1}"


class Source:
    """The rows of one or more files, in the order of the paths given; a folder's and a glob's files by name.

    :raises InputError: if nothing is there, or the kind of a file cannot be told.
    """

    def __init__(self, paths: str | list[str] | None, format: str = "auto", frame: Any = None) -> None:
        self._frame = frame
        if frame is not None:
            self.files: list[tuple[Path, str]] = []
            return
        if not paths:
            raise InputError("the job names no input: set input.path to a file, a folder or a pattern such as 'data/*.jsonl'")
        self.files = [(p, _format(p, format)) for p in _expand([paths] if isinstance(paths, str) else paths)]

    def blocks(self, max_rows: int = BLOCK_ROWS) -> Iterator[Block]:
        """All rows from the beginning, at most ``max_rows`` a block.

        :raises InputError: if a file cannot be opened or is damaged beyond single rows.
        """
        start = 0
        if self._frame is not None:
            for part in self._frame.iter_slices(max_rows):
                rows = part.to_dicts()
                yield Block("", start, rows, None)
                start += len(rows)
            return
        for path, kind in self.files:
            reader = {"jsonl": _read_jsonl, "csv": _read_csv, "parquet": _read_parquet}[kind]
            try:
                for rows, lines in reader(path, max_rows):
                    yield Block(path.name, start, rows, lines)
                    start += len(rows)
            except (OSError, EOFError, ValueError) as error:
                raise InputError(f"{path} cannot be read after row {start}: {error}") from error

    def columns(self) -> list[str] | None:
        """The columns of a table input, known before its rows are; ``None`` for JSONL, where each line may differ."""
        if self._frame is not None:
            return list(self._frame.columns)
        known: list[str] = []
        for path, kind in self.files:
            if kind == "jsonl":
                return None
            names = _parquet_schema(path).names if kind == "parquet" else _csv_header(path)
            known += [n for n in names if n not in known]
        return known

    def arrow_schema(self) -> Any | None:
        """The Arrow schema of a Parquet or frame input, so that carried columns keep their types; else ``None``."""
        if self._frame is not None:
            return self._frame.head(0).to_arrow().schema
        if self.files and all(kind == "parquet" for _, kind in self.files):
            return _parquet_schema(self.files[0][0])
        return None

    def count(self) -> int | None:
        """How many rows there are, where that costs no reading of the whole input; else ``None``."""
        if self._frame is not None:
            return int(self._frame.height)
        if all(kind == "parquet" for _, kind in self.files):
            import pyarrow.parquet as pq

            return sum(pq.read_metadata(path).num_rows for path, _ in self.files)
        if all(kind == "jsonl" and path.suffix not in _PACKED for path, kind in self.files):
            return sum(_count_lines(path) for path, _ in self.files)
        return None


def _expand(patterns: list[str]) -> list[Path]:
    found: list[Path] = []
    for pattern in patterns:
        path = Path(pattern).expanduser()
        if path.is_dir():
            here = sorted(p for p in path.rglob("*") if p.is_file() and _suffix(p) in _FORMATS and not p.name.startswith("."))
            if not here:
                raise InputError(f"the folder {path} has no .jsonl, .parquet or .csv file")
        elif path.exists():
            here = [path]
        elif any(c in pattern for c in "*?["):
            root = Path(path.anchor) if path.is_absolute() else Path()
            here = sorted(p for p in root.glob(str(path.relative_to(path.anchor))) if p.is_file())
            if not here:
                raise InputError(f"no file matches the input path {pattern}")
        else:
            raise InputError(f"there is no input file {path}")
        found += [p for p in here if p not in found]
    return found


def _suffix(path: Path) -> str:
    return Path(path.stem).suffix.lower() if path.suffix.lower() in _PACKED else path.suffix.lower()


def _format(path: Path, given: str) -> str:
    kind = given if given != "auto" else _FORMATS.get(_suffix(path))
    if kind is None:
        raise InputError(
            f"what {path} holds cannot be told from its name: name it .jsonl, .parquet or .csv (.gz and .zst may follow), "
            "or set input.format"
        )
    return kind


def _open(path: Path) -> BinaryIO:
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    if path.suffix.lower() == ".zst":
        import pyarrow

        return io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"), 1 << 18)
    return path.open("rb", buffering=1 << 18)


_decode = msgspec.json.Decoder().decode


def _read_jsonl(path: Path, max_rows: int) -> Iterator[tuple[list[Row | Fault], list[int]]]:
    rows: list[Row | Fault] = []
    lines: list[int] = []
    size = 0
    with _open(path) as stream:
        for number, line in enumerate(stream, 1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if line.isspace():
                continue
            rows.append(_parse(line))
            lines.append(number)
            size += len(line)
            if len(rows) >= max_rows or size >= BLOCK_BYTES:
                yield rows, lines
                rows, lines, size = [], [], 0
    if rows:
        yield rows, lines


def _parse(line: bytes) -> Row | Fault:
    try:
        row = _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return Fault(f"not valid JSON: {error}")
    if not isinstance(row, dict):
        return Fault(f"each line must be a JSON object; found {line.strip()[:40].decode('utf-8', 'replace')!r}")
    return row


def _csv_lines(path: Path) -> Any:
    text = io.TextIOWrapper(_open(path), encoding="utf-8-sig", newline="")
    return text, csv.reader(text, delimiter="\t" if _suffix(path) == ".tsv" else ",", strict=True)


def _csv_header(path: Path) -> list[str]:
    text, reader = _csv_lines(path)
    with text:
        try:
            return next(reader, [])
        except (csv.Error, UnicodeDecodeError) as error:
            raise InputError(f"{path}: the header cannot be read: {error}") from None


def _read_csv(path: Path, max_rows: int) -> Iterator[tuple[list[Row | Fault], list[int]]]:
    text, reader = _csv_lines(path)
    with text:
        header = next(reader, [])
        if len(set(header)) < len(header):
            raise InputError(f"{path}: two columns of the header have the same name")
        rows: list[Row | Fault] = []
        lines: list[int] = []
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                raise InputError(f"{path}, line {reader.line_num}: {error}") from None
            if not cells:
                continue
            if len(cells) == len(header):
                rows.append(dict(zip(header, cells, strict=True)))
            else:
                rows.append(Fault(f"has {len(cells)} cells, the header {len(header)}"))
            lines.append(reader.line_num)
            if len(rows) >= max_rows:
                yield rows, lines
                rows, lines = [], []
        if rows:
            yield rows, lines


def _parquet_schema(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_schema(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path} is no Parquet file that can be read: {error}") from None


def _read_parquet(path: Path, max_rows: int) -> Iterator[tuple[list[Row | Fault], None]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=max_rows):
            yield batch.to_pylist(), None


def _count_lines(path: Path) -> int:
    lines, last = 0, b"\n"
    with path.open("rb", buffering=0) as stream:
        while chunk := stream.read(1 << 20):
            lines += chunk.count(b"\n")
            last = chunk[-1:]
    return lines + (last != b"\n")
