"""Input files to blocks of raw rows: JSONL, CSV (each also ``.gz`` and ``.zst``) and Parquet; lazily.

A block is read, handed on and forgotten: memory does not grow with the input. What a row means is decided in
:mod:`batchflex.items`.
"""

from __future__ import annotations

import csv
import gzip
import io
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

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
_TOLD_ROWS = 100_000  # after so many passed over a reader tells where it is
# How long a file system may give the same time to two changes: some keep seconds only.
FINE_S = 0.05
_COARSE_S = 3.0
# What :meth:`Source.signature` tells of each file: path, format, inode, size, times of change.
Signature = tuple[tuple[str, str, int, int, int, int], ...]
# What the readers raise for a file that is damaged, besides what the system says of one that cannot be read.
_DAMAGED = (OSError, EOFError, ValueError, zlib.error, csv.Error, NotImplementedError)


class Fault(NamedTuple):
    """A row that cannot be read; the text says why."""

    text: str


class Block(NamedTuple):
    """Rows of one file, in their order. ``at`` are their positions in the whole input, from 0.

    ``lines`` are their line numbers, from 1, where the file has lines; ``first`` is the position of the file's first row.
    ``file`` is empty for a frame.
    """

    file: str
    rows: list[Row | Fault]
    at: Sequence[int]
    lines: list[int] | None
    first: int = 0

    def where(self, index: int) -> str:
        """``reviews.jsonl, line 17`` for the row at ``index`` of this block."""
        if self.lines is not None:
            return f"{self.file}, line {self.lines[index]}"
        row = self.at[index] - self.first + 1
        return f"{self.file}, row {row}" if self.file else f"row {row}"


class _Rows(NamedTuple):
    """What a reader gives. ``end`` is the position after the last row it has passed, also of those passed over."""

    end: int
    rows: list[Row | Fault]
    at: Sequence[int]
    lines: list[int] | None = None


class Source:
    """The rows of one or more files, in the order of the paths given; a folder's and a glob's files by name.

    Files inside the folder ``without`` are left out: a run may write into a folder that it reads.

    :raises InputError: if nothing is there, or the kind of a file cannot be told.
    """

    def __init__(
        self,
        paths: str | list[str] | None,
        format: str = "auto",
        frame: Any = None,
        without: Path | None = None,
    ) -> None:
        self._frame = frame
        if frame is not None:
            self.files: list[tuple[Path, str]] = []
            return
        if not paths:
            raise InputError(
                "the job names no input: set input.path to a file, a folder or a pattern such as 'data/*.jsonl'"
            )
        found = _expand([paths] if isinstance(paths, str) else paths)
        if without is not None and without.exists():
            found = [p for p in found if not p.resolve().is_relative_to(without.resolve())]
        self.files = [(p, _format(p, format)) for p in found]

    def blocks(
        self,
        max_rows: int = BLOCK_ROWS,
        skip: bytes = b"",
        signed: Signature | None = None,
        on_change: Callable[[Path], None] | None = None,
    ) -> Iterator[Block]:
        """The rows from the beginning, at most ``max_rows`` a block.

        ``skip`` has a byte for each of the first rows of the input. Those where it is not zero are passed over, which
        costs a fraction of reading them. ``on_change`` is called before a block of a file is given that is not, or no
        more, as it was ``signed``.

        :raises InputError: if a file cannot be opened or is damaged beyond single rows.
        """
        if self._frame is not None:
            for begin in range(0, self._frame.height, max_rows):
                at = _wanted(begin, min(begin + max_rows, self._frame.height), skip)
                if at:
                    yield Block("", self._frame[at].to_dicts(), at, None)
            return
        first = 0
        for number, (path, kind) in enumerate(self.files):
            reader = {"jsonl": _read_jsonl, "csv": _read_csv, "parquet": _read_parquet}[kind]
            end = first

            def heed_changes(path: Path = path, kind: str = kind, number: int = number) -> None:
                if signed is not None and on_change is not None and not _is_still(path, kind, signed[number]):
                    on_change(path)

            heed_changes()
            try:
                for read in reader(path, max_rows, first, skip):
                    end = read.end
                    if read.rows:
                        heed_changes()
                        yield Block(path.name, read.rows, read.at, read.lines, first)
            except _DAMAGED as error:
                raise InputError(f"{path} is damaged somewhere after row {end - first}: {error}") from error
            first = end

    def signature(self) -> Signature | None:
        """What tells that the files are still those that were read, without reading them: names, inodes, sizes and times.

        ``None`` if that cannot be told: of a frame, or while a file is so young that it might be written to again without
        getting another time.

        :raises InputError: if a file is gone.
        """
        if self._frame is not None:
            return None
        now = time.time_ns()
        found = tuple(_signed(path, kind) for path, kind in self.files)
        for _, _, _, _, modified, changed in found:
            newest = max(modified, changed)
            if newest > now - 1e9 * (_COARSE_S if newest % 1_000_000_000 == 0 else FINE_S):
                return None
        return found

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
        """How many rows there are, where that costs no unpacking and no parsing; else ``None``."""
        if self._frame is not None:
            return int(self._frame.height)
        if all(kind == "parquet" for _, kind in self.files):
            return sum(_parquet_rows(path) for path, _ in self.files)
        if all(kind == "jsonl" and path.suffix.lower() not in _PACKED for path, kind in self.files):
            return sum(_count_lines(path) for path, _ in self.files)
        return None


