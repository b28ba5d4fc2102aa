"""A table as it lies in an output folder: one file, or a folder with a file for each stretch of the rows. Results and scores
are such tables.

``results-table.json`` names the files of the second kind, in order, and has what the footer of the first has. A file is never
changed: its name holds a digest of what it is made of. So a run writes only the stretches in which something is new, and the
table is another from the moment that ``results-table.json`` is replaced. It lies beside the folder, not in it, so that
whoever reads a folder of Parquet files can be given that.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from ..core import StorageError
from . import part_files, results_table, table_reuse
from .files import LINKED, replaced, storing, sync_folder
from .output_folder import Folder, manifest_of
from .places import Some, Stretch
from .results_columns import Origins
from .store import clear_temporaries

_EARLIER_MANIFEST = "table.json"  # in the folder, where no reader of a folder of Parquet files but ours expected it
_STRETCH = re.compile(r"\d{6,}-[0-9a-f]{16}\.parquet")


class TableFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """``parts`` are those with answers in it, ``layout`` a digest of where these are in the input."""

    name: str
    rows: int
    parts: list[int] = []
    layout: str = ""

    @property
    def number(self) -> int:
        return int(self.name.partition("-")[0])


class _Manifest(msgspec.Struct, frozen=True, omit_defaults=True):
    """``metadata`` is that of a table in one file, by the same names. Without a ``basis`` no stretch is known to stay as it
    is."""

    files: list[TableFile]
    metadata: dict[str, str]
    basis: table_reuse.Basis | None = None


class TableFiles:
    """The files of a table that there are, in the order of its rows; none if there is none. ``file`` and ``folder`` are where it
    may be. Its ``metadata`` and its number of ``rows`` are read here; nothing else is."""

    def __init__(self, file: Path, folder: Path) -> None:
        self.metadata: Mapping[bytes, bytes] = {}
        self.paths: list[Path] = []
        self.rows = 0
        manifest = _read(folder)
        self.is_folder = manifest is not None
        self._has_both = self.is_folder and file.exists()
        if manifest is not None:
            self.paths = [folder / each.name for each in manifest.files]
            self.rows = sum(each.rows for each in manifest.files)
            self.metadata = {name.encode(): value.encode() for name, value in manifest.metadata.items()}
        elif file.exists():
            self.paths = [file]
            self.metadata, self.rows = part_files.read_metadata(file)

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
    def carried(self) -> str:
        """The :func:`carried_updates.identity` of what this table was made with."""
        return self.metadata.get(part_files.MADE_OF_CARRIED, b"").decode("ascii", "replace")

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
            yield from batches_of(path, columns, rows)


class ResultsFiles(TableFiles):
    """The table of results of a folder."""

    def __init__(self, folder: Folder) -> None:
        super().__init__(folder.results, folder.results_folder)

    @property
    def origins(self) -> Origins | None:
        """Where its columns come from; ``None`` of tables of early versions, which do not say."""
        try:
            return msgspec.json.decode(self.metadata[part_files.ORIGINS], type=Origins)
        except (KeyError, msgspec.DecodeError):
            return None


class ScoresFiles(TableFiles):
    """The scores of a folder: with a file for each of the results'."""

    def __init__(self, folder: Folder) -> None:
        super().__init__(folder.scores, folder.scores_folder)


