"""Results in files of other formats, or on a stream: all or some of them, in one file or one for each value of a column.

Files are put in their places when all of them are whole, or not at all. Streams: memory does not grow with the table.
"""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from ..core import FolderError, JobError, malloc
from ..plan import input_files, points
from ..protocol import openai_batch
from ..storage import Folder, replaced, replacing, storing, sweep_columns
from . import export_formats, splitting, spreadsheet
from .live_table import job_of
from .query import Selected

if TYPE_CHECKING:
    import polars as pl

OPENAI_BATCH = "openai-batch"
FORMATS = (*export_formats.FORMATS, OPENAI_BATCH)
_ENDINGS = "should end in .parquet, .csv, .tsv, .jsonl, .json (.gz or .zst may follow these but the first) or .xlsx"
_FOR_SPREADSHEETS = ("csv", "tsv", "xlsx")
_HELD_BYTES = 48 << 20  # of all files of a split export together
_FEW = 16  # files, whose rows make row groups large enough within that
_OTHER_FILES = 64
_TRIMMED_EVERY = 8  # batches


class Target(NamedTuple):
    """Where rows go, ``None`` for standard output, and how they are written there. ``errors`` is the second file of
    ``openai-batch``; without it its lines go to the first one. ``excel`` says that CSV is for a spreadsheet."""

    path: Path | None
    format: str
    packing: str | None = None
    errors: Path | None = None
    excel: bool = False

    @property
    def is_stream(self) -> bool:
        """Whether it is standard output, or a pipe or a device, which nothing can take the place of."""
        return self.path is None or (self.path.exists() and not self.path.is_file())


class Written(NamedTuple):
    """A file and how many rows it has. ``defused`` and ``cut`` are as of a :class:`~.export_formats.Writer`."""

    path: Path | None
    rows: int
    defused: int = 0
    cut: int = 0


def target(folder: Folder, output: str, kind: str | None = None, *, excel: bool = False) -> Target:
    """What ``-o``, ``--format`` and ``--excel`` ask for.

    :raises JobError: if they do not fit each other.
    :raises MissingExtra: if the package for such a file is not installed.
    :raises FolderError: if no such file can be written, or it is one that the folder's runs keep.
    """
    found = _target(folder, output, kind)
    if excel and found.format not in _FOR_SPREADSHEETS:
        raise JobError("--excel is for CSV and TSV: name such a file with -o, or say --format csv")
    if found.format == "xlsx":
        spreadsheet.require()
    return found._replace(excel=excel)


def _target(folder: Folder, output: str, kind: str | None) -> Target:
    if output == "-":
        return Target(None, kind or "jsonl")
    path = Path(output)
    if path.is_dir():
        if kind != OPENAI_BATCH:
            raise FolderError(f"{path} is a folder; name a file in it")
        stem = f"batch_{folder.read_state().get('run_id', folder.path.name)}"
        return _allowed(folder, Target(path / f"{stem}_output.jsonl", kind, None, path / f"{stem}_error.jsonl"))
    if output.endswith("/"):
        raise FolderError(f"there is no folder {output} to write into")
    said = export_formats.naming(path)
    means = "jsonl" if kind == OPENAI_BATCH else kind
    if kind is None and said.format is None:
        raise FolderError(f"{path} {_ENDINGS}, or --format should say what to write")
    if means and said.format and said.format != means:
        raise JobError(f"--format {kind} does not go with the name {path.name}")
    if said.packing and (packed := export_formats.PACKED_ANYWAY.get(means or str(said.format))):
        raise FolderError(f"{path}: {packed} is compressed in itself; leave out .{said.packing}")
    errors = path.with_name(f"{said.stem}_errors{said.suffix or '.jsonl'}") if kind == OPENAI_BATCH else None
    return _allowed(folder, Target(path, kind or str(said.format), said.packing, errors))


def _allowed(folder: Folder, asked: Target) -> Target:
    for path in (asked.path, None if asked.is_stream else asked.errors):
        if path is not None:
            require_place(path)
            if folder.owns(path):
                raise FolderError(f"{path} is a file that the runs of {folder.path} keep; choose another name")
    return asked