def _signed(path: Path, kind: str) -> tuple[str, str, int, int, int, int]:
    try:
        stat = path.stat()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    return str(path), kind, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _is_still(path: Path, kind: str, signed: tuple[str, str, int, int, int, int]) -> bool:
    """Whether a file is as it was; one that is gone is not, though what is open can be read to its end."""
    try:
        return _signed(path, kind) == signed
    except InputError:
        return False


def _expand(patterns: list[str]) -> list[Path]:
    found: dict[Path, None] = {}
    for pattern in patterns:
        path = _expanded_user(pattern)
        if "://" in pattern:
            raise InputError(
                f"the input {pattern} is not on this machine; copy it here and name the file in input.path"
            )
        if path.is_dir():
            here = sorted(p for p in path.rglob("*") if _is_input(p, path))
            if not here:
                raise InputError(f"the folder {path} has no .jsonl, .parquet or .csv file")
        elif path.exists():
            if not path.is_file():
                raise InputError(f"the input {path} is no file: it is read more than once, so write it into one first")
            here = [path]
        elif any(c in pattern for c in "*?["):
            here = sorted(_glob(path))
            if not here:
                raise InputError(f"no file matches the input path {pattern}")
        else:
            raise InputError(f"there is no input file {path}")
        found |= dict.fromkeys(here)
    return list(found)


def _expanded_user(pattern: str) -> Path:
    try:
        return Path(pattern).expanduser()
    except RuntimeError:  # there is no such user: then it is a name
        return Path(pattern)


def _is_input(path: Path, folder: Path) -> bool:
    return not _is_hidden(path, folder) and _suffix(path) in _FORMATS and path.is_file()


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _glob(pattern: Path) -> Iterator[Path]:
    """Files by a pattern; the folders at its beginning that exist are no pattern, whatever characters they have."""
    root, rest = Path(pattern.anchor), list(pattern.relative_to(pattern.anchor).parts)
    while rest and (root / rest[0]).exists():
        root /= rest.pop(0)
    asks_for_hidden = any(part.startswith(".") for part in rest)
    for path in root.glob("/".join(rest)):
        if path.is_file() and (asks_for_hidden or not _is_hidden(path, root)):
            yield path


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


def _open(path: Path) -> IO[bytes]:
    if path.suffix.lower() == ".gz":
        return cast(IO[bytes], gzip.open(path, "rb"))
    if path.suffix.lower() == ".zst":
        import pyarrow

        return io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"), 1 << 18)
    return path.open("rb", buffering=1 << 18)


_decode = msgspec.json.Decoder().decode


def _wanted(begin: int, end: int, skip: bytes) -> Sequence[int]:
    """The positions from ``begin`` to ``end`` that are not to be passed over."""
    known = min(end, len(skip))
    if known <= begin or skip.count(b"\0", begin, known) == known - begin:
        return range(begin, end)
    return [at for at in range(begin, end) if at >= known or not skip[at]]


