"""The table of results as it lies in an output folder: one file, or a folder with a file for each stretch of the rows.

``results/table.json`` names the files of the second kind, in order, and has what the footer of the first has. A file is never
changed: its name holds a digest of what it is made of. So a run writes only the stretches in which something is new, and the
table is another from the moment that ``table.json`` is replaced.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from ..core import StorageError
from . import part_files, results_table
from .files import LINKED, replaced, storing, sync_folder
from .folder import Folder
from .store import clear_temporaries

_MANIFEST = "table.json"
_STRETCH = re.compile(r"\d{6,}-[0-9a-f]{16}\.parquet")


class _File(msgspec.Struct, frozen=True):
    name: str
    rows: int


class _Manifest(msgspec.Struct, frozen=True):
    """``metadata`` is that of a table in one file, by the same names."""

    files: list[_File]
    metadata: dict[str, str]


class ResultsFiles:
    """The files of the table that there is, in the order of its rows; none if there is none. Its ``metadata`` and its number of
    ``rows`` are read here; nothing else is."""

    def __init__(self, folder: Folder) -> None:
        self.metadata: Mapping[bytes, bytes] = {}
        self.paths: list[Path] = []
        self.rows = 0
        manifest = _read(folder)
        self.is_folder = manifest is not None
        self._has_both = self.is_folder and folder.results.exists()
        if manifest is not None:
            self.paths = [folder.results_folder / file.name for file in manifest.files]
            self.rows = sum(file.rows for file in manifest.files)
            self.metadata = {name.encode(): value.encode() for name, value in manifest.metadata.items()}
        elif folder.results.exists():
            self.paths = [folder.results]
            self.metadata, self.rows = part_files.read_metadata(folder.results)

    def is_of_kind(self, *, as_folder: bool) -> bool:
        """Whether it is a folder, or a file, as it is to be, and nothing of the other kind lies beside it."""
        return self.is_folder == as_folder and not self._has_both

    @property
    def exists(self) -> bool:
        return bool(self.paths)

    @property
    def made_of(self) -> str:
        """A digest of what this table is made of; empty of tables of early versions."""
        return self.metadata.get(part_files.MADE_OF, b"").decode("ascii", "replace")

    @property
    def bytes(self) -> int:
        """:raises OSError: if a file is not there any more."""
        return sum(path.stat().st_size for path in self.paths)

    @property
    def is_readable(self) -> bool:
        return bool(self.paths) and all(map(part_files.is_readable, self.paths))

    def schema(self) -> pa.Schema:
        """:raises OSError, pyarrow.ArrowException: if it cannot be read."""
        return pq.read_schema(self.paths[0])

    def batches(self, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        """These columns, at most so many rows at a time.

        :raises OSError, pyarrow.ArrowException: if they cannot be read.
        """
        for path in self.paths:
            with pq.ParquetFile(path) as file:
                yield from file.iter_batches(batch_size=rows, columns=list(columns))


def _read(folder: Folder) -> _Manifest | None:
    try:
        return msgspec.json.decode((folder.results_folder / _MANIFEST).read_bytes(), type=_Manifest)
    except (OSError, msgspec.DecodeError):
        return None


def write(folder: Folder, assembled: results_table.Assembled, *, as_folder: bool = False) -> None:
    """Write the table, of which nobody ever sees a half, and remove one of the other kind.

    :raises StorageError: if it cannot be written; an older one stays as it is.
    """
    if as_folder:
        _write_stretches(folder, assembled)
        folder.results.unlink(missing_ok=True)
    else:
        results_table.write_results(folder.results, assembled)
        _remove(folder, keep=())


def _write_stretches(folder: Folder, assembled: results_table.Assembled) -> None:
    place = folder.results_folder
    if place.is_symlink():
        raise StorageError(f"{place} could not be written: {LINKED}")
    with storing(place):
        place.mkdir(exist_ok=True)
        sync_folder(place.parent)
    files = []
    for stretch in assembled.stretches():
        files.append(_File(f"{stretch.name}.parquet", stretch.rows))
        path = place / files[-1].name
        if not path.exists():
            results_table.write_results(path, assembled._replace(batches=stretch.batches(), metadata={}))
    manifest = _Manifest(files, {name.decode(): value.decode() for name, value in assembled.metadata.items()})
    with storing(place / _MANIFEST), replaced(place / _MANIFEST) as stream:
        stream.write(msgspec.json.encode(manifest) + b"\n")
    _remove(folder, keep=[file.name for file in files])


def _remove(folder: Folder, keep: Sequence[str]) -> None:
    """Remove the files of a table of the second kind but for these; all of it, if there are none to keep."""
    place = folder.results_folder
    if place.is_symlink() or not (place / _MANIFEST).exists():  # not ours
        return
    clear_temporaries(place)
    if not keep:
        (place / _MANIFEST).unlink()
    for path in place.iterdir():
        if _STRETCH.fullmatch(path.name) and path.name not in keep:
            path.unlink(missing_ok=True)
    if not keep and not any(place.iterdir()):
        place.rmdir()


def is_current(folder: Folder, assembled: results_table.Assembled, *, as_folder: bool = False) -> bool:
    """Whether the table that there is is this one already, of this kind, with the same metadata."""
    there = ResultsFiles(folder)
    same = there.is_of_kind(as_folder=as_folder) and assembled.metadata.items() <= there.metadata.items()
    return same and there.is_readable
