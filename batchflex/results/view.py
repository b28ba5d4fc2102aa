"""The results of a folder as they are now: its table with the scores beside it, or, of a run that has not ended or was killed,
what is made of its parts. Streams: memory does not grow with the table."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ..core import FolderError
from ..storage import Folder, ResultsFiles, ScoresFiles, part_merging, results_table, storing, table_files
from .live_table import assemble, is_newest

Mask = npt.NDArray[np.bool_]
_BATCH_ROWS = 10_000
_BATCH_BYTES = 16 << 20


class Stored:
    """A table in one file or several, and the columns of a second one with the same rows beside it. May be read as often as one
    likes. ``own`` are the columns of the first.

    :raises FolderError: if it cannot be read.
    """

    def __init__(self, paths: Sequence[Path], scores: Sequence[Path] = ()) -> None:
        self.paths, self._scores = paths, scores
        try:
            self._stamp = _stamp(paths)
            self._files = [pq.ParquetFile(path) for path in paths]
            schema = self._files[0].schema_arrow
            self.own: list[str] = schema.names
            further = [f for f in pq.read_schema(scores[0]) if f.name not in self.own] if scores else []
        except (OSError, pa.ArrowException) as error:
            raise FolderError(f"{paths[0]} cannot be read: {error}") from None
        self.schema: pa.Schema = pa.schema([*schema.remove_metadata(), *further])
        self.rows = sum(int(file.metadata.num_rows) for file in self._files)

    def batches(self, columns: Sequence[str], wanted: Mask | None = None) -> Iterator[pa.RecordBatch]:
        """These columns, in this order, of all rows or of the ``wanted``; at most 10,000 rows and some 16 MB at a time, as
        long as no single row is larger."""
        own = [name for name in columns if name in self.own]
        beside = self._beside([name for name in columns if name not in self.own])
        for begin, batch in self._groups(own or self.own[:1], wanted if own == list(columns) else None):
            keep = None if wanted is None else wanted[begin : begin + len(batch)]
            made = beside(batch).select(list(columns))
            yield made if keep is None or keep.all() else made.filter(pa.array(keep))

    def _beside(self, columns: list[str]) -> Callable[[pa.RecordBatch], pa.RecordBatch]:
        """What puts these columns of the second table beside the batches of the first, one after the other."""
        if not columns or not self._scores:
            return lambda batch: batch
        batches = (b for path in self._scores for b in table_files.batches_of(path, columns, _BATCH_ROWS))
        fields = [self.schema.field(name) for name in columns]
        rows = part_merging.RowStream(_tables(batch.select(columns) for batch in batches), pa.schema(fields))

        def beside(batch: pa.RecordBatch) -> pa.RecordBatch:
            taken = rows.take(len(batch))
            arrays = [taken.column(name).combine_chunks() for name in columns]
            return pa.RecordBatch.from_arrays([*batch.columns, *arrays], schema=pa.schema([*batch.schema, *fields]))

        return beside

    def _groups(self, columns: list[str], wanted: Mask | None) -> Iterator[tuple[int, pa.RecordBatch]]:
        """The batches of these columns, each with the number of its first row; none of row groups that hold nothing wanted."""
        end = 0
        for file, number in [(each, at) for each in self._files for at in range(each.metadata.num_row_groups)]:
            group = file.metadata.row_group(number)
            begin, end = end, end + int(group.num_rows)
            if begin < end and (wanted is None or wanted[begin:end].any()):
                at_once = (end - begin) * _BATCH_BYTES // max(1, int(group.total_byte_size))
                at_once = max(1, min(_BATCH_ROWS, at_once))
                for batch in file.iter_batches(batch_size=at_once, row_groups=[number], columns=columns):
                    yield begin, batch
                    begin += len(batch)

    def scan(self, columns: Collection[str]) -> pl.LazyFrame:
        """The table as polars sees it, with the scores if one of these columns is among them.

        To be followed by :meth:`require_unchanged` when it has been collected.
        """
        results = pl.scan_parquet([*self.paths], glob=False)
        if not self._scores or {*columns} <= {*self.own}:
            return results
        further = [name for name in self.schema.names if name not in self.own]
        return pl.concat([results, pl.scan_parquet([*self._scores], glob=False).select(further)], how="horizontal")

    def require_unchanged(self) -> None:
        """:raises FolderError: if a file is another by now than the one that was opened."""
        if _stamp(self.paths) != self._stamp:
            raise FolderError(f"{self.paths[0]} was replaced while it was read; run the same command again")


class Made:
    """A table made of parts and journal. Its rows come once only."""

    def __init__(self, folder: Folder) -> None:
        made = assemble(folder)
        self.schema: pa.Schema = made.schema
        self.origins = made.layout.origins
        self.rows = made.rows
        self._tables = made.batches

    def batches(self, columns: Sequence[str], wanted: Mask | None = None) -> Iterator[pa.RecordBatch]:
        """These columns, in this order. To choose rows, it must be kept first: see :func:`keeping`."""
        if wanted is not None:
            raise ValueError("rows are chosen of a table that can be read twice")
        for each in self._tables:
            yield from each.select(list(columns)).to_batches(max_chunksize=_BATCH_ROWS)


def results_of(folder: Folder) -> Stored | Made:
    """What there is by now.

    :raises FolderError: if there is no run in the folder, or its files are damaged.
    """
    folder.require()
    if not is_current(folder):
        return Made(folder)
    return stored(folder)


def stored(folder: Folder) -> Stored:
    """The table that there is, with its scores if they are of that very table.

    :raises FolderError: if it cannot be read.
    """
    there = ResultsFiles(folder)
    return Stored(there.paths or [folder.results], ScoresFiles(folder).paths if are_scored(folder) else ())


def is_current(folder: Folder) -> bool:
    """Whether the table of results has all that is known: no run goes on, and no answer is newer."""
    return not folder.is_held() and is_newest(folder)


def are_scored(folder: Folder) -> bool:
    """Whether the scores are those of the very table that is there."""
    there = ResultsFiles(folder)
    try:
        made_of = msgspec.json.decode(folder.scores_json.read_bytes())["results"]
    except (OSError, msgspec.DecodeError, KeyError, TypeError):
        return False
    return there.rows == ScoresFiles(folder).rows and made_of is not None and made_of == there.made_of


@contextlib.contextmanager
def keeping(results: Stored | Made, columns: Sequence[str]) -> Iterator[Stored]:
    """A table that can be read more than once: itself, or these columns of it in a temporary file, where ``TMPDIR`` says.

    :raises StorageError: if there is no room for it.
    """
    if isinstance(results, Stored):
        yield results
        return
    with tempfile.TemporaryDirectory(prefix="batchflex-results-") as name:
        path = Path(name) / "results.parquet"
        schema = pa.schema([results.schema.field(column) for column in columns])
        with storing(path), pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for group in results_table.grouped(_tables(results.batches(columns))):
                writer.write_table(group)
        yield Stored([path])


def _tables(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    return (pa.Table.from_batches([batch]) for batch in batches)


def _stamp(paths: Sequence[Path]) -> list[tuple[int, int, int]]:
    return [(stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in (path.stat() for path in paths)]