def batches_of(path: Path, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
    """These columns of one file, at most so many rows at a time.

    :raises OSError, pyarrow.ArrowException: if they cannot be read.
    """
    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(batch_size=rows, columns=list(columns))


def _read(folder: Path) -> _Manifest | None:
    if folder.is_dir():
        for path in (manifest_of(folder), folder / _EARLIER_MANIFEST):
            with contextlib.suppress(OSError, msgspec.DecodeError):
                return msgspec.json.decode(path.read_bytes(), type=_Manifest)
    return None


class Kept(NamedTuple):
    """Files of a table that stay as they are, and what is made anew beside them."""

    files: list[TableFile]
    basis: table_reuse.Basis
    anew: Some


def kept(source: table_reuse.Source) -> Kept | None:
    """What of the results of a folder need not be made anew; ``None`` if that cannot be told.

    :raises FolderError: if a part is damaged.
    """
    path = source.folder.results_folder
    there = _read(path)
    if there is None or there.basis is None or not there.files:
        return None
    changed = source.changed(there.basis)
    if changed is None:
        return None
    size, stay = there.basis.size, []
    for file in there.files:
        is_same = file.number not in changed and file.layout == source.rows_of(file.number, size)
        if is_same and part_files.is_readable(path / file.name):
            stay.append(file)
    if not stay:
        return None
    numbers = {int(number) for number in part_files.part_numbers(source.folder.parts) if number > there.basis.last}
    numbers.update(*(file.parts for file in there.files if file not in stay))
    return Kept(stay, there.basis, Some([file.number for file in stay], numbers, size))


def write(
    folder: Folder,
    assembled: results_table.Assembled,
    *,
    as_folder: bool = False,
    source: table_reuse.Source | None = None,
    kept: Kept | None = None,
) -> None:
    """Write the table, of which nobody ever sees a half, and remove one of the other kind. With a ``source`` the next run can
    tell what need not be made anew; what is ``kept`` is not.

    :raises StorageError: if it cannot be written; an older one stays as it is.
    """
    if as_folder:
        wanted, table = _manifest(folder, assembled, source, kept), TableFolder(folder.results_folder)
        stretches = {stretch.name: stretch for stretch in assembled.stretches()}
        for file in wanted.files:
            table.add(file, partial(_write_stretch, assembled, stretches.get(Path(file.name).stem)))
        table.commit(wanted.metadata, wanted.basis)
        folder.results.unlink(missing_ok=True)
    else:
        results_table.write_results(folder.results, assembled)
        remove_folder(folder.results_folder)


def _write_stretch(assembled: results_table.Assembled, stretch: Stretch | None, path: Path) -> None:
    if stretch is None:
        raise StorageError(f"{path} is gone; run the same command again, which makes it anew")
    results_table.write_results(path, assembled._replace(pieces=stretch.pieces(), metadata={}))


def _manifest(
    folder: Folder, assembled: results_table.Assembled, source: table_reuse.Source | None, kept: Kept | None
) -> _Manifest:
    """What is to be written of a table in a folder."""
    files = [] if kept is None else list(kept.files)
    for stretch in assembled.stretches():
        file = TableFile(f"{stretch.name}.parquet", stretch.rows)
        if source is not None:
            layout = source.rows_of(stretch.number, assembled.size)
            file = msgspec.structs.replace(file, parts=stretch.parts, layout=layout)
        files.append(file)
    files.sort(key=lambda file: file.number)
    metadata = {name.decode(): value.decode() for name, value in assembled.metadata.items()}
    names, stamp = [file.name for file in files], part_files.MADE_OF.decode()
    alike = [names, *(metadata.get(name.decode()) for name in (part_files.ORIGINS, part_files.MADE_OF_CARRIED))]
    there = _read(folder.results_folder)
    is_same = there is not None and [file.name for file in there.files] == names
    made_of = there.metadata.get(stamp) if there is not None and is_same else None
    metadata[stamp] = made_of or hashlib.blake2b(msgspec.json.encode(alike), digest_size=16).hexdigest()
    return _Manifest(files, metadata, None if source is None else source.basis(assembled))


class TableFolder:
    """Writes a table into a folder: the files that are not there yet, then the list of those that count.

    :raises StorageError: if it cannot be written, here and in its methods; the table that there was stays.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files: list[TableFile] = []
        if path.is_symlink():
            raise StorageError(f"{path} could not be written: {LINKED}")
        with storing(path):
            path.mkdir(exist_ok=True)
            sync_folder(path.parent)

    def add(self, file: TableFile, write: Callable[[Path], None]) -> None:
        """The next stretch; it is written only if there is none of that name, which says what it is made of."""
        self._files.append(file)
        path = self._path / file.name
        if not path.exists():
            write(path)

    def commit(self, metadata: Mapping[str, str], basis: table_reuse.Basis | None = None) -> None:
        """From now on the table is what was added; files that are none of it are removed."""
        manifest = manifest_of(self._path)
        with storing(manifest), replaced(manifest) as stream:
            stream.write(msgspec.json.encode(_Manifest(self._files, dict(metadata), basis)) + b"\n")
        (self._path / _EARLIER_MANIFEST).unlink(missing_ok=True)
        _remove(self._path, keep=[file.name for file in self._files])


def remove_folder(path: Path) -> None:
    """Remove a table that is a folder, if there is one."""
    manifests = (manifest_of(path), path / _EARLIER_MANIFEST)
    if path.is_symlink() or not any(manifest.exists() for manifest in manifests):  # not ours
        return
    for manifest in manifests:
        manifest.unlink(missing_ok=True)
    if path.is_dir():
        _remove(path, keep=())
        if not any(path.iterdir()):
            path.rmdir()


def _remove(path: Path, keep: Sequence[str]) -> None:
    clear_temporaries(path)
    for file in path.iterdir():
        if _STRETCH.fullmatch(file.name) and file.name not in keep:
            file.unlink(missing_ok=True)


def is_current(
    folder: Folder,
    assembled: results_table.Assembled,
    *,
    as_folder: bool = False,
    source: table_reuse.Source | None = None,
    kept: Kept | None = None,
) -> bool:
    """Whether the table that there is is this one already, of this kind, with the same metadata."""
    there, metadata = ResultsFiles(folder), assembled.metadata
    if not there.is_of_kind(as_folder=as_folder) or not there.is_readable:
        return False
    if as_folder:
        wanted, found = _manifest(folder, assembled, source, kept), _read(folder.results_folder)
        if found is None or [file.name for file in wanted.files] != [file.name for file in found.files]:
            return False
        if source is not None and (wanted.files, wanted.basis) != (found.files, found.basis):
            return False
        metadata = {name.encode(): value.encode() for name, value in wanted.metadata.items()}
    return metadata.items() <= there.metadata.items()
