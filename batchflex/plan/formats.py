"""Files of rows, read in their formats: JSONL, CSV (each also ``.gz`` and ``.zst``) and Parquet; lazily.

A file that is written to while it is read is read as far as it went when the plan was made; what comes later is for a later run.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import io
import itertools
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import msgspec

from ..core import InputError, Row

PACKED = (".gz", ".zst")
BLOCK_BYTES = 4 << 20
_PROGRESS_ROWS = 100_000  # after so many passed over a reader tells where it is
_AT_ONCE = 1 << 18  # bytes
LONGEST_LINE = 256 << 20  # bytes; a file that unpacks to gigabytes without a newline does not fill the memory
_NEWLINE = 10


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


_csv = _own_csv()
# What the readers raise for a file that is damaged, besides what the system says of one that cannot be read.
DAMAGED = (OSError, EOFError, ValueError, zlib.error, _csv.Error, NotImplementedError)


class Fault(NamedTuple):
    """A row that cannot be read; the text says why."""

    text: str


class Rows(NamedTuple):
    """What a reader gives. ``end`` is the position after the last row it has passed, also of those passed over."""

    end: int
    rows: list[Row | Fault]
    at: Sequence[int]
    lines: list[int] | None = None


class Every:
    """In place of a byte for each row: all are to be passed over."""

    def __len__(self) -> int:
        return 1 << 62

    def __getitem__(self, at: int) -> int:
        return 1


class Reading(io.RawIOBase):
    """One file being read, from the byte ``begin``, before which it has ``lines`` lines, to the byte ``end`` (``None``: to its
    end). ``begin`` and ``end`` count in text files that are not packed.

    Once it is read, ``lines`` and ``bytes`` are those up to where the next row would begin, and ``digest`` is of all bytes
    before that, if it was given that of what comes before ``begin``. ``is_extensible`` tells that rows which are appended to the
    file change nothing in those that were read.
    """

    def __init__(
        self, path: Path, begin: int = 0, lines: int = 0, end: int | None = None, digest: hashlib._Hash | None = None
    ) -> None:
        self.path = path
        self.begin = self.bytes = begin
        self.lines = lines
        self.end = end
        self.digest = digest
        self.is_extensible = False
        self._last = _NEWLINE
        self._file: io.FileIO | None = None

    @property
    def is_packed(self) -> bool:
        return self.path.suffix.lower() in PACKED

    def open(self) -> IO[bytes]:
        if self.path.suffix.lower() == ".gz":
            return cast(IO[bytes], gzip.open(self.path, "rb"))
        if self.path.suffix.lower() == ".zst":
            import pyarrow

            return io.BufferedReader(pyarrow.input_stream(str(self.path), compression="zstd"), _AT_ONCE)
        self._file = self.path.open("rb", buffering=0)
        self._file.seek(self.begin)
        return cast(IO[bytes], io.BufferedReader(self, _AT_ONCE))

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        room = memoryview(buffer)
        if self.end is not None:
            room = room[: self.end - self.bytes]
        size = (self._file.readinto(room) or 0) if self._file is not None and room else 0
        if size:
            self.bytes += size
            self._last = room[size - 1]
            if self.digest is not None:
                self.digest.update(room[:size])
        return size

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()

    @property
    def ends_a_line(self) -> bool:
        return self._last == _NEWLINE

    def has_grown(self) -> bool:
        """Whether more was written to it meanwhile, so that what is left of a last line is only its beginning."""
        try:
            return self.end is not None and not self.is_packed and self.path.stat().st_size > self.end
        except OSError:
            return False

    def leave(self, length: int) -> None:
        """The last bytes are no row yet."""
        self.bytes -= length
        self._last = _NEWLINE
        if self.digest is not None:
            self.digest = digest(self.path, self.bytes)


def digest(path: Path, size: int | None = None) -> hashlib._Hash:
    """SHA-256 of a file, or of its first ``size`` bytes.

    :raises OSError: if it cannot be read.
    """
    found = hashlib.sha256()
    with path.open("rb", buffering=0) as stream:
        while data := stream.read(1 << 20 if size is None else min(1 << 20, size)):
            found.update(data)
            size = None if size is None else size - len(data)
    return found


def whole(path: Path, kind: str, begin: int, end: int) -> int:
    """Where a file that goes to the byte ``end`` for now ends without a last line that is being written; ``begin`` at least.
    A last line without line break may be whole in JSONL, where that can be seen.

    :raises OSError: if it cannot be read.
    """
    at, tail = end, b""
    with path.open("rb", buffering=0) as stream:
        while at > begin and b"\n" not in tail:
            size = min(1 << 16, at - begin)
            at -= size
            stream.seek(at)
            tail = stream.read(size) + tail
    tail = tail[tail.rfind(b"\n") + 1 :]
    if not tail or (kind == "jsonl" and (tail.isspace() or not isinstance(_parse(tail), Fault))):
        return end
    return end - len(tail)


_decode = msgspec.json.Decoder().decode


def passes_all(skip: bytes, begin: int, end: int) -> bool:
    """Whether all rows from ``begin`` to ``end`` are to be passed over."""
    return end <= len(skip) and skip.find(b"\0", begin, end) < 0


def wanted(begin: int, end: int, skip: bytes) -> Sequence[int]:
    """The positions from ``begin`` to ``end`` that are not to be passed over."""
    known = min(end, len(skip))
    if known <= begin or skip.count(b"\0", begin, known) == known - begin:
        return range(begin, end)
    return [at for at in range(begin, end) if at >= known or not skip[at]]


def read_jsonl(reading: Reading, max_rows: int, position: int, skip: bytes | Every) -> Iterator[Rows]:
    known = len(skip)
    rows: list[Row | Fault] = []
    at: list[int] = []
    lines: list[int] = []
    size = 0
    whole = True
    number = reading.lines
    with reading.open() as stream:
        for number, line in enumerate(iter(partial(stream.readline, LONGEST_LINE), b""), reading.lines + 1):
            if len(line) == LONGEST_LINE:
                raise InputError(_too_long(reading.path, number))
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if not line or line.isspace():
                continue
            if line[-1] != _NEWLINE and isinstance(_parse(line), Fault):
                if reading.has_grown():
                    reading.leave(len(line))
                    number -= 1
                    break
                whole = False
            if position >= known or not skip[position]:
                rows.append(_parse(line))
                at.append(position)
                lines.append(number)
                size += len(line)
            position += 1
            if len(rows) >= max_rows or size >= BLOCK_BYTES or position % _PROGRESS_ROWS == 0:
                yield Rows(position, rows, at, lines)
                rows, at, lines, size = [], [], [], 0
    reading.lines = number if reading.ends_a_line or not number else number - 1
    reading.is_extensible = whole and not reading.is_packed
    yield Rows(position, rows, at, lines)


def _too_long(path: Path, line: int) -> str:
    return f"{path}, line {line:,} is longer than {LONGEST_LINE >> 20} MB: that is no row, and would fill the memory"


def _parse(line: bytes) -> Row | Fault:
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


def _csv_cells(reading: Reading) -> tuple[io.TextIOWrapper, Any]:
    encoding = "utf-8" if reading.begin else "utf-8-sig"
    text = io.TextIOWrapper(reading.open(), encoding=encoding, errors="surrogateescape", newline="")
    return text, _csv.reader(
        _csv_lines(text, reading), delimiter="\t" if suffix(reading.path) == ".tsv" else ",", strict=True
    )


def _csv_lines(text: io.TextIOWrapper, reading: Reading) -> Iterator[str]:
    for number, line in enumerate(iter(partial(text.readline, LONGEST_LINE), ""), reading.lines + 1):
        if len(line) == LONGEST_LINE:
            raise InputError(_too_long(reading.path, number))
        yield line


def csv_header(path: Path) -> list[str]:
    """:raises InputError: if the file has no header that can be read."""
    try:
        text, reader = _csv_cells(Reading(path))
        with text:
            header: list[str] | None = next(reader, None)
    except DAMAGED as error:
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


def read_csv(reading: Reading, max_rows: int, position: int, skip: bytes | Every) -> Iterator[Rows]:
    path = reading.path
    header = csv_header(path)
    before = reading.lines
    text, reader = _csv_cells(reading)
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
            except _csv.Error as error:
                if is_torn := reading.has_grown():
                    break
                raise InputError(f"{path}, line {line}: {error}") from None
            if cells is None:
                break
            if not cells:
                continue
            if len(rows) >= max_rows or size >= BLOCK_BYTES:  # the last row stays at hand
                yield Rows(position, rows, at, lines)
                rows, at, lines, size = [], [], [], 0
            position += 1
            if position <= len(skip) and skip[position - 1]:
                if position % _PROGRESS_ROWS == 0:
                    yield Rows(position, [], [])
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
        # Its last cell may be cut off in the middle.
        if not reading.ends_a_line and rows and reading.has_grown():
            position -= 1
            del rows[-1], at[-1], lines[-1]
        reading.lines = before + reader.line_num
        reading.is_extensible = reading.ends_a_line and not is_torn and not reading.is_packed
        yield Rows(position, rows, at, lines)


def parquet_metadata(path: Path) -> Any:
    """:raises InputError: if it is no Parquet file."""
    import pyarrow.parquet as pq

    try:
        return pq.read_metadata(path)
    except DAMAGED as error:
        raise InputError(f"{path} is no Parquet file that can be read: {error}") from None


def parquet_schema(path: Path) -> Any:
    """As Arrow has it. :raises InputError: if it is no Parquet file."""
    return parquet_metadata(path).schema.to_arrow_schema()


def read_parquet(reading: Reading, max_rows: int, position: int, skip: bytes) -> Iterator[Rows]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(reading.path) as file:
        schema = pa.schema([field.with_type(without_ns(field.type)) for field in file.schema_arrow])
        rows_of_block = min(max_rows, _rows_of_block(file.metadata))
        for groups, end in _row_groups(file.metadata, position, skip):
            for batch in file.iter_batches(batch_size=rows_of_block, row_groups=groups) if groups else ():
                at = wanted(position, position + len(batch), skip)
                begin, position = position, position + len(batch)
                rows = (batch if schema == batch.schema else batch.cast(schema, safe=False)).to_pylist()
                yield Rows(position, rows if len(at) == len(rows) else [rows[row - begin] for row in at], at)
            position = end
    yield Rows(position, [], [])


def _row_groups(metadata: Any, position: int, skip: bytes) -> Iterator[tuple[list[int], int]]:
    """Row groups that are to be read together, none where all rows are passed over, and the position after them."""
    sizes = (int(metadata.row_group(number).num_rows) for number in range(metadata.num_row_groups))
    bounds = enumerate(itertools.pairwise(itertools.accumulate(sizes, initial=position)))
    for is_passed, groups in itertools.groupby(bounds, lambda group: passes_all(skip, *group[1])):
        found = list(groups)
        yield [] if is_passed else [number for number, _ in found], found[-1][1][1]


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


def suffix(path: Path) -> str:
    """``.jsonl`` of ``rows.jsonl.gz``."""
    return Path(path.stem).suffix.lower() if path.suffix.lower() in PACKED else path.suffix.lower()