def _read_jsonl(path: Path, max_rows: int, position: int, skip: bytes) -> Iterator[_Rows]:
    known = len(skip)
    rows: list[Row | Fault] = []
    at: list[int] = []
    lines: list[int] = []
    size = 0
    with _open(path) as stream:
        for number, line in enumerate(stream, 1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if not line or line.isspace():
                continue
            if position >= known or not skip[position]:
                rows.append(_parse(line))
                at.append(position)
                lines.append(number)
                size += len(line)
            position += 1
            if len(rows) >= max_rows or size >= BLOCK_BYTES or position % _TOLD_ROWS == 0:
                yield _Rows(position, rows, at, lines)
                rows, at, lines, size = [], [], [], 0
    yield _Rows(position, rows, at, lines)


def _parse(line: bytes) -> Row | Fault:
    try:
        row = _decode(line)
    except UnicodeDecodeError:
        return Fault("not valid UTF-8: save the file as UTF-8")
    except (msgspec.DecodeError, RecursionError) as error:
        return Fault(f"not valid JSON: {error}")
    if not isinstance(row, dict):
        return Fault(f"each line must be a JSON object; found {line.strip()[:40].decode('utf-8', 'replace')!r}")
    return row


def _csv_cells(path: Path) -> tuple[io.TextIOWrapper, Any]:
    # The csv module's own limit is 128 KB a cell, for the whole process.
    csv.field_size_limit(1 << 30)
    text = io.TextIOWrapper(_open(path), encoding="utf-8-sig", errors="surrogateescape", newline="")
    return text, csv.reader(text, delimiter="\t" if _suffix(path) == ".tsv" else ",", strict=True)


def _csv_header(path: Path) -> list[str]:
    try:
        text, reader = _csv_cells(path)
        with text:
            header: list[str] | None = next(reader, None)
    except _DAMAGED as error:
        raise InputError(f"{path}: the header cannot be read: {error}") from None
    if not header:
        raise InputError(f"{path} has no header: the first line of a CSV file names its columns")
    if not _is_utf8(header):
        raise InputError(f"{path} is not UTF-8: save it as UTF-8")
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise InputError(f"{path}: two columns have the same name, {twice!r}")
    return header


def _is_utf8(cells: list[str]) -> bool:
    """Bytes that were no UTF-8 are kept as surrogates, which cannot be encoded."""
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_csv(path: Path, max_rows: int, position: int, skip: bytes) -> Iterator[_Rows]:
    header = _csv_header(path)
    text, reader = _csv_cells(path)
    with text:
        rows: list[Row | Fault] = []
        at: list[int] = []
        lines: list[int] = []
        size = 0
        next(reader)
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                raise InputError(f"{path}, line {line}: {error}") from None
            if cells is None:
                break
            if not cells:
                continue
            position += 1
            if position <= len(skip) and skip[position - 1]:
                if position % _TOLD_ROWS == 0:
                    yield _Rows(position, [], [])
                continue
            if len(cells) != len(header):
                rows.append(Fault(f"has {len(cells)} cells, the header {len(header)}"))
            elif not _is_utf8(cells):
                rows.append(Fault("not valid UTF-8: save the file as UTF-8"))
            else:
                rows.append(dict(zip(header, cells, strict=True)))
            at.append(position - 1)
            lines.append(line)
            size += sum(map(len, cells))
            if len(rows) >= max_rows or size >= BLOCK_BYTES:
                yield _Rows(position, rows, at, lines)
                rows, at, lines, size = [], [], [], 0
        yield _Rows(position, rows, at, lines)


def _parquet_schema(path: Path) -> Any:
    import pyarrow.parquet as pq

    try:
        return pq.read_schema(path)
    except _DAMAGED as error:
        raise InputError(f"{path} is no Parquet file that can be read: {error}") from None


def _parquet_rows(path: Path) -> int:
    import pyarrow.parquet as pq

    try:
        rows = int(pq.read_metadata(path).num_rows)
    except _DAMAGED as error:
        raise InputError(f"{path} is no Parquet file that can be read: {error}") from None
    return rows


def _read_parquet(path: Path, max_rows: int, position: int, skip: bytes) -> Iterator[_Rows]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        schema = pa.schema([field.with_type(without_ns(field.type)) for field in file.schema_arrow])
        rows_of_block = min(max_rows, _rows_of_block(file.metadata))
        for groups, end in _row_groups(file.metadata, position, skip):
            for batch in file.iter_batches(batch_size=rows_of_block, row_groups=groups) if groups else ():
                at = _wanted(position, position + len(batch), skip)
                begin, position = position, position + len(batch)
                rows = (batch if schema == batch.schema else batch.cast(schema, safe=False)).to_pylist()
                yield _Rows(position, rows if len(at) == len(rows) else [rows[row - begin] for row in at], at)
            position = end
    yield _Rows(position, [], [])


def _row_groups(metadata: Any, position: int, skip: bytes) -> Iterator[tuple[list[int], int]]:
    """Row groups that are to be read together, none where all rows are passed over, and the position after them."""
    wanted: list[int] = []
    for number in range(metadata.num_row_groups):
        end = position + int(metadata.row_group(number).num_rows)
        if end <= len(skip) and skip.find(b"\0", position, end) < 0:
            if wanted:
                yield wanted, position
            wanted = []
            yield [], end
        else:
            wanted.append(number)
        position = end
    yield wanted, position


def without_ns(kind: Any) -> Any:
    """Python's times end at microseconds."""
    import pyarrow as pa

    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        return pa.timestamp("us", kind.tz)
    if pa.types.is_duration(kind) and kind.unit == "ns":
        return pa.duration("us")
    return pa.time64("us") if kind == pa.time64("ns") else kind


def _rows_of_block(metadata: Any) -> int:
    size = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    return max(1, BLOCK_BYTES * int(metadata.num_rows) // max(1, int(size)))


def _count_lines(path: Path) -> int:
    try:
        with path.open("rb", buffering=1 << 18) as stream:
            return sum(not line.isspace() for line in stream)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from None