def _spare_input(folder: Folder, paths: Sequence[Path]) -> None:
    """:raises FolderError: if one of them is a file that the rows came from."""
    there = [path for path in paths if path.is_file()]
    if there and folder.read_job() is not None:
        read = input_files(job_of(folder))
        if over := next((path for path in there if path.resolve() in read), None):
            raise FolderError(f"{over} is the input of {folder.path}; choose another name")


def require_place(path: Path) -> None:
    """:raises FolderError: if there is no such folder to write a file into."""
    if not path.parent.is_dir():
        raise FolderError(f"there is no folder {path.parent} to write {path.name} into")


def write(rows: Selected, to: Target, folder: Folder, stdout: IO[bytes]) -> list[Written]:
    """Write the rows as the target says.

    :raises JobError: if they are too many for a file of this kind.
    :raises FolderError: if it is the input that the rows came from.
    :raises StorageError: if they cannot be written; an older file stays as it is.
    """
    if to.format == "xlsx":
        spreadsheet.require_room(rows.rows, len(rows.columns))
    if to.is_stream:
        with _streaming(to.path, stdout) as stream:
            counts = _write(rows, [stream], to, folder)
            return [Written(to.path, sum(each.rows for each in counts), counts[0].defused, counts[0].cut)]
    paths = [path for path in (to.path, to.errors) if path is not None]
    _spare_input(folder, paths)
    with storing(paths[0]), replacing() as opened:
        counts = _write(rows, [opened(path.resolve()) for path in paths], to, folder)
    return [count._replace(path=path) for path, count in zip(paths, counts, strict=True)]


def _write(rows: Selected, streams: Sequence[IO[bytes]], to: Target, folder: Folder) -> list[Written]:
    if to.format == OPENAI_BATCH:
        return [Written(None, count) for count in _write_lines(rows, streams, to.packing, _ids(folder))]
    with _file(streams[0], to, rows) as into:
        for batch in rows.batches():
            into.write(rows.named(batch))
    return [Written(None, rows.rows, into.defused, into.cut)]


def _write_lines(rows: Selected, streams: Sequence[IO[bytes]], packing: str | None, ids: openai_batch.Ids) -> list[int]:
    counts = [0, 0]
    with contextlib.ExitStack() as stack:
        packed = [stack.enter_context(contextlib.closing(export_formats.packed(stream, packing))) for stream in streams]
        for batch in rows.batches(openai_batch.columns(ids, rows.whole.names)):
            for line, is_error in openai_batch.lines(batch, ids):
                packed[-1 if is_error else 0].write(line)
                counts[is_error] += 1
    return counts


def as_objects(rows: Selected, some: pa.Table) -> list[dict[str, Any]]:
    """Some of the rows as JSON has them."""
    return [row for batch in some.to_batches() for row in export_formats.objects(batch, rows.structured)]


def _ids(folder: Folder) -> openai_batch.Ids:
    if not folder.job.exists():
        return openai_batch.Ids({}, False)
    job = job_of(folder)
    sweep = sweep_columns(job.sweep.variables) if len(points(job)) > 1 else {}
    return openai_batch.Ids(sweep, job.sweep.samples > 1, job.route)


