"""What rows carry in the input now, where that is not what was carried with their answers: ``carried.parquet``.

An entry counts in place of what the parts have for its key, in every table that is made. It comes from a pass over the input, and
may be deleted: then the next pass makes it again. CONTRACT.md is the reference of its columns.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ..core import FolderError, StorageError
from . import carried_columns, part_files
from .files import replaced, storing
from .output_folder import Folder
from .part_files import Footer

if TYPE_CHECKING:
    import polars as pl

    from ..core import SortedKeys

OWN = 2**32 - 1  # in place of the number of an entry: what was carried with the answer counts
_ENTRIES = pa.schema([("hi", pa.uint64()), ("lo", pa.uint64()), ("digest", pa.uint64()), ("carry", pa.string())])
_ID, _POSITIONS = b"batchflex.id", b"batchflex.positions"
_GROUP_ROWS, _GROUP_BYTES = 20_000, 8 << 20
_CACHE_BYTES = 16 << 20
_NOTHING = Footer({}, pa.schema([]), {})
Entries = npt.NDArray[np.uint32]  # their numbers


def identity(path: Path) -> str:
    """Another each time that the entries are others; empty if there are none."""
    return part_files.read_metadata(path)[0].get(_ID, b"").decode()


def is_in_step(folder: Folder) -> bool:
    """Whether the entries come from the same pass as ``positions.parquet``: no answer is known to belong to another row than it
    was given to without its carried columns having been compared then. Versions before wrote positions alone."""
    from . import part_index

    written = part_files.read_metadata(folder.carried)[0].get(_POSITIONS, b"").decode()
    return written == part_index.found_id(folder.positions)


class CarriedUpdates:
    """The entries that there are; none if there is no such file, or it is damaged. Memory: 28 bytes an entry once one is sought,
    and some 16 MB of what they carry.

    ``footer`` tells the kinds and types of the columns in them.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.id = ""
        self.footer = _NOTHING
        self._file: pq.ParquetFile | None = None
        self._keys: SortedKeys | None = None
        self._digest = np.zeros(0, np.uint64)
        self._begins, self._sizes = np.zeros(0, np.int64), list[int]()
        self._cache: OrderedDict[int, pa.ChunkedArray] = OrderedDict()
        try:
            file = pq.ParquetFile(path)
            own = file.metadata.metadata or {}
            if _ID in own and file.metadata.num_rows:
                self.id, self.footer, self._file = own[_ID].decode(), part_files.carried_footer(own), file
                sizes = [int(file.metadata.row_group(group).num_rows) for group in range(file.num_row_groups)]
                self._sizes, self._begins = sizes, np.cumsum([0, *sizes])[:-1]
        except (OSError, KeyError, ValueError, pa.ArrowException):
            self._file = None

    def __len__(self) -> int:
        return 0 if self._file is None else int(self._file.metadata.num_rows)

    @property
    def row_bytes(self) -> int:
        """About how much memory an entry takes."""
        return self.footer.size // max(1, len(self))

    def entries(self, keys: pl.DataFrame) -> Entries:
        """For each key (``hi``, ``lo``) the number of its entry, or ``OWN``.

        :raises FolderError: if the file is damaged.
        """
        if self._keys is None:
            import polars as pl

            from ..core import SortedKeys

            whole = pl.concat([pl.DataFrame(self._read(group, ["hi", "lo", "digest"])) for group in self._groups])
            self._keys, self._digest = SortedKeys(whole), whole["digest"].to_numpy()
        found = np.array(self._keys.find(keys), np.int64)
        return np.where(found < 0, OWN, found).astype(np.uint32)

    def digests(self, entries: Entries) -> npt.NDArray[np.uint64]:
        """Of what each of these entries carries; 0 for ``OWN``."""
        is_own = entries == OWN
        return np.where(is_own, np.uint64(0), self._digest[np.where(is_own, 0, entries)])

    def applied(self, table: pa.Table, entries: Entries) -> pa.Table:
        """Rows of parts with what these entries carry in place of their own.

        :raises FolderError: if the file is damaged.
        """
        at = np.flatnonzero(entries != OWN)
        if not len(at):
            return table
        texts = table.column("carry").to_pylist()
        for row, text in zip(at, self._texts(entries[at].astype(np.int64)), strict=True):
            texts[row] = text
        return table.set_column(table.column_names.index("carry"), "carry", pa.array(texts, pa.string()))

    def described(self, entries: Entries) -> Footer:
        """The kinds and types of the columns in these entries alone.

        :raises FolderError: if the file is damaged.
        """
        used = np.unique(entries).astype(np.int64)
        if len(used) == len(self):
            return self.footer
        found = Footer({}, pa.schema([]), {}, self.footer.size)
        for group in self._groups:
            begin, end = np.searchsorted(used, [self._begins[group], self._begins[group] + self._sizes[group]])
            here = self._load(group).take(pa.array(used[begin:end] - self._begins[group]))
            kinds, types = carried_columns.describe(here.to_pylist(), self.footer.types)
            found = part_files.together([found, Footer(kinds, types, {})])
        return found

    def batches(self) -> Iterator[pl.DataFrame]:
        """All entries: ``hi``, ``lo`` and ``carry``."""
        import polars as pl

        for group in self._groups:
            yield pl.DataFrame(self._read(group, ["hi", "lo", "carry"]))

    def _texts(self, entries: npt.NDArray[np.int64]) -> list[str | None]:
        groups = np.searchsorted(self._begins, entries, "right") - 1
        found: list[str | None] = [None] * len(entries)
        for group in np.unique(groups):
            at = np.flatnonzero(groups == group)
            here = self._load(int(group)).take(pa.array(entries[at] - self._begins[group]))
            for row, text in zip(at, here.to_pylist(), strict=True):
                found[row] = text
        return found

    def _load(self, group: int) -> pa.ChunkedArray:
        if group not in self._cache:
            column = self._read(group, ["carry"]).column("carry")
            while self._cache and column.nbytes + sum(c.nbytes for c in self._cache.values()) > _CACHE_BYTES:
                self._cache.popitem(last=False)
            self._cache[group] = column
        self._cache.move_to_end(group)
        return self._cache[group]

    @property
    def _groups(self) -> range:
        return range(len(self._begins))

    def _read(self, group: int, columns: list[str]) -> pa.Table:
        try:
            if self._file is None:
                return _ENTRIES.empty_table().select(columns)
            return self._file.read_row_group(group, columns=columns, use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise FolderError(f"{self._path} is damaged ({error}); remove it, and the next run makes it anew") from None


class UpdatesWriter:
    """Writes the file anew; the one that is there stays unless :meth:`keep` is called within the block.

    :raises StorageError: if it cannot be written, here and in its methods.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._frames: list[pl.DataFrame] = []
        self._rows = self._bytes = self._size = 0
        self._footer = _NOTHING
        self._digest = hashlib.blake2b(digest_size=16)
        self._open: contextlib.AbstractContextManager[object] | None = None
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> UpdatesWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._open is None:
            return
        opened, self._open = self._open, None
        if self._writer is not None:
            with contextlib.suppress(OSError, pa.ArrowException):
                self._writer.close()
        dropped = StorageError(f"{self._path} was not to be kept")
        opened.__exit__(StorageError, dropped, None)

    def add(self, keys: pl.DataFrame, texts: Sequence[str | None], types: pa.Schema | None) -> None:
        """Entries for these keys (``hi``, ``lo``). ``types`` are those of the input's columns, where it has any."""
        import polars as pl

        kinds, kept = carried_columns.describe(texts, types)
        self._footer = part_files.together([self._footer, Footer(kinds, kept, {})])
        digests = [1 if text is None else _digest(text) for text in texts]
        columns = [pl.Series("digest", digests, pl.UInt64), pl.Series("carry", texts, pl.String)]
        self._frames.append(keys.select("hi", "lo").hstack(columns))
        self._rows += len(texts)
        self._bytes += sum(len(text) for text in texts if text is not None)
        if self._rows >= _GROUP_ROWS or self._bytes >= _GROUP_BYTES:
            self._flush()

    def keep(self, positions: str) -> None:
        """Put it in its place. ``positions`` is the :func:`part_index.found_id` of what the same pass wrote; without that and
        without entries there is no file."""
        if not (self._frames or self._writer or positions):
            with storing(self._path):
                self._path.unlink(missing_ok=True)
            return
        self._flush()
        own = {_POSITIONS: positions.encode()}
        if self._size:
            # As part_files.metadata has an id of its own at random.
            own = (
                part_files.metadata(self._footer._replace(size=self._size))
                | own
                | {_ID: self._digest.hexdigest().encode()}
            )
        with storing(self._path):
            if self._writer is not None:
                self._writer.add_key_value_metadata(own)
                self._writer.close()
            if self._open is not None:
                opened, self._open = self._open, None
                opened.__exit__(None, None, None)

    def _flush(self) -> None:
        import polars as pl

        from ..core import raw

        with storing(self._path):
            if self._writer is None:
                self._open = opened = replaced(self._path)
                self._writer = pq.ParquetWriter(
                    opened.__enter__(), _ENTRIES, compression="zstd", write_statistics=False
                )
            if not self._frames:
                return
            whole = pl.concat(self._frames)
            for name in ("hi", "lo", "digest"):
                self._digest.update(raw(whole[name]))
            table = whole.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(_ENTRIES)
            self._size += table.nbytes
            self._writer.write_table(table)
        self._frames.clear()
        self._rows = self._bytes = 0


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