def split(rows: Selected, by: str, to: Target, folder: Folder) -> list[Written]:
    """Write a file for each value of a column: ``answers-VALUE.csv`` for ``answers.csv``. ``rows`` are read twice.

    :raises JobError: if there are more than 1,000 values, or the target is no file.
    :raises FolderError: if this process may not open so many files, or one is a file that the folder's runs keep or read.
    :raises StorageError: if they cannot be written; then none is.
    """
    if to.path is None or to.is_stream:
        raise JobError("--split-by writes several files: name them with -o FILE")
    by = rows.about.own(by)
    found = splitting.values((batch.column(0) for batch in rows.batches([by])), by)
    said = export_formats.naming(to.path)
    paths = {
        text: to.path.with_name(f"{said.stem}-{name}{said.suffix}") for text, name in splitting.names(found).items()
    }
    for path in paths.values():
        _allowed(folder, to._replace(path=path))
    _spare_input(folder, list(paths.values()))
    spill = to.path.resolve().parent if len(paths) > _FEW else None
    _open_files(2 * len(paths) if spill or to.format == "xlsx" else len(paths))
    read = rows.columns if by in rows.columns else [*rows.columns, by]
    counts = dict.fromkeys(paths, 0)
    with storing(to.path), replacing() as opened, contextlib.ExitStack() as stack:
        into = {
            text: stack.enter_context(_file(opened(path.resolve()), to, rows, spill)) for text, path in paths.items()
        }
        for number, batch in enumerate(_larger(rows.batches(read)) if len(paths) > _FEW else rows.batches(read)):
            for text, part in splitting.parts(batch, by):
                into[text].write(rows.named(part.select(rows.columns)))
                counts[text] += len(part)
            _let_go(list(into.values()))
            if number % _TRIMMED_EVERY == 0:  # many small arrays come and go, and leave memory in pieces
                malloc.trim()
    return [Written(path, counts[text], into[text].defused, into[text].cut) for text, path in paths.items()]


def _larger(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Batches put together: what each file gets of one should not be too little."""
    some: list[pa.RecordBatch] = []
    for batch in batches:
        some.append(batch)
        if sum(each.nbytes for each in some) >= _HELD_BYTES // 2:
            yield from pa.Table.from_batches(some).combine_chunks().to_batches()
            some = []
    if some:
        yield from pa.Table.from_batches(some).combine_chunks().to_batches()


def _let_go(files: list[export_formats.Writer]) -> None:
    """Those that hold the most write it, until all of them together hold little."""
    held = sum(each.held for each in files)
    if held <= _HELD_BYTES:
        return
    for each in sorted(files, key=lambda each: -each.held):
        held -= each.held
        each.flush()
        if held <= _HELD_BYTES // 2:
            return


def _open_files(files: int) -> None:
    enough = files + _OTHER_FILES
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < enough:
        raise FolderError(f"this process may open {soft:,} files, and {files:,} would be written; nothing was written")


@contextlib.contextmanager
def _file(stream: IO[bytes], to: Target, rows: Selected, spill: Path | None = None) -> Iterator[export_formats.Writer]:
    packed = export_formats.packed(stream, to.packing)
    structured = rows.structured if to.format in ("jsonl", "json") else frozenset[str]()
    writer = export_formats.writer(
        to.format, packed, rows.schema, spill, export_formats.Style(structured, excel=to.excel)
    )
    try:
        yield writer
    except BaseException:
        writer.drop()
        raise
    writer.close()
    packed.close()


@contextlib.contextmanager
def _streaming(path: Path | None, stdout: IO[bytes]) -> Iterator[IO[bytes]]:
    """Standard output, or a pipe or device. :class:`BrokenPipeError` if nobody listens any more."""
    try:
        with contextlib.nullcontext(stdout) if path is None else path.open("wb") as stream:
            yield stream
            stream.flush()
    except BrokenPipeError:
        raise
    except OSError:
        with storing(path or "standard output"):
            raise


def write_frame(frame: pl.DataFrame, path: Path) -> None:
    """Write a frame as the name says, in one of :data:`~.export_formats.FORMATS`; atomically.

    :raises MissingExtra: if the package for such a file is not installed.
    :raises FolderError: if the name says something else, or there is no such folder.
    :raises StorageError: if it cannot be written.
    """
    require_place(path)
    kind = export_formats.naming(path).format
    if kind is None or path.suffix.lower() != f".{kind}":
        raise FolderError(f"{path} should end in {', '.join(f'.{each}' for each in export_formats.FORMATS)}")
    if kind == "xlsx":
        spreadsheet.require()
    table = frame.to_arrow()
    with storing(path), replaced(path) as stream:
        writer = export_formats.writer(kind, stream, table.schema)
        for batch in table.to_batches():
            writer.write(batch)
        writer.close()
